"""Leases of running steps: renewed in the background, and checked before each call to the outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.operation_claims import LEASE_SECONDS, Claim, Claims, LeaseLostError

RENEW_SECONDS = 4.0
CALL_SECONDS = 11.5
"""The longest that one request to Atlas takes: the sum of its time-outs. It must end before the lease does. While a
name server is slow nothing has been sent, and nothing is sent after that time."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Lease:
    """The time for which this process holds a claim.

    Attributes:
        claim: The claim.
        until: The end of the lease in monotonic seconds. That clock also runs while the process is stopped. The time
            counts from the moment before the request to MongoDB, so the lease never ends later here than in MongoDB.
        lost: Another worker has taken over the operation.
        probes: The projects whose open circuit breaker the running step may pass; empty at the start of each step.
    """

    claim: Claim[Any]
    until: float
    lost: bool = False
    probes: set[str] = field(default_factory=set)

    def since(self, moment: datetime) -> float:
        """Return the seconds since a moment of MongoDB's clock."""
        return (self.claim.now - moment).total_seconds()

    def check(self) -> None:
        """Check that a call to Atlas that begins now ends within the lease.

        Raises:
            LeaseLostError: The call might end after the lease, or the lease is lost.
        """
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
    def holding(self, claim: Claim[Any]) -> Iterator[Lease]:
        """Renew the lease of a claim every few seconds while the block runs."""
        lease = Lease(claim, claim.asked_at + LEASE_SECONDS)
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
                ids = {"key": lease.claim.record.key, "operation": lease.claim.operation_id}
                asked_at = time.monotonic()
                try:
                    self.claims.renew(lease.claim)
                    lease.until = asked_at + LEASE_SECONDS
                except LeaseLostError:
                    lease.lost = True
                except ErrStorageMongoConnection as error:
                    log.warning("lease_not_renewed", **ids, reason=error.reason)
                except Exception:  # a defect must not end the renewal of the other leases
                    log.exception("lease_not_renewed", **ids)
