"""Wakes the requests that wait for an operation when it has ended.

One thread looks for all of them with one query of MongoDB, and only while requests wait.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker_api.errors import AsyncRequired, ErrStorageMongoConnection
from broker_api.state.store import Store

MOST_WAITING_REQUESTS = 64
LOOK_EVERY_SECONDS = 0.1


class OperationWatcher:
    """The waiting requests of one process.

    ``MOST_WAITING_REQUESTS`` bounds their number, so that other requests always find a free thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(MOST_WAITING_REQUESTS)
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], list[threading.Event]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count one waiting request while the context is open. Enter it before the request stores anything.

        Raises:
            AsyncRequired: too many requests wait already.
        """
        if not self._places.acquire(blocking=False):
            raise AsyncRequired
        try:
            yield
        finally:
            self._places.release()

    def wait(self, key: str, operation_id: str, seconds: float) -> None:
        """Wait until an operation has ended.

        Args:
            key: the document of the instance or binding.
            operation_id: the operation. If it is not the latest one any more, it has ended.
            seconds: return after this time in any case.
        """
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
            # When MongoDB does not answer, the next round asks again; each request has its own time limit.
            with contextlib.suppress(ErrStorageMongoConnection):
                ended = self._store.ended(operations)
                with self._changed:
                    for event in itertools.chain(*(self._waiting.pop(operation, []) for operation in ended)):
                        event.set()
            time.sleep(LOOK_EVERY_SECONDS)
