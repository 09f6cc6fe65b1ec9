"""The job of operations on Atlas: the record, the client of its project, connection strings, and waiting for Atlas."""

import time
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from structlog.contextvars import get_contextvars

from broker_api import tracing
from broker_api.catalog.catalog import Plan
from broker_api.errors import ErrStorageUnreadable, MissingKeyError, TamperedError, UndecryptableError
from broker_api.state.fields import AnyFields
from broker_api.state.operation_claims import Claim, Due
from broker_api.state.records import AnyResource, Binding, Instance, Kind, State
from workers.atlas.client import AtlasClient, AtlasError, ClusterNotFound, Refused, Unauthorized
from workers.clusters.change_status import Change, Status, cluster_key, pause_after
from workers.clusters.connection_strings import PRIVATE_ENDPOINT, STANDARD, Choice, ClusterGoneError, Strings
from workers.clusters.watcher import UNWATCHED_SECONDS, WAITING, Waiting
from workers.context import Context
from workers.engine.job import Job
from workers.engine.leases import Lease
from workers.engine.results import Done, FailedError, Later, Next, StepTrouble

LATE_EFFECT_LOOK_SECONDS = 5.0
_OF_GATEWAYS = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
SERVER_ERRORS = 12
"""After so many 500s in a row, while other calls succeed, a call counts as refused: Atlas answers some bad input so."""
OTHERS_SUCCEED = timedelta(minutes=1)
OPERATOR_SECONDS = 5.0
"""Pause before a retry that can only succeed after an operator or another release has changed something."""


OWN_CLUSTER_DEFINITION = "{} of an own cluster"
"""The name of the definition of an operation on an instance with a cluster of its own."""


