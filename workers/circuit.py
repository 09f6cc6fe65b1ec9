"""One circuit for each Atlas project: while Atlas is down or the keys are wrong, workers wait instead of hammering it.

It opens when nothing but failures has come for two seconds, and lets one call through every ten; the first that Atlas
answers closes it, for all workers, through a document in MongoDB that /ready shows. An Atlas that answers every other
call is in use, not down: there the pauses between attempts are enough.
"""

import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from pymongo import ReturnDocument

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.claims import Claims
from broker_api.state.housekeeping import CIRCUIT, Housekeeping
from broker_api.state.mongo import NOW, In, assignments, reaching
from workers.lease import CURRENT
from workers.outcome import HeldBackError

FAILURES = 3
DOWN_SECONDS = 2.0
TRY_SECONDS = 10.0
FRESH_SECONDS = 1.0

log = structlog.get_logger(__name__)

_PROBING: ContextVar[bool] = ContextVar("probing", default=False)
"""Whether the running step is the one that tries Atlas again: all its calls pass."""


@dataclass
class _Failures:
    """Failures in a row, as this process saw them, and the operations that met them."""

    count: int = 0
    operations: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)


class Circuit:
    """The circuit of one project. ``check`` is asked before each request, the other two are told of each answer."""

    def __init__(self, project: str, housekeeping: Housekeeping, claims: Claims) -> None:
        self._project = project
        self._name = f"{CIRCUIT}{project}"
        self._documents = housekeeping.collection
        self._housekeeping = housekeeping
        self._claims = claims
        self._lock = threading.Lock()
        self._failures: _Failures | None = None
        self._open = False
        self._read_at = -FRESH_SECONDS
        self._succeeded_at: float | None = None

    def check(self) -> None:
        """Raise ``HeldBackError`` while Atlas is left alone."""
        if not self._is_open() or _PROBING.get():
            return
        if not self._try_again():
            reason = self._housekeeping.read(self._name).get("reason", "Atlas is in trouble")
            raise HeldBackError(TRY_SECONDS, f"{reason} It is tried again every 10 s.", self._project, all_wait=True)
        _PROBING.set(True)

    def _is_open(self) -> bool:
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._read_at = time.monotonic()
            self._open = bool(self._housekeeping.read(self._name).get("open"))
        return self._open

    @reaching("circuit")
    def _try_again(self) -> bool:
        """Take the right to the one call of these ten seconds."""
        due = {"_id": self._name, "$expr": {"$lte": ["$until", NOW]}}
        taken = [{"$set": assignments({"until": In(TRY_SECONDS)})}]
        return self._documents.find_one_and_update(due, taken, return_document=ReturnDocument.AFTER) is not None

    def succeeded(self) -> None:
        """Atlas has answered as one hopes; whether it said yes or no does not matter."""
        with self._lock:
            self._failures = None
            self._succeeded_at = time.monotonic()
        if self._is_open():
            self._close()

    def _close(self) -> None:
        self._housekeeping.write(self._name, {"open": False})
        self._open = False
        log.info("Atlas answers again", project=self._project)
        self._claims.wake_held_back(self._project)

    def failed(self, reason: str, *, unauthorized: bool) -> None:
        """Atlas did not answer, or refused the key.

        A refused key may concern one kind of call only: it opens the circuit when several operations meet it and none
        succeeds between.
        """
        with self._lock:
            met = self._failures = self._failures or _Failures()
            met.count += 1
            met.operations.add(lease.claim.operation_id if (lease := CURRENT.get()) else "")
            enough = met.count >= FAILURES and time.monotonic() - met.since >= DOWN_SECONDS
            several = len(met.operations) > 1
        if enough and (several or not unauthorized) and not self._is_open():
            self._trip(reason)

    def _trip(self, reason: str) -> None:
        log.error("Atlas is left alone for a while", project=self._project, reason=reason)
        try:
            self._housekeeping.write(self._name, {"open": True, "reason": reason, "until": In(TRY_SECONDS)})
            self._open = True
        except ErrStorageMongoConnection as error:
            log.warning("circuit not shared, MongoDB does not answer", project=self._project, reason=error.reason)

    def works_otherwise(self, within: timedelta) -> bool:
        """Say whether another call has succeeded lately, so that a failure is about this one."""
        return self._succeeded_at is not None and time.monotonic() - self._succeeded_at < within.total_seconds()


def not_probing() -> None:
    """Begin a step as an ordinary one."""
    _PROBING.set(False)
