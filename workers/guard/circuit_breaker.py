"""The circuit breaker of an Atlas project: while Atlas is down or refuses the key, workers wait.

It opens when only failures have come for two seconds, and admits one probe every ten seconds; the first successful call
closes it. Its state is a document in MongoDB, shared by all workers and shown by /ready. An Atlas that answers every
other call keeps it closed: there the pauses between attempts are enough.
"""

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.housekeeping import CIRCUIT, Housekeeping
from broker_api.state.mongo import In
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.operation_claims import Claims

FAILURES = 3
DOWN_SECONDS = 2.0
PROBE_EVERY_SECONDS = 10.0
FRESH_SECONDS = 1.0
"""How long the state that was read from MongoDB is used before it is read again."""

log = structlog.get_logger(__name__)


def waits_on_project(project: str) -> str:
    """Return the name under which operations wait until a project's circuit breaker closes."""
    return f"project:{project}"


@dataclass
class _Failures:
    """Consecutive failures that this process has seen, and the operations that met them."""

    count: int = 0
    operations: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)


class CircuitBreaker:
    """The circuit breaker of one project; threads share it."""

    def __init__(self, project: str, housekeeping: Housekeeping, claims: Claims) -> None:
        self.project = project
        self.is_open = False
        """Whether calls are held back, as it was read last."""
        self.fresh_until = 0.0
        """When the state must be read again (monotonic seconds)."""
        self._document = f"{CIRCUIT}{project}"
        self._housekeeping = housekeeping
        self._claims = claims
        self._lock = threading.Lock()
        self._failures: _Failures | None = None
        self._succeeded_at: float | None = None

    @storage_errors("read the circuit breaker")
    def refresh(self) -> None:
        """Read the state that all workers share."""
        self.fresh_until = time.monotonic() + FRESH_SECONDS
        document = self._housekeeping.collection.find_one({"_id": self._document}) or {}
        self.is_open = bool(document.get("open"))

    def reason(self) -> str:
        """Return why it is open."""
        return str(self._housekeeping.read(self._document).get("reason", "Atlas is in trouble."))

    def take_probe(self) -> bool:
        """Take the right to the one probe of these ten seconds, for all workers."""
        return self._housekeeping.take_turn(self._document, "until", PROBE_EVERY_SECONDS)

    def record_success(self) -> None:
        """Record a healthy answer: a 2xx or an ordinary 4xx."""
        with self._lock:
            self._failures = None
            self._succeeded_at = time.monotonic()
        if time.monotonic() > self.fresh_until:
            self.refresh()
        if self.is_open:
            self._housekeeping.write(self._document, {"open": False})
            self.is_open = False
            log.info("circuit_closed", project=self.project)
            self._claims.make_all_due(waits_on_project(self.project))

    def record_failure(self, reason: str, operation_id: str, *, unauthorized: bool) -> None:
        """Record that Atlas did not answer, answered 5xx, or refused the key.

        A refused key may concern one kind of call only: it opens the circuit when several operations meet it and no
        call succeeds in between.
        """
        with self._lock:
            seen = self._failures = self._failures or _Failures()
            seen.count += 1
            seen.operations.add(operation_id)
            enough = seen.count >= FAILURES and time.monotonic() - seen.since >= DOWN_SECONDS
            several = len(seen.operations) > 1
        if not enough or (unauthorized and not several):
            return
        if time.monotonic() > self.fresh_until:
            self.refresh()
        if self.is_open:
            return
        log.error("circuit_opened", project=self.project, reason=reason)
        try:
            self._housekeeping.write(self._document, {"open": True, "reason": reason, "until": In(PROBE_EVERY_SECONDS)})
            self.is_open = True
        except ErrStorageMongoConnection as error:
            log.warning("circuit_not_shared", project=self.project, reason=error.reason)

    def succeeded_within(self, period: timedelta) -> bool:
        """Return whether a call has succeeded lately, so that a failure is about one call and not about Atlas."""
        return self._succeeded_at is not None and time.monotonic() - self._succeeded_at < period.total_seconds()
