"""Declaration of an operation: its steps in order, and the steps that remove what it has created."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic

from broker_api.state.records import AnyResource
from workers.engine.results import Result

StepFunction = Callable[[Any], Result[Any]]
"""Takes a job and returns the result of the step. A step may run twice, so it checks before it acts."""


@dataclass(frozen=True)
class Definition(Generic[AnyResource]):
    """One kind of operation.

    Attributes:
        steps: The functions of the steps by name; the operation begins with the first one.
        undo: The steps that remove what the operation has created. They run when it has failed for good or has reached
            its deadline.
        undo_may_fail: An undo step that fails again and again is left out (``UNDO_ATTEMPTS``). Otherwise it is tried
            without an end, since it would leave something behind in Atlas.
        late_effects: The steps whose request to Atlas may still take effect when its answer was lost.
        on_lease_lost: Called with the job when this worker has lost its lease.
    """

    steps: Mapping[StrEnum, StepFunction]
    undo: Mapping[StrEnum, StepFunction]
    undo_may_fail: bool = False
    late_effects: frozenset[StrEnum] = frozenset()
    on_lease_lost: Callable[[Any], None] | None = None
