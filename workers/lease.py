"""Keeps the leases of running steps alive, and stops a step that has lost its lease before it calls Atlas."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.claims import LEASE_SECONDS, Claim, Claims, LeaseLostError

RENEW_SECONDS = 4.0
CALL_SECONDS = 11.5
"""The longest that one request to Atlas takes (both timeouts of the client): it must end before the lease does."""

log = structlog.get_logger(__name__)


class Lease:
    """A claim's time, by this process's monotonic clock: it goes on while the process is stopped."""

    def __init__(self, claim: Claim, until: float) -> None:  # type: ignore[type-arg]
        self.claim = claim
        self._until = until
        self._lost = False

    def extend(self, began: float) -> None:
        """Count a renewal from the moment it was asked for, which is never too long."""
        self._until = began + LEASE_SECONDS

    def lose(self) -> None:
        """Somebody else holds the operation."""
        self._lost = True

    def check(self) -> None:
        """Raise ``LeaseLostError`` unless a request that begins now would end within the lease."""
        if self._lost or time.monotonic() > self._until - CALL_SECONDS:
            raise LeaseLostError


CURRENT: ContextVar[Lease | None] = ContextVar("lease", default=None)
"""The lease that the running step works under; the Atlas client asks before each request."""


def check_current() -> None:
    """Raise ``LeaseLostError`` when the running step has no right to act any more."""
    if lease := CURRENT.get():
        lease.check()


class Keeper:
    """One thread that renews all leases which this process holds."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._held: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, claim: Claim, began: float) -> Iterator[Lease]:  # type: ignore[type-arg]
        """Hold a claim's lease for as long as the block runs; ``began`` is when the claim was asked for."""
        lease = Lease(claim, began + LEASE_SECONDS)
        token = CURRENT.set(lease)
        with self._lock:
            self._held.add(lease)
            self._start()
        try:
            yield lease
        finally:
            CURRENT.reset(token)
            with self._lock:
                self._held.discard(lease)

    def _start(self) -> None:
        # At the first claim: a pool of processes forks before it.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_SECONDS)
            with self._lock:
                held = list(self._held)
            for lease in held:
                self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        began = time.monotonic()
        try:
            self._claims.renew(lease.claim)
            lease.extend(began)
        except LeaseLostError:
            lease.lose()
        except ErrStorageMongoConnection as error:
            operation = lease.claim.operation_id
            log.warning("lease not renewed, MongoDB does not answer", operation=operation, reason=error.reason)
