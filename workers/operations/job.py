"""What steps work with: the record, its Atlas project, and what several operations need."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from broker_api.catalog.catalog import Plan
from broker_api.config import BindingView, Config, InstanceView, Permissions
from broker_api.errors import ErrStorageUnreadable, UndecryptableError
from broker_api.state.fields import AnyFields
from broker_api.state.operation_claims import AnyResource, Claim
from broker_api.state.records import Binding, Instance, Resource
from workers.atlas.client import (
    AtlasClient,
    AtlasError,
    ClusterNotFound,
    DatabaseUser,
    Refused,
    Role,
    Unauthorized,
    UserAlreadyExists,
)
from workers.clusters.connection_strings import PRIVATE_ENDPOINT, STANDARD, ClusterGoneError, Strings, Way
from workers.clusters.status import Change, cluster_key
from workers.context import Context
from workers.engine.job import Job
from workers.engine.leases import Lease
from workers.engine.results import FailedError, Later, Next, Trouble
from workers.guard.guard import SERVER_ERROR, Guard

LABEL_BROKER, LABEL_INSTANCE, LABEL_BINDING = "atlas-broker", "instance_id", "binding_id"
LABEL_OPERATION = "operation"
UNANSWERED_LOOK_SECONDS = 5.0
SERVER_ERRORS = 12
"""A call that Atlas answers with 500 this often while others succeed is a refusal: some bad inputs give 500."""
OTHERS_SUCCEED = timedelta(minutes=1)
OPERATOR_SECONDS = 5.0
"""Pause before a retry that an operator, or workers of another release, must make possible."""


class AtlasJob(Job[AnyResource]):
    """One operation under way in this worker, with the calls to Atlas under its lease."""

    def __init__(self, context: Context, claim: Claim[AnyResource], lease: Lease) -> None:
        super().__init__(claim, lease)
        self.context = context
        self._clients: dict[str, tuple[AtlasClient, Guard]] = {}

    @property
    def config(self) -> Config:
        """The operator's hooks."""
        return self.context.settings.config

    @property
    def project(self) -> str:
        """The project of the record; what atlasbroker 2.0.0 wrote is in the first one."""
        return self.record.project or next(iter(self.context.projects))

    @property
    def cluster(self) -> str:
        """The cluster of the record."""
        return self.record.cluster or ""

    @property
    def atlas(self) -> AtlasClient:
        """The client of the record's project. Raises FailedError when there are no credentials for it (any more)."""
        return self.client(self.project)

    def client(self, project: str) -> AtlasClient:
        """Return the client of a project, whose calls are guarded by this operation's lease.

        Raises:
            FailedError: the workers have no credentials for that project.
        """
        if project not in self._clients:
            if project not in self.context.projects:
                raise FailedError(f"The broker has no credentials for the Atlas project {project}.")
            self._clients[project] = self.context.projects[project].guarded(self.lease)
        return self._clients[project][0]

    def begin_step(self) -> None:
        """Prepare for the next step: a probe of an open circuit breaker lasts one step."""
        for _, guard in self._clients.values():
            guard.begin_step()

    def trouble(self, error: Exception) -> Trouble | None:
        """Return what an error of Atlas, or a secret that cannot be decrypted, means for the operation."""
        if isinstance(error, UndecryptableError | ErrStorageUnreadable):
            return Trouble(str(error), retry_after=OPERATOR_SECONDS)
        if not isinstance(error, AtlasError):
            return None
        where = f"the cluster {self.cluster}" if self.cluster else "the Atlas project"
        sentence = f"{error} (for {where})"
        if isinstance(error, Unauthorized):
            sentence = f"Atlas refuses the broker's key for {where}; the broker's operator must look at it. {error}"
        return Trouble(
            sentence,
            retry=error.retryable and not self._is_disguised_refusal(error),
            retry_after=error.retry_after or 0.0,
            unanswered=error.sent and not isinstance(error, Refused),
        )

    def _is_disguised_refusal(self, error: AtlasError) -> bool:
        if not isinstance(error, Refused) or error.status != SERVER_ERROR or self.operation.attempts < SERVER_ERRORS:
            return False
        return self.context.projects[self.project].breaker.succeeded_within(OTHERS_SUCCEED)

    def plan_of(self, instance: Instance) -> Plan:
        """Return an instance's plan, with what it pins, also when it is not in the catalog any more."""
        return self.context.catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)

    def connection_way(self, instance: Instance) -> Way:
        """Return which of the cluster's connection strings serve an instance: the plan's, else the parameters'."""
        plan, parameters = self.plan_of(instance), instance.parameters
        kind = plan.connection or parameters.get("connection", STANDARD)
        return Way(kind, (plan.endpoint or parameters.get("endpoint")) if kind == PRIVATE_ENDPOINT else None)

    def connection_strings(self, instance: Instance) -> Strings:
        """Return the connection strings that serve an instance. Raises as ``ConnectionStringCache.strings`` does."""
        client = self.client(instance.project or self.project)
        way = self.connection_way(instance)
        return self.context.connection_strings.strings(client, instance.cluster or "", way)

    def is_ours(self, user: DatabaseUser) -> bool:
        """Return whether a user was made for this very record, under whichever operation."""
        mine = labels(self.context, self.record)
        return all(user.labels.get(label) == mine.get(label) for label in (LABEL_INSTANCE, LABEL_BINDING))

    def create_or_take_over(self, user: DatabaseUser) -> None:
        """Create a user, or set the password of the one that an earlier attempt of this operation has made.

        Raises:
            FailedError: a user of that name exists that was not made for this record; it is not touched.
            UserLimitReached: the project is full of users.
        """
        try:
            self.atlas.create_user(user)
        except UserAlreadyExists:
            if not self.is_ours(self.atlas.user(user.username)):
                what = "binding" if isinstance(self.record, Binding) else "instance"
                sentence = (
                    f"A database user {user.username} exists in the Atlas project and was not made for this {what}."
                )
                raise FailedError(sentence, refused=True) from None
            self.context.claims.renew(self.claim)  # still held after all that time? Else the user is another worker's.
            self.atlas.update_user(
                user.username, password=user.password, roles=user.roles, labels=user.labels, scopes=user.scopes
            )

    def wait_applied(self, step: StrEnum, changes: AnyFields | None = None) -> Next[AnyFields]:
        """Record that users of the cluster have just changed, and go on with the step that waits for it."""
        if not self.cluster:  # a binding of atlasbroker 2.0.0 whose instance is gone: no cluster is known
            return Next(step, changes)
        change = self.context.status.note_change(self.project, self.cluster)
        return Next(step, changes, {"changed": change.at, "overlapped": change.overlapped})

    def not_applied(self, *, cluster_needed: bool = False) -> Later[Any] | None:
        """Return when to look again; None once the change has reached the cluster, or the cluster is gone.

        Raises:
            ClusterGoneError: the cluster is gone, and what the operation makes is worth nothing without it.
        """
        if self.operation.changed is None:
            return None
        change = Change(self.operation.changed, self.operation.overlapped)
        try:
            if self.context.status.is_applied(self.atlas, self.cluster, change):
                return None
        except ClusterNotFound:
            if cluster_needed:
                raise ClusterGoneError(self.cluster) from None
            return None
        sentence = f"Waiting until Atlas has applied the change on the cluster {self.cluster}."
        return Later(1.0, sentence, operation={"waits_on": cluster_key(self.project, self.cluster)})

    def unanswered_create(self) -> Later[Any] | None:
        """Return a delay while a create whose answer was lost may still take effect, else None."""
        until = self.record.unsure_until
        if until is None or until <= self.context.store.now():
            return None
        sentence = "Waiting in case a request that Atlas has not answered still makes the user."
        return Later(UNANSWERED_LOOK_SECONDS, sentence)


