"""What a step returns: go on with another step, look again later, or done. A step that cannot succeed raises."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

from broker_api.state.fields import AnyFields, OperationFields
from broker_api.state.records import Phase


@dataclass(frozen=True)
class Next(Generic[AnyFields]):
    """Go on at once with ``step``; ``changes`` are written to the record, ``operation`` to its operation."""

    step: StrEnum
    changes: AnyFields | None = None
    operation: OperationFields | None = None


@dataclass(frozen=True)
class Later(Generic[AnyFields]):
    """Look again in ``seconds``. ``description`` is what platforms read meanwhile.

    ``step``: look again with this step instead of the same one.
    """

    seconds: float
    description: str
    changes: AnyFields | None = None
    operation: OperationFields | None = None
    step: StrEnum | None = None


@dataclass(frozen=True)
class Done(Generic[AnyFields]):
    """The operation has ended; ``phase`` is where it leaves the instance or binding."""

    phase: Phase
    description: str
    changes: AnyFields | None = None


Result = Next[AnyFields] | Later[AnyFields] | Done[AnyFields]


class FailedError(Exception):
    """The operation cannot succeed; the message is for the platform's user.

    ``refused``: because of what was requested, so that the same request would fail again.
    """

    def __init__(self, sentence: str, *, refused: bool = False) -> None:
        super().__init__(sentence)
        self.refused = refused


class HeldBackError(Exception):
    """The step must not act now, for example because a circuit breaker is open. Costs the operation no attempt.

    ``waits_on``: a name under which a later event can make all such operations due at once.
    """

    def __init__(self, seconds: float, why: str, waits_on: str | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.waits_on = waits_on


@dataclass(frozen=True)
class StepTrouble:
    """What an exception of a step means: ``sentence`` for the platform's user, and whether a retry can help.

    ``retry_after`` is the least pause in seconds. ``late_effect``: the request may still take effect, since its answer
    was lost.
    """

    sentence: str
    retry: bool = True
    retry_after: float = 0.0
    late_effect: bool = False
