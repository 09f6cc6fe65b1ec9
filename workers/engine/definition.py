"""How an operation is declared: its steps in order, and the steps that remove what it made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic

from broker_api.state.operation_claims import AnyResource
from broker_api.state.records import Operation
from workers.engine.job import Job
from workers.engine.results import Result

Step = Callable[[Any], Result[Any]]


def nothing_left(job: Job[Any]) -> None:
    """Default of ``Definition.abandoned``: nothing has to be cleaned up."""


@dataclass(frozen=True)
class Definition(Generic[AnyResource]):
    """One kind of operation. The first entry of ``steps`` begins it, the first of ``undo`` begins the removal.

    ``undo`` runs when the operation has failed for good or has reached its deadline. ``unanswered`` names the steps
    whose call to Atlas may take effect after its answer was lost. ``abandoned`` runs when a worker has lost its lease.
    """

    steps: Mapping[StrEnum, Step]
    undo: Mapping[StrEnum, Step]
    unanswered: frozenset[StrEnum] = frozenset()
    abandoned: Callable[[Any], None] = nothing_left

    def step(self, operation: Operation) -> tuple[str, Step] | None:
        """Return name and function of the next step; None for a step that only another release knows.

        An operation that has not begun has the step "": the API need not know the name of the first one.
        """
        declared = self.undo if operation.undo else self.steps
        for name, function in declared.items():
            if operation.step in ("", name.value):
                return name.value, function
        return None
