"""Leases of running steps: renewed in the background, and checked before each call to the outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.operation_claims import LEASE_SECONDS, Claim, Claims, LeaseLostError

RENEW_SECONDS = 4.0
CALL_SECONDS = 11.5
"""The longest that one call to Atlas takes: the sum of its time-outs. A call must end before the lease does."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Lease:
    """The time for which this process holds a claim.

    ``until`` is measured by the monotonic clock, which goes on while the process is stopped, and from the moment at
    which the claim or renewal was asked for, so that the lease never seems longer than it is in MongoDB. ``lost`` says
    that another worker has taken the operation over. ``probes`` names the open circuit breakers that the running step
    may pass; the runner empties it before each step.
    """

    claim: Claim[Any]
    until: float
    lost: bool = False
    probes: set[str] = field(default_factory=set)

    def extend(self, asked_at: float) -> None:
        """Count a renewal that was asked for at ``asked_at`` (monotonic seconds)."""
        self.until = asked_at + LEASE_SECONDS

    def check(self) -> None:
        """Raise ``LeaseLostError`` unless a call that begins now ends within the lease."""
        if self.lost or time.monotonic() > self.until - CALL_SECONDS:
            raise LeaseLostError


@dataclass(eq=False)
class LeaseKeeper:
    """Renews all leases of this process, in one background thread."""

    claims: Claims
    _held: set[Lease] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    @contextmanager
    def holding(self, claim: Claim[Any], asked_at: float) -> Iterator[Lease]:
        """Renew the claim's lease while the block runs. ``asked_at``: monotonic seconds when it was asked for."""
        lease = Lease(claim, asked_at + LEASE_SECONDS)
        with self._lock:
            self._held.add(lease)
            # Started by the first claim and not earlier: a pool of processes forks before it.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
        try:
            yield lease
        finally:
            with self._lock:
                self._held.discard(lease)

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_SECONDS)
            with self._lock:
                held = list(self._held)
            for lease in held:
                asked_at = time.monotonic()
                try:
                    self.claims.renew(lease.claim)
                    lease.extend(asked_at)
                except LeaseLostError:
                    lease.lost = True
                except ErrStorageMongoConnection as error:
                    log.warning("lease_not_renewed", operation=lease.claim.operation_id, reason=error.reason)