class AtlasJob(Job[AnyResource]):
    """An operation that this worker runs, with Atlas clients that check its lease before each call."""

    project: str
    """The project of the record; records of atlasbroker 2.0.0 name none and belong to the first one."""
    cluster: str
    """The cluster of the record; empty while it is unknown."""

    def __init__(self, context: Context, claim: Claim[AnyResource], lease: Lease) -> None:
        self.context = context
        self.config = context.settings.config
        self._clients: dict[str, AtlasClient] = {}
        self._status: Status | None = None
        self._waiting: Waiting | None = None
        super().__init__(claim, lease)

    def update(self, claim: Claim[AnyResource]) -> None:
        """Replace the record by its latest version, and read its project and cluster."""
        self.claim, self.record, self.operation = claim, claim.record, claim.record.operation
        self.project = self.record.project or next(iter(self.context.projects))
        self.cluster = self.record.cluster or ""

    @property
    def definition_name(self) -> str:
        """The name of the definition, which for instances with a cluster of their own may be another one."""
        kind, record = self.operation.kind, self.record
        of_own = isinstance(record, Instance) and record.new_cluster and kind in (Kind.PROVISION, Kind.DEPROVISION)
        return OWN_CLUSTER_DEFINITION.format(kind) if of_own else str(kind)

    @property
    def atlas(self) -> AtlasClient:
        """The client of the record's project.

        Raises:
            FailedError: The workers have no credentials for that project.
        """
        return self._clients.get(self.project) or self.client(self.project)

    def client(self, project: str) -> AtlasClient:
        """Return the client of a project, whose calls are guarded by this operation's lease.

        Raises:
            FailedError: The workers have no credentials for that project.
        """
        if project not in self._clients:
            if project not in self.context.projects:
                raise FailedError(f"The broker has no credentials for the Atlas project {project}.")
            self._clients[project] = self.context.projects[project].guarded(self.lease)
        return self._clients[project]

    def classify(self, error: Exception) -> StepTrouble | None:
        """Classify an error of Atlas, a secret that no key decrypts, or a record that cannot be read.

        Returns:
            The sentence for the user and whether a retry can help; None for other exceptions.
        """
        if isinstance(error, MissingKeyError | ErrStorageUnreadable):
            return StepTrouble(str(error), retry_after=OPERATOR_SECONDS)
        if isinstance(error, UndecryptableError | TamperedError):
            return StepTrouble(str(error), retry=False)
        if not isinstance(error, AtlasError):
            return None
        where = f"the cluster {self.cluster}" if self.cluster else "the Atlas project"
        # Atlas was seen to answer 500 to a creation of a cluster that it carried out. A gateway does not know.
        definite = isinstance(error, Refused) and (
            error.status < HTTPStatus.INTERNAL_SERVER_ERROR
            or (isinstance(self.record, Binding) and error.status not in _OF_GATEWAYS)
        )
        # A key that lacks a role for this call, while other calls succeed, is not going to get it soon.
        may_be_refusal = isinstance(error, Unauthorized) or (
            isinstance(error, Refused) and error.status == HTTPStatus.INTERNAL_SERVER_ERROR
        )
        disguised_refusal = (
            may_be_refusal
            and self.operation.refusals >= SERVER_ERRORS
            and self.context.projects[self.project].breaker.succeeded_within(OTHERS_SUCCEED)
        )
        return StepTrouble(
            error.sentence(where),
            retry=error.retryable and not disguised_refusal,
            retry_after=error.retry_after or 0.0,
            late_effect=error.sent and not definite,
            refusal=may_be_refusal,
        )

    def plan_of(self, instance: Instance) -> Plan:
        """Return the plan of an instance: as it is in the catalog, or as the instance stores it."""
        return self.context.catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)

    def connection_choice(self, instance: Instance, plan: Plan | None = None) -> Choice:
        """Return which connection strings of the cluster an instance uses: by its plan, else by its parameters."""
        plan = plan or self.plan_of(instance)
        parameters = instance.parameters
        kind = plan.connection or parameters.get("connection", STANDARD)
        return Choice(kind, (plan.endpoint or parameters.get("endpoint")) if kind == PRIVATE_ENDPOINT else None)

    def connection_strings(self, instance: Instance, plan: Plan | None = None) -> Strings:
        """Return the connection strings of the cluster that an instance uses; the plan may be given if it is known.

        Raises:
            FailedError, ClusterGoneError, AtlasError: As in ``ConnectionStringCache.strings``.
        """
        client = self.client(instance.project or self.project)
        choice = self.connection_choice(instance, plan)
        return self.context.connection_strings.strings(client, instance.cluster or "", choice)

    def users_changed(self, wait: StrEnum, changes: AnyFields | None = None) -> Next[AnyFields]:
        """Record that Atlas has just accepted a change of the cluster's users.

        Args:
            wait: The step that waits until the change is applied.
            changes: Fields of the record to write.

        Returns:
            The result that continues with ``wait``.
        """
        if not self.cluster:  # a binding of atlasbroker 2.0.0 whose instance is gone: no cluster is known
            return Next(wait, changes)
        change, self._status = self.context.status.note_change(
            self.project,
            self.cluster,
            urgent=self.operation.kind == Kind.BIND,
            watched=self.context.watcher.watches(self.project, self.cluster),
        )
        # Repeated after a crash, the change finds its own effect in Atlas.
        return Next(wait, changes, {"changed": change.at, "overlapped": change.overlapped}, repeatable=True)

    def wait_until_applied(self, done: Done[Any] | None = None, *, cluster_needed: bool = False) -> Later[Any] | None:
        """Check whether Atlas has applied the change of this operation on the cluster.

        Args:
            done: The result of the operation when the change is applied, if nothing else is left to do then.
            cluster_needed: The operation fails if the cluster does not exist any more.

        Returns:
            The delay until the next check; None when the change is applied or the cluster does not exist any more.

        Raises:
            ClusterGoneError: The cluster does not exist any more, and ``cluster_needed``.
            AtlasError: Atlas cannot be asked.
        """
        if self.operation.changed is None:
            return None
        change, looked_at = Change(self.operation.changed, self.operation.overlapped), time.monotonic()
        statuses = self.context.status
        status, self._status = self._status, None
        if status is None:
            status = statuses.look(self.project, self.cluster)
            if self.operation.waits_on:  # the worker that watched the cluster is gone, and has left others too
                self.context.claims.make_all_due(cluster_key(self.project, self.cluster), unwatched=True)
        try:
            if status["turn"]:
                status = statuses.poll(self.atlas, self.cluster, status)
            statuses.raise_refusal(change, status)
        except ClusterNotFound:
            if cluster_needed:
                raise ClusterGoneError(self.cluster) from None
            return None
        if statuses.is_applied(change, status):
            return None
        record, operation = self.record, self.operation
        is_last = operation.state is State.IN_PROGRESS and not operation.undo and not record.legacy
        binding_id = record.binding_id if isinstance(record, Binding) else None
        due = Due(record.key, operation.kind, record.instance_id, binding_id, operation.id)
        done, progress = done if is_last else None, self.progress()
        fence, traced = self.claim.fence, tracing.traceparent()
        look_at = looked_at + pause_after(status)
        self._waiting = Waiting(due, fence, operation.step, change, done, progress, get_contextvars(), look_at, traced)
        waits_on = cluster_key(self.project, self.cluster)
        return Later(UNWATCHED_SECONDS, WAITING.format(self.cluster), operation={"waits_on": waits_on})

    def rescheduled(self) -> None:
        """Let the watcher of clusters end the operation, if it waits on a cluster."""
        if self._waiting:
            self.context.watcher.watch(self.project, self.cluster, self._waiting)

    def wait_for_late_effect(self) -> Later[Any] | None:
        """Return a delay while a request that creates a user or cluster may still take effect, else None."""
        until = self.record.unsure_until
        if until is None or until <= self.context.store.now():
            return None
        sentence = "Waiting in case a request that Atlas has not answered still has an effect."
        return Later(LATE_EFFECT_LOOK_SECONDS, sentence)
