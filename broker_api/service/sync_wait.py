"""Requests that wait for their job: how many may, and how they learn that it is done.

One thread asks MongoDB one question for all waiting requests, and only while there are any.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker_api.errors import AsyncRequired, ErrStorageMongoConnection
from broker_api.state.store import Store

MOST_WAITING = 64
LOOK_EVERY_SECONDS = 0.1


class Waiting:
    """The requests of one process that wait. ``most`` bounds them, so that polls always find a free thread."""

    def __init__(self, store: Store, most: int = MOST_WAITING) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(most)
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], list[threading.Event]] = {}
        self._watcher: threading.Thread | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places while a request waits.

        Raises:
            AsyncRequired: all are taken; said before anything is stored.
        """
        if not self._places.acquire(blocking=False):
            raise AsyncRequired
        try:
            yield
        finally:
            self._places.release()

    def wait(self, key: str, operation_id: str, seconds: float) -> None:
        """Return when the operation has ended, or is no longer the latest, or after so many seconds."""
        operation = (key, operation_id)
        done = threading.Event()
        with self._changed:
            self._waiting.setdefault(operation, []).append(done)
            self._watch()
            self._changed.notify()
        done.wait(seconds)
        with self._changed:
            self._leave(operation, done)

    def _leave(self, operation: tuple[str, str], done: threading.Event) -> None:
        others = [each for each in self._waiting.get(operation, []) if each is not done]
        if others:
            self._waiting[operation] = others
        else:
            self._waiting.pop(operation, None)

    def _watch(self) -> None:
        # Started at the first wait, not at import: a server may fork after the application was made.
        if self._watcher is None or not self._watcher.is_alive():
            self._watcher = threading.Thread(target=self._run, name="waiting", daemon=True)
            self._watcher.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                asked = list(self._waiting)
            self._look(asked)
            time.sleep(LOOK_EVERY_SECONDS)

    def _look(self, asked: list[tuple[str, str]]) -> None:
        try:
            ended = self._store.ended(asked)
        except ErrStorageMongoConnection:
            return  # looked at again shortly; each request has its own bound
        with self._changed:
            for operation in ended:
                for done in self._waiting.pop(operation, []):
                    done.set()
