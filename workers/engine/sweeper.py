"""Background sweeper. Runs in every worker; a MongoDB lease elects the active one.

It sends the operations that are due and that no worker holds, fails those whose deadline has passed, and starts the
hourly reconciliation. Two active sweepers at the same time do no harm, since each operation is claimed before it runs.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from uuid import uuid4

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import JOBS, QUEUES, RECONCILE, Queue
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import SWEEP, Housekeeping
from broker_api.state.open_operations import take_long_waits
from broker_api.state.operation_claims import Claims, Due
from broker_api.state.store import Store

TICK_SECONDS = 0.5
SWEEP_RENEW_SECONDS = 1.5
SWEEP_LEASE_SECONDS = 4.0
EXPIRE_SECONDS = 5.0
CHECK_SECONDS = 10.0
RECONCILE_SECONDS = 3600.0
SWEEP_BATCH = 1000
MOST_QUEUED = 1000
"""Nothing is sent again to a queue with more messages: no worker takes them, and they would fill Redis in the end."""

log = structlog.get_logger(__name__)


class Sweeper:
    """The sweeper of one worker process."""

    def __init__(
        self,
        *,
        store: Store,
        claims: Claims,
        housekeeping: Housekeeping,
        keys: KeyCheck,
        queue: Queue,
        stopping: threading.Event,
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the sweeper.

        Args:
            store: Prepared at the start.
            claims: Finds what is due.
            housekeeping: Holds the lease of the active sweeper.
            keys: Checked at the start.
            queue: Sends the jobs.
            stopping: Set when the process stops.
            check: Called by the active sweeper every ten seconds.
            clock: Tells the seconds by which the sweeper asks for its lease again.
        """
        self._store = store
        self._keys = keys
        self._claims = claims
        self._housekeeping = housekeeping
        self._queue = queue
        self._stopping = stopping
        self._check = check
        self._clock = clock
        self._owner = uuid4().hex
        self._elected, self._asked_at = False, -math.inf
        self._expired_at = 0.0
        self._checked_at = time.monotonic()
        self.turned_at = time.monotonic()
        """When its last round has begun, in monotonic seconds."""

    def start(self) -> threading.Thread:
        """Sweep in a background thread until the process stops; return the thread."""
        thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        prepared = False
        while not self._stopping.wait(TICK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            self.turned_at = time.monotonic()
            try:
                if not prepared:
                    self._store.prepare()
                    self._keys.passes()  # MongoDB may have been away when the process started
                    prepared = True
                if self._is_active():
                    self.sweep()
            except ErrStorageMongoConnection as error:
                log.warning("sweep_skipped", reason=error.reason)
            except Exception:  # no error of one round may end the loop
                log.exception("sweep_failed")
        try:
            self._housekeeping.release(SWEEP, self._owner)
        except ErrStorageMongoConnection as error:
            log.info("sweep_lease_not_released", reason=error.reason)

    def _is_active(self) -> bool:
        """Return whether this sweeper has the lease; MongoDB is asked for it about every two seconds."""
        now = self._clock()
        if now - self._asked_at >= SWEEP_RENEW_SECONDS:
            self._asked_at = now
            self._elected = False  # also when MongoDB fails
            self._elected = self._housekeeping.acquire(SWEEP, self._owner, SWEEP_LEASE_SECONDS)
        return self._elected

    def sweep(self) -> int:
        """Sweep once.

        Returns:
            The number of jobs that were sent.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        due = self._claims.due(SWEEP_BATCH)
        if due or time.monotonic() - self._expired_at > EXPIRE_SECONDS:
            self._expired_at = time.monotonic()
            for ids in self._claims.expire():
                log.error("operation_expired", **ids)
            self._start_reconciliation()
        if time.monotonic() - self._checked_at > CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self._check()
            for long_wait in take_long_waits(self._store):
                log.warning("operation_waits_long", **long_wait)
        sent, held_back = self._send(due)
        if sent or held_back:  # which both leave their place in the next round to others
            self._claims.mark_sent([*sent, *held_back])
        return len(sent)

    def _send(self, due: Sequence[Due]) -> tuple[list[Due], list[Due]]:
        """Send jobs until Redis fails; the others are due again in the next round.

        Of the operations that wait on the same cluster only one is sent, since one poll of the cluster serves all of
        them. Operations of a kind that only another release knows are sent by the sweepers of that release. Nothing is
        sent to a queue that is too long.

        Returns:
            The operations that were sent, and those whose queue is too long.
        """
        sent, held_back = list[Due](), list[Due]()
        waits: set[str] = set()
        depths = (self._queue.depths() if due else None) or {}
        for each in due:
            if each.kind not in JOBS or each.waits_on in waits:
                continue
            if depths.get(QUEUES[JOBS[each.kind]], 0) > MOST_QUEUED:
                held_back.append(each)
                continue
            if not self._queue.send(JOBS[each.kind], [each.instance_id, each.binding_id, each.operation_id]):
                break
            ids = {"instance_id": each.instance_id, "binding_id": each.binding_id, "operation": each.operation_id}
            log.info("operation_sent", **ids, waits_on=each.waits_on)
            sent.append(each)
            if each.waits_on:
                waits.add(each.waits_on)
        return sent, held_back

    def _start_reconciliation(self) -> None:
        """Start the reconciliation once an hour for all workers; a new broker waits for the first hour to pass."""
        run = uuid4().hex
        first = not self._housekeeping.read(RECONCILE)
        if not self._housekeeping.acquire(RECONCILE, run, RECONCILE_SECONDS) or first:
            return
        self._housekeeping.request_reconciliation(run, repair=False)
        if not self._queue.send(RECONCILE, [run]):
            self._housekeeping.take_reconciliation(run)
            self._housekeeping.release(RECONCILE, run)
