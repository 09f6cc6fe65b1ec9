"""What a step says when it is over: go on, look again later, done; or it raises that the operation has failed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker_api.state.records import Phase

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Next:
    """Go on with another step at once; ``changes`` are fields of the record, ``operation`` of its operation."""

    step: str
    changes: Fields = field(default_factory=dict)
    operation: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class Later:
    """Not yet: look again in so many seconds. ``why`` is what the platform reads meanwhile."""

    seconds: float
    why: str
    changes: Fields = field(default_factory=dict)
    operation: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """Everything is so now."""

    phase: Phase
    description: str
    changes: Fields = field(default_factory=dict)


Outcome = Next | Later | Done


class FailedError(Exception):
    """The operation can never succeed; the message is for the platform's user.

    ``refused``: because of what was asked, so that the same request would fail again.
    """

    def __init__(self, sentence: str, *, refused: bool = False) -> None:
        super().__init__(sentence)
        self.refused = refused


class ClusterGoneError(FailedError):
    """The record's cluster is not there any more."""

    def __init__(self, cluster: str) -> None:
        super().__init__(f"The cluster {cluster} does not exist any more.")


class HeldBackError(Exception):
    """Atlas must not be called now: its circuit is open, or its rate limit near. Costs the operation no attempt."""

    def __init__(self, seconds: float, why: str, project: str, *, all_wait: bool = False) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.waits_on = f"project:{project}" if all_wait else None


Step = Callable[[Any], Outcome]
Steps = Mapping[str, Step]
"""The steps of a job by name; the first one's name is empty."""
