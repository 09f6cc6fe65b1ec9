"""How requests that wait for an operation learn that it has ended.

One thread asks MongoDB one question for all of them, and only while there are any.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker_api.errors import AsyncRequired, ErrStorageMongoConnection
from broker_api.state.store import Store

MOST_WAITING = 64
LOOK_EVERY_SECONDS = 0.1


class Watcher:
    """The waiting requests of one process. ``most`` bounds them, so that polls always find a free thread."""

    def __init__(self, store: Store, most: int = MOST_WAITING) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(most)
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], list[threading.Event]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places while a request waits.

        Raises:
            AsyncRequired: all places are taken. Nothing has been stored then.
        """
        if not self._places.acquire(blocking=False):
            raise AsyncRequired
        try:
            yield
        finally:
            self._places.release()

    def wait(self, key: str, operation_id: str, seconds: float) -> None:
        """Return when the operation has ended, or is not the latest any more, or after ``seconds``."""
        operation = (key, operation_id)
        ended = threading.Event()
        with self._changed:
            self._waiting.setdefault(operation, []).append(ended)
            # The thread is started here, not when the application is made: a server may fork in between.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)
                self._thread.start()
            self._changed.notify()
        ended.wait(seconds)
        with self._changed:
            others = [each for each in self._waiting.pop(operation, []) if each is not ended]
            if others:
                self._waiting[operation] = others

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                operations = list(self._waiting)
            # Without an answer it asks again shortly; each request has its own bound.
            with contextlib.suppress(ErrStorageMongoConnection):
                ended = self._store.ended(operations)
                with self._changed:
                    for event in itertools.chain(*(self._waiting.pop(operation, []) for operation in ended)):
                        event.set()
            time.sleep(LOOK_EVERY_SECONDS)
