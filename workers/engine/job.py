"""The job that a step receives: the claimed record and its lease."""

from typing import Generic

from broker_api.state.operation_claims import Claim
from broker_api.state.records import AnyResource, Operation
from workers.engine.leases import Lease
from workers.engine.results import StepTrouble


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
        self.update(claim)

    def update(self, claim: Claim[AnyResource]) -> None:
        """Replace the record by its latest version.

        Args:
            claim: The claim that the latest write returned.
        """
        self.claim, self.record, self.operation = claim, claim.record, claim.record.operation

    def classify(self, error: Exception) -> StepTrouble | None:
        """Classify an exception that a step has raised.

        Returns:
            The sentence for the user and whether a retry can help; None for an unknown exception, which is a defect.
        """
        del error
        return None