def labels(context: Context, record: Resource) -> dict[str, str]:
    """Return the labels of a user made for a record; ids and operation as the platform knows them."""
    named = {LABEL_BROKER: context.housekeeping.broker_id(), LABEL_INSTANCE: record.instance_id}
    if isinstance(record, Binding):
        named[LABEL_BINDING] = record.binding_id
    return named | {LABEL_OPERATION: record.operation.id}


def binding_user(context: Context, binding: Binding) -> DatabaseUser:
    """Return a binding's user as Atlas is asked for it, from what was settled and stored."""
    return DatabaseUser(
        username=binding.username or "",
        password=context.vault.open(binding.sealed_credentials or "")["password"],
        roles=atlas_roles(binding.roles),
        scopes=(binding.cluster or "",),
        labels=labels(context, binding),
        description="Made by Atlas Broker for a service binding",
        delete_after=binding.expires,
    )


def instance_view(
    config: Config, instance: Instance | Binding, strings: Mapping[str, str] | None = None
) -> InstanceView:
    """Return an instance as hooks see it."""
    cluster = instance.cluster or instance.parameters.get(config.PARAMETER_CLUSTER) or ""
    return InstanceView(instance.instance_id, instance.parameters, cluster, instance.database, strings or {})


def binding_view(
    config: Config, binding: Binding, instance: Instance | Binding, strings: Mapping[str, str] | None = None
) -> BindingView:
    """Return a binding as hooks see it."""
    return BindingView(binding.binding_id, instance_view(config, instance, strings), binding.parameters)


def hook_roles(config: Config, view: BindingView) -> list[dict[str, str]]:
    """Return a binding's roles as the hook gives them, in the form that is stored with the binding."""
    granted = config.generate_binding_permissions(view, Permissions())
    return [
        {"name": role.name, "database": role.database, **({"collection": role.collection} if role.collection else {})}
        for role in granted.roles
    ]


def atlas_roles(stored: list[dict[str, str]]) -> tuple[Role, ...]:
    """Return stored roles as the Atlas client takes them."""
    return tuple(Role(role["name"], role["database"], role.get("collection")) for role in stored)
