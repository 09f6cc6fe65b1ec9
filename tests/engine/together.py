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
    waiting = combiner._waiting  # noqa: SLF001 - tells when all calls wait
    with ThreadPoolExecutor(len(calls)) as pool:
        ends: list[Future[T]] = []
        for number, call in enumerate(calls, 1):
            ends.append(pool.submit(call))
            eventually(lambda number=number: len(waiting) == number, "the call asks")  # type: ignore[misc]
        waiting.popleft().turn.release()  # that command has ended
    return ends
