"""What steps work with: the record, its Atlas project, the cluster's connection strings, and reasons to wait."""

from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from broker_api.errors import ErrStorageUnreadable, UndecryptableError
from broker_api.state.fields import AnyFields
from broker_api.state.operation_claims import Claim
from broker_api.state.records import AnyResource, Instance
from workers.atlas.client import AtlasClient, AtlasError, ClusterNotFound, Refused, Unauthorized
from workers.clusters.connection_strings import PRIVATE_ENDPOINT, STANDARD, Choice, ClusterGoneError, Strings
from workers.clusters.status import Change, cluster_key
from workers.context import Context
from workers.engine.job import Job
from workers.engine.leases import Lease
from workers.engine.results import FailedError, Later, Next, StepTrouble

LATE_EFFECT_LOOK_SECONDS = 5.0
SERVER_ERRORS = 12
"""A call that Atlas answers with 500 this often while others succeed is a refusal: some bad inputs give 500."""
OTHERS_SUCCEED = timedelta(minutes=1)
OPERATOR_SECONDS = 5.0
"""Pause before a retry that an operator, or workers of another release, must make possible."""


class AtlasJob(Job[AnyResource]):
    """One operation under way in this worker, with the calls to Atlas under its lease."""

    project: str
    """The project of the record; what atlasbroker 2.0.0 wrote is in the first one."""
    cluster: str
    """The cluster of the record; empty while none is known."""

    def __init__(self, context: Context, claim: Claim[AnyResource], lease: Lease) -> None:
        self.context = context
        self.config = context.settings.config
        self._clients: dict[str, AtlasClient] = {}
        super().__init__(claim, lease)

    def update(self, claim: Claim[AnyResource]) -> None:
        """Go on with the record as it was written last."""
        super().update(claim)
        self.project = self.record.project or next(iter(self.context.projects))
        self.cluster = self.record.cluster or ""

    @property
    def atlas(self) -> AtlasClient:
        """The client of the record's project.

        Raises:
            FailedError: the workers have no credentials for that project.
        """
        return self._clients.get(self.project) or self.client(self.project)

    def client(self, project: str) -> AtlasClient:
        """Return the client of a project, whose calls are guarded by this operation's lease.

        Raises:
            FailedError: the workers have no credentials for that project.
        """
        if project not in self._clients:
            if project not in self.context.projects:
                raise FailedError(f"The broker has no credentials for the Atlas project {project}.")
            self._clients[project] = self.context.projects[project].guarded(self.lease)
        return self._clients[project]

    def classify(self, error: Exception) -> StepTrouble | None:
        """Return what an error of Atlas, or a secret that cannot be decrypted, means for the operation."""
        if isinstance(error, UndecryptableError | ErrStorageUnreadable):
            return StepTrouble(str(error), retry_after=OPERATOR_SECONDS)
        if not isinstance(error, AtlasError):
            return None
        where = f"the cluster {self.cluster}" if self.cluster else "the Atlas project"
        sentence = f"{error} (for {where})"
        if isinstance(error, Unauthorized):
            sentence = f"Atlas refuses the broker's key for {where}; the broker's operator must look at it. {error}"
        refused = isinstance(error, Refused)
        disguised_refusal = (
            isinstance(error, Refused)
            and error.status == HTTPStatus.INTERNAL_SERVER_ERROR
            and self.operation.attempts >= SERVER_ERRORS
            and self.context.projects[self.project].breaker.succeeded_within(OTHERS_SUCCEED)
        )
        return StepTrouble(
            sentence,
            retry=error.retryable and not disguised_refusal,
            retry_after=error.retry_after or 0.0,
            late_effect=error.sent and not refused,
        )

    def connection_choice(self, instance: Instance) -> Choice:
        """Return which of the cluster's connection strings serve an instance: the plan's, else the parameters'."""
        plan = self.context.catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)
        parameters = instance.parameters
        kind = plan.connection or parameters.get("connection", STANDARD)
        return Choice(kind, (plan.endpoint or parameters.get("endpoint")) if kind == PRIVATE_ENDPOINT else None)

    def connection_strings(self, instance: Instance) -> Strings:
        """Return the connection strings that serve an instance.

        Raises:
            FailedError, ClusterGoneError, AtlasError: as ``ConnectionStringCache.strings``.
        """
        client = self.client(instance.project or self.project)
        choice = self.connection_choice(instance)
        return self.context.connection_strings.strings(client, instance.cluster or "", choice)

    def users_changed(self, wait: StrEnum, changes: AnyFields | None = None) -> Next[AnyFields]:
        """Record that users of the cluster have just changed, and go on with the step that waits for it."""
        if not self.cluster:  # a binding of atlasbroker 2.0.0 whose instance is gone: no cluster is known
            return Next(wait, changes)
        change = self.context.status.note_change(self.project, self.cluster)
        return Next(wait, changes, {"changed": change.at, "overlapped": change.overlapped})

    def wait_until_applied(self, *, cluster_needed: bool = False) -> Later[Any] | None:
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

    def wait_for_late_effect(self) -> Later[Any] | None:
        """Return a delay while a create whose answer was lost may still take effect, else None."""
        until = self.record.unsure_until
        if until is None or until <= self.context.store.now():
            return None
        sentence = "Waiting in case a request that Atlas has not answered still makes the user."
        return Later(LATE_EFFECT_LOOK_SECONDS, sentence)
