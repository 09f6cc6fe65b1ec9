"""The job that a step receives: the claimed record and its lease."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic

from broker_api.state.fields import OperationFields, StepFields
from broker_api.state.mongo import In
from broker_api.state.operation_claims import Claim
from broker_api.state.records import AnyResource, Operation, StepLife, StepResult
from workers.engine.leases import Lease
from workers.engine.results import Done, Later, Result, StepTrouble
from workers.metrics import OperationTimes

LONGEST_REASON = 500
"""How many characters of a reason stay in the life of a step."""


@dataclass(frozen=True)
class StepRun:
    """A run of a step, for the life of the operation; times are in monotonic seconds."""

    step: str
    began: float
    ended: float
    result: Result[Any]


class Job(Generic[AnyResource]):
    """An operation that this worker runs. Subclasses add what the steps of their operations need."""

    claim: Claim[AnyResource]
    record: AnyResource
    """The instance or binding as it was when the claim was taken or last written."""
    operation: Operation
    """The operation of the record."""

    def __init__(self, claim: Claim[AnyResource], lease: Lease) -> None:
        self.lease = lease
        self.late_effect = False
        """Whether a request of the last step may still take effect although its answer was lost."""
        self._unwritten: tuple[Mapping[str, Any], OperationFields] = ({}, {})
        self.runs: list[StepRun] = []
        """The runs of steps since the last write."""
        self.update(claim)

    @property
    def definition_name(self) -> str:
        """The name of the definition that has the steps: the kind, or more exactly what the operation is about."""
        return str(self.operation.kind)

    def update(self, claim: Claim[AnyResource]) -> None:
        """Replace the record by its latest version.

        Args:
            claim: The claim that the latest write returned.
        """
        self.claim, self.record, self.operation = claim, claim.record, claim.record.operation

    def postpone_write(self, changes: Mapping[str, Any] | None, operation: OperationFields) -> None:
        """Change the record in this process only; the next write contains the changes.

        Args:
            changes: Fields of the instance or binding.
            operation: Fields of its operation.
        """
        before, fields = self._unwritten
        self._unwritten = ({**before, **(changes or {})}, {**fields, **operation})
        changed = {**(changes or {}), "operation": self.operation.model_copy(update={**operation})}
        self.update(replace(self.claim, record=self.record.model_copy(update=changed)))

    def take_unwritten(
        self, changes: Mapping[str, Any] | None, operation: OperationFields, following: str | None = None
    ) -> tuple[Any, OperationFields, dict[str, StepFields]]:
        """Return what the next write contains: also what ``postpone_write`` has left to it, and the runs of steps.

        Args:
            changes: Fields of the instance or binding that are written too.
            operation: Fields of the operation that are written too.
            following: The step that begins now, if one follows at once.

        Returns:
            All fields to write: of the instance or binding, of its operation, and of the steps that have run.
        """
        (postponed, of_operation), self._unwritten = self._unwritten, ({}, {})
        runs, self.runs = self.runs, []
        now, life = time.monotonic(), dict[str, StepFields]()
        for run in runs:
            how, reason = StepResult.DONE, None
            said = OperationFields() if isinstance(run.result, Done) else run.result.operation or OperationFields()
            if isinstance(run.result, Later):
                how, reason = StepResult.PUT_OFF, said.get("error") or run.result.description
            elif said.get("undo") and not self.operation.undo:
                how, reason = StepResult.FAILED, said.get("failure")
            known = self.operation.steps.get(run.step, StepLife())
            fields = life.setdefault(run.step, {"runs": known.runs})
            fields["runs"] += 1
            fields |= {"last": In(run.ended - now), "result": how, "worker": self.operation.worker}
            if known.first is None and "first" not in fields:
                fields["first"] = In(run.began - now)
            if reason:
                fields["reason"] = reason[:LONGEST_REASON]
        if following and following not in life:
            begun = following in self.operation.steps
            life[following] = {"result": None} if begun else {"first": In(0), "worker": self.operation.worker}
        return {**postponed, **(changes or {})}, {**of_operation, **operation}, life

    def progress(self) -> OperationTimes:
        """Return when the operation has reached its phases, for the metrics."""
        operation, now = self.operation, time.monotonic()
        return OperationTimes(
            operation.kind,
            now - self.lease.since(operation.first_claimed or self.lease.claim.at),
            now - self.lease.since(operation.changed) if operation.changed else None,
        )

    def rescheduled(self) -> None:
        """Called when the operation waits and this worker has released it."""

    def classify(self, error: Exception) -> StepTrouble | None:
        """Classify an exception that a step has raised.

        Returns:
            The sentence for the user and whether a retry can help; None for an unknown exception, which is a defect.
        """
        del error
        return None
