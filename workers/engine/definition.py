"""How an operation is declared: its steps in order, and the steps that remove what it made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic

from broker_api.state.records import AnyResource
from workers.engine.results import Result

StepFunction = Callable[[Any], Result[Any]]
"""Takes a job. Every step looks before it acts, or can be run twice."""


@dataclass(frozen=True)
class Definition(Generic[AnyResource]):
    """One kind of operation. The first entry of ``steps`` begins it, the first of ``undo`` begins the removal.

    ``undo`` runs when the operation has failed for good or has reached its deadline. ``late_effects`` names the steps
    that send a request which may take effect after its answer was lost. ``on_lease_lost`` is called with the job when
    this worker has lost its lease.
    """

    steps: Mapping[StrEnum, StepFunction]
    undo: Mapping[StrEnum, StepFunction]
    late_effects: frozenset[StrEnum] = frozenset()
    on_lease_lost: Callable[[Any], None] | None = None
