"""The sweep: every worker carries it, one at a time by a lease in MongoDB does it.

It sends what is due and held by nobody, ends what is past its deadline, and starts the reconciliation. It makes sure
that nothing accepted is lost; two that both believe to be the one do no harm, since jobs are claimed.
"""

import random
import threading
import time
from collections.abc import Iterable, Iterator
from uuid import uuid4

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.queue import JOBS, RECONCILE
from broker_api.state.claims import Due
from broker_api.state.housekeeping import SWEEP
from workers.clusters import send
from workers.parts import Parts

TICK_SECONDS = 0.5
RENEW_SECONDS = 1.0
LEASE_SECONDS = 4.0
EXPIRE_SECONDS = 5.0
RECONCILE_SECONDS = 3600.0
MOST = 1000

log = structlog.get_logger(__name__)


class Sweep:
    """The background loop of one worker process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._owner = uuid4().hex
        self._led_at = 0.0
        self._expired_at = 0.0

    def start(self) -> None:
        """Begin in a thread of its own, which ends with the process."""
        threading.Thread(target=self._run, name="sweep", daemon=True).start()

    def _run(self) -> None:
        prepared = False
        while not self._parts.stopping.wait(TICK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            try:
                prepared = prepared or self._prepare()
                if self._leads():
                    self.once()
            except ErrStorageMongoConnection as error:
                log.warning("cannot sweep, MongoDB does not answer", reason=error.reason)
            except Exception:  # the loop must outlive whatever one round meets
                log.exception("sweep failed")
        self._resign()

    def _prepare(self) -> bool:
        self._parts.store.prepare()
        self._parts.keys.fit()  # MongoDB may have been away when the process started
        return True

    def _leads(self) -> bool:
        """Hold or take the lease; asked for rarely, so that waiting costs little."""
        now = time.monotonic()
        if now - self._led_at < RENEW_SECONDS:
            return True
        led = self._parts.housekeeping.acquire(SWEEP, self._owner, LEASE_SECONDS)
        self._led_at = now if led else 0.0
        return led

    def _resign(self) -> None:
        try:
            self._parts.housekeeping.release(SWEEP, self._owner)
        except ErrStorageMongoConnection as error:
            log.info("the sweep's lease ends by itself", reason=error.reason)

    def once(self) -> int:
        """Sweep once; give the number of jobs sent."""
        due = self._parts.claims.due(MOST)
        if due or time.monotonic() - self._expired_at > EXPIRE_SECONDS:
            self._expire()
        sent = list(self._send(_one_for_each_wait(due)))
        if sent:
            self._parts.claims.mark_sent(sent)
        return len(sent)

    def _expire(self) -> None:
        self._expired_at = time.monotonic()
        if ended := self._parts.claims.expire():
            log.error("operations failed at their deadline", operations=ended)
        self._start_reconciling()

    def _send(self, due: Iterable[Due]) -> Iterator[Due]:
        """Send until Redis fails; what is left is due again in the next round.

        An operation of a kind that this release does not know is left to the workers of the one that does.
        """
        for each in due:
            if each.kind not in JOBS:
                continue
            if not send(self._parts.queue, each):
                return
            yield each

    def _start_reconciling(self) -> None:
        """Start it once in ``RECONCILE_SECONDS``, for all workers; a new broker has nothing to compare yet."""
        housekeeping, owner = self._parts.housekeeping, uuid4().hex
        new = not housekeeping.read(RECONCILE)
        if not housekeeping.acquire(RECONCILE, owner, RECONCILE_SECONDS) or new:
            return
        if not self._parts.queue.send(RECONCILE, []):
            housekeeping.release(RECONCILE, owner)


def _one_for_each_wait(due: Iterable[Due]) -> Iterator[Due]:
    """Of those that wait on the same cluster give one: its poll answers for all."""
    seen: set[str] = set()
    for each in due:
        if each.waits_on in seen:
            continue
        if each.waits_on:
            seen.add(each.waits_on)
        yield each
