"""What a step works with: the record under its claim, the Atlas project it is on, and what several jobs need alike."""

from collections.abc import Mapping
from typing import Any, Generic

import structlog

from broker_api.catalog import Plan
from broker_api.config import BindingView, Config, InstanceView, Permissions
from broker_api.state.claims import AnyResource, Claim
from broker_api.state.records import Binding, Instance, Operation
from workers.atlas.client import AtlasClient, DatabaseUser, Refused, Role
from workers.clusters import Change, cluster_key
from workers.connections import PRIVATE_ENDPOINT, STANDARD, Way
from workers.outcome import ClusterGoneError, FailedError, Later, Next
from workers.parts import Parts

LABEL_BROKER, LABEL_INSTANCE, LABEL_BINDING = "atlas-broker", "instance_id", "binding_id"
LABEL_OPERATION = "operation"
UNSURE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Job(Generic[AnyResource]):
    """One operation under way in this worker."""

    def __init__(self, parts: Parts, claim: Claim[AnyResource]) -> None:
        self.parts = parts
        self.claim: Claim[AnyResource] = claim
        self.unanswered = False  # a request to make the user had no answer: it may be under way yet

    @property
    def record(self) -> AnyResource:
        """The instance or binding as it was when the claim was taken or last written."""
        return self.claim.record

    @property
    def operation(self) -> Operation:
        """Its operation."""
        return self.record.operation

    @property
    def config(self) -> Config:
        """The operator's hooks."""
        return self.parts.settings.config

    @property
    def atlas(self) -> AtlasClient:
        """The client of the record's Atlas project.

        Raises:
            FailedError: the workers have no credentials for that project (any more).
        """
        client = self.parts.projects.get(self.project)
        if client is None:
            raise FailedError(f"The broker has no credentials for the Atlas project {self.project}.")
        return client

    @property
    def project(self) -> str:
        """The record's project; what the old broker wrote is in the first one."""
        return self.record.project or next(iter(self.parts.projects))

    @property
    def cluster(self) -> str:
        """The record's cluster."""
        return self.record.cluster or ""

    def plan_of(self, instance: Instance) -> Plan:
        """An instance's plan, with what it pins, also when the operator has taken it out of the catalog."""
        return self.parts.catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)

    def way_to_connect(self, instance: Instance) -> Way:
        """Which of the cluster's connection strings serve an instance: the plan's, else the parameters'."""
        plan, parameters = self.plan_of(instance), instance.parameters
        kind = plan.connection or parameters.get("connection", STANDARD)
        return Way(kind, (plan.endpoint or parameters.get("endpoint")) if kind == PRIVATE_ENDPOINT else None)

    def is_ours(self, user: DatabaseUser) -> bool:
        """Say whether a user was made for this very record, under whichever operation."""
        mine = labels(self.parts, self.record)
        named = (LABEL_INSTANCE, LABEL_BINDING)
        return all(user.labels.get(label) == mine.get(label) for label in named)

    def wait_applied(self, step: str, changes: Mapping[str, Any] | None = None) -> Next:
        """Note that users of the cluster have just changed, and go on with the step that waits for it."""
        if not self.cluster:  # the old broker's binding of an instance that is gone: nobody knows where to look
            return Next(step, changes or {})
        change = self.parts.clusters.changed(self.project, self.cluster)
        return Next(step, changes or {}, {"changed": change.at, "overlapped": change.overlapped})

    def not_applied(self, *, cluster_needed: bool = False) -> Later | None:
        """Say when to look again; None once the change has reached the cluster, or there is no cluster any more.

        Raises:
            ClusterGoneError: there is no cluster any more, and what the operation makes is worth nothing without it.
        """
        if self.operation.changed is None:
            return None
        change = Change(self.operation.changed, self.operation.overlapped)
        try:
            applied = self.parts.clusters.is_applied(self.atlas, self.cluster, change)
        except Refused as error:
            if not error.cluster_missing:
                raise
            if cluster_needed:
                raise ClusterGoneError(self.cluster) from None
            return None
        return None if applied else self._look_again()

    def unsure(self) -> Later | None:
        """Say when to look again for a user whom a request without an answer may still make; None when none is left."""
        until = self.record.unsure_until
        if until is None or until <= self.parts.store.now():
            return None
        return Later(UNSURE_SECONDS, "Waiting in case a request that Atlas has not answered still makes the user.")

    def _look_again(self) -> Later:
        why = f"Waiting until Atlas has applied the change on the cluster {self.cluster}."
        return Later(1.0, why, operation={"waits_on": cluster_key(self.project, self.cluster)})


def labels(parts: Parts, found: Instance | Binding) -> dict[str, str]:
    """Give the labels of a user made for a record; ids and operation as the platform knows them."""
    named = {LABEL_BROKER: parts.housekeeping.broker_id(), LABEL_INSTANCE: found.instance_id}
    if isinstance(found, Binding):
        named[LABEL_BINDING] = found.binding_id
    return named | {LABEL_OPERATION: found.operation.id}


def user_of(parts: Parts, binding: Binding) -> DatabaseUser:
    """Give a binding's user as Atlas is asked for it, from what was settled and kept."""
    return DatabaseUser(
        username=binding.username or "",
        password=parts.vault.open(binding.sealed_credentials or "")["password"],
        roles=atlas_roles(binding.roles),
        scopes=(binding.cluster or "",),
        labels=labels(parts, binding),
        description="Made by Atlas Broker for a service binding",
        delete_after=binding.expires,
    )


def instance_view(config: Config, found: Instance, known: Mapping[str, str] | None = None) -> InstanceView:
    """Show an instance to hooks."""
    cluster = found.cluster or found.parameters.get(config.PARAMETER_CLUSTER) or ""
    return InstanceView(found.instance_id, found.parameters, cluster, found.database, known or {})


def binding_view(
    config: Config, binding: Binding, found: Instance, known: Mapping[str, str] | None = None
) -> BindingView:
    """Show a binding to hooks."""
    return BindingView(binding.binding_id, instance_view(config, found, known), binding.parameters)


def roles_of(config: Config, view: BindingView) -> list[dict[str, str]]:
    """Ask the hook for a binding's roles, in the form that is kept with the binding."""
    granted = config.generate_binding_permissions(view, Permissions())
    return [
        {"name": role.name, "database": role.database, **({"collection": role.collection} if role.collection else {})}
        for role in granted.roles
    ]


def atlas_roles(kept: list[dict[str, str]]) -> tuple[Role, ...]:
    """Give kept roles as the Atlas client takes them."""
    return tuple(Role(role["name"], role["database"], role.get("collection")) for role in kept)
