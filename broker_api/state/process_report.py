"""What a process reports to all others: counts, and that its sends fail. Written in the background, within a second."""

import os
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import uuid4

from pymongo.collection import Collection

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.mongo import Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import Kind, State

COUNTERS = "counters"
SENDER = "sender/"
WRITE_SECONDS = 1.0
REPORT_KEPT_SECONDS = 3600.0
"""How long the report of a process is kept that does not send any more."""
SENDS = ACCEPTED, FAILED, SKIPPED = "accepted", "failed", "skipped"
"""What becomes of a send. It is skipped, so that a request stays quick, in the two seconds after a failed one."""


class ProcessReport:
    """The counts and failed sends of one process, in the collection for reports; threads share it.

    What was counted in the second before a process is killed is lost.
    """

    def __init__(self, collection: Collection[Document]) -> None:
        self._collection = collection
        self._lock = threading.Lock()
        self._unwritten: Counter[str] = Counter()
        self._failure: str | None = None
        self._failure_changed = False
        self._writer: threading.Thread | None = None
        self._sender = ""

    def ended(self, kind: str, state: State, number: int = 1) -> None:
        """Count operations that have ended."""
        if number and kind in [*Kind]:
            self.count(f"ends.{kind}.{state}", number)

    def count(self, counter: str, number: int = 1, *, failure: str | None = None) -> None:
        """Count something.

        Args:
            counter: What; for sends ``sends.`` and one of ``SENDS``.
            number: How many.
            failure: Why a send failed, as a sentence for operators.
        """
        with self._lock:
            if failure or (counter == f"sends.{ACCEPTED}" and self._failure):
                self._failure, self._failure_changed = failure, True
            self._unwritten[counter] += number
            # The thread is started here, not when the store is made: a server may fork in between.
            if self._writer is None or not self._writer.is_alive():
                self._writer = threading.Thread(target=self._write_soon, name="report", daemon=True)
                self._writer.start()

    def _write_soon(self) -> None:
        """Write once a second while there is something to write; after an error the next count starts it again."""
        unwritten = True
        while unwritten:
            time.sleep(WRITE_SECONDS)
            written = False
            with suppress(ErrStorageMongoConnection):
                self.flush()
                written = True
            with self._lock:
                unwritten = written and bool(self._unwritten)
                if not unwritten:
                    self._writer = None

    @storage_errors("count")
    def flush(self) -> None:
        """Write now what is not yet written.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used; nothing is lost.
        """
        with self._lock:
            counted, self._unwritten = self._unwritten, Counter()
            changed, self._failure_changed = self._failure_changed, False
            failure = self._failure
        try:
            if counted:
                self._collection.update_one({"_id": COUNTERS}, {"$inc": dict(counted)}, upsert=True)
                counted.clear()
            if changed:
                self._write_failure(failure)
        except Exception:
            with self._lock:
                self._unwritten.update(counted)
                self._failure_changed = self._failure_changed or changed
            raise

    def _write_failure(self, failure: str | None) -> None:
        # The name is chosen here, not when the store is made: a server may fork in between.
        self._sender = self._sender or f"{SENDER}{uuid4().hex}"
        if failure is None:
            self._collection.delete_one({"_id": self._sender})
            return
        values: dict[str, Any] = {"failure": failure, "failed_at": In(0), "expire_at": In(REPORT_KEPT_SECONDS)}
        values |= {"host": socket.gethostname(), "pid": os.getpid()}
        self._collection.update_one({"_id": self._sender}, [{"$set": assignments(values)}], upsert=True)
