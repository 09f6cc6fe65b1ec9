"""What a step is given: the claimed record and its lease."""

from typing import Generic

from broker_api.state.operation_claims import Claim
from broker_api.state.records import AnyResource, Operation
from workers.engine.leases import Lease
from workers.engine.results import StepTrouble


class Job(Generic[AnyResource]):
    """One operation under way in this worker. Subclasses add what the steps of their operations need."""

    claim: Claim[AnyResource]
    record: AnyResource
    """The instance or binding as it was when the claim was taken or last written."""
    operation: Operation
    """The operation of the record."""

    def __init__(self, claim: Claim[AnyResource], lease: Lease) -> None:
        self.lease = lease
        self.late_effect = False
        """Whether a request of the last step may still take effect, since its answer was lost."""
        self.update(claim)

    def update(self, claim: Claim[AnyResource]) -> None:
        """Go on with the record as it was written last."""
        self.claim, self.record, self.operation = claim, claim.record, claim.record.operation

    def classify(self, error: Exception) -> StepTrouble | None:
        """Return what an exception of a step means; None for one that nothing is known about, which is a defect."""
        del error
        return None
