"""Results of a step: continue with another step, run again later, or done. A step that cannot succeed raises.

``Ended`` and ``Waits`` are the results of a job, which runs steps until the operation ends or waits.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic

from broker_api.state.fields import AnyFields, OperationFields
from broker_api.state.records import Phase, State


@dataclass(frozen=True)
class Next(Generic[AnyFields]):
    """Continue at once with ``step``.

    ``changes`` are written to the instance or binding, ``operation`` to its operation.

    With ``repeatable`` they are written together with the result of the next step, which saves a write. If the worker
    dies before that, this step runs again.
    """

    step: StrEnum
    changes: AnyFields | None = None
    operation: OperationFields | None = None
    repeatable: bool = False


ANSWERED = OperationFields(attempts=0, refusals=0)
"""For a ``Later`` after an answer of Atlas as expected, since only errors in a row are counted."""


@dataclass(frozen=True)
class Later(Generic[AnyFields]):
    """Run the same step, or ``step``, again after ``seconds``. Platforms read ``description`` in the meantime."""

    seconds: float
    description: str
    changes: AnyFields | None = None
    operation: OperationFields | None = None
    step: StrEnum | None = None


@dataclass(frozen=True)
class Done(Generic[AnyFields]):
    """The operation has ended; ``phase`` is the new phase of the instance or binding."""

    phase: Phase
    description: str
    changes: AnyFields | None = None


Result = Next[AnyFields] | Later[AnyFields] | Done[AnyFields]


@dataclass(frozen=True)
class Ended:
    """The operation has ended; platforms read ``sentence``."""

    state: State
    sentence: str


@dataclass(frozen=True)
class Waits:
    """The operation goes on in ``seconds``; with None when something happens that ``description`` tells."""

    description: str
    seconds: float | None = None


Outcome = Ended | Waits | None
"""What has become of an operation. None: there is nothing to do, or another worker does it."""


class FailedError(Exception):
    """The operation cannot succeed. The message is for the platform's user.

    Args:
        sentence: The message.
        refused: The request itself is the cause, so the same request would fail again.
    """

    def __init__(self, sentence: str, *, refused: bool = False) -> None:
        super().__init__(sentence)
        self.refused = refused


class HeldBackError(Exception):
    """The step must not call Atlas now, for example because a circuit breaker is open. It does not count as an attempt.

    Args:
        seconds: The pause before the next attempt.
        why: The reason, for the platform's user.
        waits_on: The name of an event that makes all operations that wait on it due at once.
    """

    def __init__(self, seconds: float, why: str, waits_on: str | None = None) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.waits_on = waits_on


@dataclass(frozen=True)
class StepTrouble:
    """The classification of an exception that a step has raised.

    Attributes:
        sentence: The message for the platform's user.
        retry: Whether a retry can help.
        retry_after: The shortest pause before the retry, in seconds.
        late_effect: The request may still take effect, since its answer was lost.
        refusal: The error may be a refusal, which no retry helps against.
    """

    sentence: str
    retry: bool = True
    retry_after: float = 0.0
    late_effect: bool = False
    refusal: bool = False
