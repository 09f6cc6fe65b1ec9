"""The circuit breaker of an Atlas project: while Atlas is down or refuses the key, workers wait.

It opens after two seconds with at least three calls, all of which have failed. While it is open, one probe may pass
every ten seconds; the first successful call closes it. Its state is a document in MongoDB, which all workers share and
/ready shows. It stays closed while some calls still succeed: the pauses between attempts are enough then.
"""

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.housekeeping import CIRCUIT, Housekeeping
from broker_api.state.mongo import In
from broker_api.state.operation_claims import Claims

OPENING_FAILURES = 3
"""Fewer failed calls open no circuit, so that a single slow one does not."""
DOWN_SECONDS = 2.0
PROBE_EVERY_SECONDS = 10.0

log = structlog.get_logger(__name__)


def waits_on_project(project: str) -> str:
    """Return the name (``waits_on``) of operations that wait until the circuit breaker of a project closes."""
    return f"project:{project}"


@dataclass
class _Failures:
    """Consecutive failures in this process since a monotonic time, and the ids of the operations that had them."""

    count: int = 0
    operations: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)


class CircuitBreaker:
    """The circuit breaker of one project; threads share it."""

    def __init__(self, project: str, housekeeping: Housekeeping, claims: Claims) -> None:
        self.project = project
        self._document = f"{CIRCUIT}{project}"
        self._housekeeping = housekeeping
        self._claims = claims
        self._lock = threading.Lock()
        self._failures: _Failures | None = None
        self._succeeded_at: float | None = None
        self.key_refused = False
        """Whether Atlas has refused the credentials of this process since its last successful call."""

    @property
    def has_succeeded(self) -> bool:
        """Whether Atlas has accepted the credentials of this process at least once."""
        return self._succeeded_at is not None

    def is_open(self) -> bool:
        """Return whether calls are stopped, by the state that all workers share, which is at most a second old.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        return bool(self._housekeeping.recent(self._document).get("open"))

    def reason(self) -> str:
        """Return why it is open, as a sentence for users."""
        return str(self._housekeeping.read(self._document).get("reason", "Atlas is in trouble."))

    def take_probe(self) -> bool:
        """Take the right to send a probe; return False when a worker has taken it in the last ten seconds."""
        return self._housekeeping.take_turn(self._document, "until", PROBE_EVERY_SECONDS)

    def record_success(self) -> None:
        """Record a healthy answer (2xx, or 4xx except refused credentials), which closes an open circuit.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        with self._lock:
            self._failures = None
            self.key_refused = False
            self._succeeded_at = time.monotonic()
        if self._housekeeping.recent(self._document).get("open"):
            self._housekeeping.write(self._document, {"open": False})
            log.info("circuit_closed", project=self.project)
            self._claims.make_all_due(waits_on_project(self.project))

    def record_failure(self, reason: str, operation_id: str, *, unauthorized: bool) -> None:
        """Record a failed call: no answer, a 5xx, or refused credentials.

        Args:
            reason: The error as a sentence for all users, so without the name of any of them.
            operation_id: The operation that made the call; empty for maintenance.
            unauthorized: Atlas refused the credentials. This may concern one kind of call only, so it opens the circuit
                only when several operations had it without a successful call in between.
        """
        with self._lock:
            seen = self._failures = self._failures or _Failures()
            self.key_refused |= unauthorized
            seen.count += 1
            seen.operations.add(operation_id)
            enough = seen.count >= OPENING_FAILURES and time.monotonic() - seen.since >= DOWN_SECONDS
            several = len(seen.operations) > 1
        if not enough or (unauthorized and not several):
            return
        try:
            if self.is_open():
                return
            self._housekeeping.write(self._document, {"open": True, "reason": reason, "until": In(PROBE_EVERY_SECONDS)})
        except ErrStorageMongoConnection as error:
            log.warning("circuit_not_opened", project=self.project, reason=error.reason)
        else:
            log.error("circuit_opened", project=self.project, reason=reason)

    def succeeded_within(self, period: timedelta) -> bool:
        """Return whether a call of this process has succeeded in the last ``period``.

        If so, a failure concerns its own request and not Atlas as a whole.
        """
        return self._succeeded_at is not None and time.monotonic() - self._succeeded_at < period.total_seconds()
