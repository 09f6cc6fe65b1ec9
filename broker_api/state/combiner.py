"""Combines what several threads ask of MongoDB at the same time into one command.

While a command is under way, the questions that arrive wait; the next command has all of them. One that arrives alone
is sent at once. Most of what a small read or a journaled write costs MongoDB and the driver is the cost of its command.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import pymongo
from pymongo.errors import PyMongoError

Q = TypeVar("Q")
A = TypeVar("A")


class _Asked(Generic[Q, A]):
    """A question of a thread, with its answer, or the error in place of it, when ``is_answered``."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.asked_at = time.monotonic()
        self.is_answered = False
        self.answer: A | Exception = PyMongoError("the thread that sent the command has ended")
        self.turn = threading.Lock()
        """Released when the question is answered, or when its thread is to send the next command."""
        self.turn.acquire()


class Combiner(Generic[Q, A]):
    """Sends one command at a time.

    Args:
        send: Sends a command with some questions. It returns their answers in the same order; an exception among these
            is raised for its question only. An error of MongoDB that it raises counts for all of them. After any other
            error, such as that of a value that cannot be encoded, nothing was sent, and each question is sent alone.
        timeout: The seconds that a command may take; None without a limit.
    """

    def __init__(self, send: Callable[[Sequence[Q]], Sequence[A | Exception]], timeout: float | None = None) -> None:
        self._send = send
        self._timeout = timeout
        self.forget_other_threads()
        _ALL.add(self)

    def forget_other_threads(self) -> None:
        """Begin anew in a forked process, which has no thread of its parent that sends, or waits."""
        self._lock = threading.Lock()
        self._is_sending = False
        self._waiting: deque[_Asked[Q, A]] = deque()

    def ask(self, question: Q) -> A:
        """Return the answer to a question; after the time-out, and a fifth of it, at the latest.

        Raises:
            Exception: What ``send`` has raised, or returned for this question.
        """
        asked = _Asked[Q, A](question)
        with self._lock:
            waits = self._is_sending
            self._is_sending = True
            if waits:
                self._waiting.append(asked)
        if waits:
            asked.turn.acquire()
        if not asked.is_answered:
            limit: AbstractContextManager[None] = nullcontext()
            if waits and self._timeout:  # the time for which it has waited counts, since MongoDB may hang
                left = self._timeout - (time.monotonic() - asked.asked_at)
                limit = pymongo.timeout(max(left, self._timeout / 5))
            with limit:
                self._send_with_waiting(asked)
        if isinstance(asked.answer, Exception):
            raise asked.answer
        return asked.answer

    def _send_with_waiting(self, first: _Asked[Q, A]) -> None:
        """Send a question together with all that wait, and give the turn to one that has arrived meanwhile."""
        with self._lock:
            group = [first, *self._waiting]
            self._waiting.clear()
        try:
            for each, answer in zip(group, self._answers([each.question for each in group]), strict=True):
                each.answer = answer
        finally:
            with self._lock:
                following = self._waiting.popleft() if self._waiting else None
                self._is_sending = following is not None
            if following:
                following.turn.release()
            for each in group:
                each.is_answered = True
                each.turn.release()

    def _answers(self, questions: Sequence[Q]) -> Sequence[A | Exception]:
        try:
            return self._send(questions)
        except PyMongoError as error:
            return [error] * len(questions)
        except Exception as error:  # noqa: BLE001 - whatever a value raises that cannot be encoded
            return [error] if len(questions) == 1 else [self._answers([each])[0] for each in questions]


_ALL: "weakref.WeakSet[Combiner[Any, Any]]" = weakref.WeakSet()


def _forget_other_threads() -> None:
    for combiner in _ALL:
        combiner.forget_other_threads()


os.register_at_fork(after_in_child=_forget_other_threads)
