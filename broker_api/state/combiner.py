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


class _Waiting(Generic[Q, A]):
    """A question that has arrived while a command was under way."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.since = time.monotonic()
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
            error, such as that of a value that cannot be encoded, must mean that nothing was sent: each question is
            then sent alone.
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
        self._waiting: deque[_Waiting[Q, A]] = deque()

    def ask(self, question: Q) -> A:
        """Return the answer to a question; after the time-out, and a fifth of it, at the latest.

        Raises:
            Exception: What ``send`` has raised, or returned for this question.
        """
        waiting: _Waiting[Q, A] | None = None
        with self._lock:
            if self._is_sending:
                waiting = _Waiting(question)
                self._waiting.append(waiting)
            self._is_sending = True
        if waiting:
            answer = self._wait_and_share(waiting)
        else:
            try:
                (answer,) = self._send([question])
            finally:
                with self._lock:
                    self._is_sending = bool(self._waiting)
                    if self._waiting:
                        self._waiting.popleft().turn.release()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _wait_and_share(self, own: _Waiting[Q, A]) -> A | Exception:
        """Return the answer to a question that another thread has sent, or send it together with all that wait.

        When a command ends, the thread that has waited longest sends the next one.
        """
        own.turn.acquire()
        if own.is_answered:
            return own.answer
        with self._lock:
            group = [own, *self._waiting]
            self._waiting.clear()
        try:
            limit: AbstractContextManager[None] = nullcontext()
            if self._timeout:  # the time for which it has waited counts, since MongoDB may hang
                left = self._timeout - (time.monotonic() - own.since)
                limit = pymongo.timeout(max(left, self._timeout / 5))
            with limit:
                answers = self._answers([each.question for each in group])
            for each, answer in zip(group, answers, strict=True):
                each.answer = answer
        finally:
            with self._lock:
                self._is_sending = bool(self._waiting)
                if self._waiting:
                    self._waiting.popleft().turn.release()
            for each in group:
                each.is_answered = True
                each.turn.release()
        return own.answer

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
