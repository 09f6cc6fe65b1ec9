"""Lets several threads ask of MongoDB at the same time, so that one command has all they ask."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from broker_api.state.combiner import Combiner
from tests.tenant import eventually

T = TypeVar("T")


def together(combiner: Combiner[Any, Any], *calls: Callable[[], T]) -> list[Future[T]]:
    """Make calls that ask a combiner once each while it sends another command; return their ends, in their order."""
    combiner._is_sending = True  # noqa: SLF001 - as while a command is under way
    with ThreadPoolExecutor(len(calls)) as pool:
        ends: list[Future[T]] = []
        for call in calls:
            ends.append(pool.submit(call))
            until_waiting(combiner, len(ends))
        combiner._waiting.popleft().turn.release()  # noqa: SLF001 - that command has ended
    return ends


def until_waiting(combiner: Combiner[Any, Any], number: int) -> None:
    """Return when so many threads wait for the end of a command."""
    waiting = combiner._waiting  # noqa: SLF001 - nothing else tells it
    eventually(lambda: len(waiting) == number, f"{number} threads wait")
