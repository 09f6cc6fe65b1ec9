"""Watches the clusters on which operations of this worker wait, and ends these operations when Atlas is done.

One thread for each such cluster polls it together with the other workers. Waiting holds no thread of the pool and no
lease: when this worker dies, its operations are due after ``UNWATCHED_SECONDS`` and another worker goes on.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from broker_api import tracing
from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import JOBS, Queue
from broker_api.state.operation_claims import Claims, Due, Fences
from broker_api.state.records import State
from workers.atlas.client import AtlasClient, AtlasError
from workers.clusters.change_status import (
    Change,
    ClusterStatus,
    Status,
    cluster_key,
    pause_after,
)
from workers.engine.backoff import backoff
from workers.engine.results import Done, HeldBackError
from workers.metrics import OperationTimes

if TYPE_CHECKING:
    from broker_api.state.fields import OperationFields, StepsFields

THREAD_IDLE_SECONDS = 60.0
"""How long a thread waits for other operations on its cluster: it keeps the connection to Atlas."""
SHORTEST_SLEEP_SECONDS = 0.01
UNWATCHED_SECONDS = 5.0
KEEP_SECONDS = 2.0
"""How often the watched operations are written to be due later."""
HELD_BACK_SECONDS = 2.0
WAITING = "Waiting until Atlas has applied the change on the cluster {}."
"""The description of operations that wait."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Waiting:
    """An operation that waits until a change has reached its cluster.

    Attributes:
        due: The operation, with the arguments of its job.
        fence: The number of the claim under which it was written as waiting.
        step: The step that waits.
        change: The change.
        done: The result of the operation then, if nothing else is left to do; else its job is sent.
        progress: When the operation has reached its phases.
        log_context: The key-values of the log lines of the operation.
        look_at: When the cluster is to be looked at first, in monotonic seconds.
        traceparent: The span of its job, if it is traced.
    """

    due: Due
    fence: int
    step: str
    change: Change
    done: Done[Any] | None
    progress: OperationTimes
    log_context: Mapping[str, Any]
    look_at: float = 0.0
    traceparent: str | None = None


class ClusterWatcher:
    """The clusters that this process watches."""

    def __init__(
        self,
        status: ClusterStatus,
        claims: Claims,
        queue: Queue,
        client: Callable[[str], AtlasClient],
        stopping: threading.Event,
    ) -> None:
        self._status = status
        self._claims = claims
        self._queue = queue
        self._client = client
        self._stopping = stopping
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], dict[str, Waiting]] = {}
        self.unwatched_seconds = UNWATCHED_SECONDS
        """After how many seconds without this worker its operations are due."""
        self.show_end: Callable[[Due, str], None] = lambda due, _: self._send_job(due)
        """Shows the end of an operation in Flower; without a connection for events, by a job that finds the end."""

    def watches(self, project: str, cluster: str) -> bool:
        """Return whether this process watches a cluster now."""
        with self._changed:
            return bool(self._waiting.get((project, cluster)))

    def watch(self, project: str, cluster: str, waiting: Waiting) -> None:
        """Watch a cluster until an operation has ended, which has been written as waiting on the cluster.

        Args:
            project: The project of the cluster.
            cluster: The cluster.
            waiting: The operation.
        """
        with self._changed:
            begun = (project, cluster) in self._waiting
            self._waiting.setdefault((project, cluster), {})[waiting.due.key] = waiting
            self._changed.notify_all()
        if begun:
            return
        thread = threading.Thread(target=self._watch, args=(project, cluster), name=f"watch {cluster}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the process may not have more threads; the sweeper sends the operation
            log.warning("cluster_not_watched", cluster=cluster, reason=str(error))
            with self._changed:
                del self._waiting[project, cluster]

    def _watch(self, project: str, cluster: str) -> None:
        """Look at a cluster while operations of this process wait on it."""
        failures, kept_at, next_look = 0, time.monotonic(), 0.0
        status: Status = {}
        while waiting := self._waiting_on(project, cluster):
            look_at = next_look or waiting[0].look_at
            stopping = self._stopping.wait(max(SHORTEST_SLEEP_SECONDS, look_at - time.monotonic()))
            waiting = self._waiting_on(project, cluster)
            if stopping:
                self._send(project, cluster, waiting)  # another worker goes on
                continue
            try:
                if not all(self._status.is_applied(one.change, status) for one in waiting):
                    looked_at = time.monotonic()
                    status = self._status.look(project, cluster)
                    if status["turn"]:
                        with _span_of_poll(waiting):
                            status = self._status.poll(self._client(project), cluster, status)
                    next_look = looked_at + pause_after(status)
                    waiting = self._waiting_on(project, cluster)  # with those that have come during the poll
                confirmed = [one for one in waiting if self._status.is_applied(one.change, status)]
                self._end(project, cluster, confirmed)
                failures = 0
                left = [one for one in waiting if one not in confirmed]
                if not left:
                    next_look = 0.0
                elif time.monotonic() - kept_at > KEEP_SECONDS:
                    self._keep(project, cluster, left)
                    kept_at = time.monotonic()
            except ErrStorageMongoConnection as error:
                log.warning("cluster_not_watched", cluster=cluster, reason=error.reason)
                next_look = time.monotonic() + 1.0
            except (AtlasError, HeldBackError) as error:
                failures += isinstance(error, AtlasError)
                next_look = time.monotonic() + self._after_error(project, cluster, waiting, error, failures)
            except Exception:
                log.exception("watch_failed", cluster=cluster)
                next_look = time.monotonic() + UNWATCHED_SECONDS

    def _waiting_on(self, project: str, cluster: str) -> list[Waiting]:
        """Return the operations that wait on a cluster; wait for one if there is none.

        Returns:
            The operations; none when the thread of the cluster ends.
        """
        with self._changed:
            waiting = self._waiting[project, cluster]
            if not self._changed.wait_for(lambda: waiting, THREAD_IDLE_SECONDS):
                del self._waiting[project, cluster]
            return list(waiting.values())

    def _end(self, project: str, cluster: str, confirmed: Collection[Waiting]) -> None:
        """End the operations whose change has reached the cluster: all with the same result in one write."""
        alike: dict[tuple[str, str, bool], list[Waiting]] = defaultdict(list)
        for one in confirmed:
            alike[one.due.kind, one.step, one.done is None].append(one)
        for (kind, step, _), group in alike.items():
            done = group[0].done
            if done is None:
                self._send(project, cluster, group)
                continue
            name = cluster_key(project, cluster)
            ended = self._claims.finish_waiting(
                _fences(group), name, done.phase, done.changes, done.description, kind=kind, step=step
            )
            self._drop(project, cluster, group)
            if ended < len(group):  # a job of each finds out which ones have changed meanwhile
                operations = [one.due.operation_id for one in group]
                log.info("operations_finished", cluster=cluster, ended=ended, operations=operations)
                for one in group:
                    self._send_job(one.due)
                continue
            for one in group:
                one.progress.succeeded()
                log.info("operation_finished", state=State.SUCCEEDED, description=done.description, **one.log_context)
                self.show_end(one.due, done.description)

    def _after_error(
        self,
        project: str,
        cluster: str,
        waiting: Collection[Waiting],
        error: AtlasError | HeldBackError,
        failures: int,
    ) -> float:
        """Describe the error of a poll in the operations; return the seconds until the next poll."""
        if isinstance(error, HeldBackError):
            self._keep(project, cluster, waiting, str(error))
            return min(error.seconds, HELD_BACK_SECONDS)
        pause = max(backoff(failures), error.retry_after or 0.0)
        if error.retryable:
            self._keep(project, cluster, waiting, error.sentence(f"the cluster {cluster}"), pause)
        else:
            self._send(project, cluster, waiting)  # each job takes its end from the status
        return pause

    def _keep(
        self, project: str, cluster: str, waiting: Collection[Waiting], trouble: str | None = None, pause: float = 0.0
    ) -> None:
        """Let operations be due later, since this worker watches the cluster, and tell their users of trouble."""
        description = f"{trouble} It is tried again." if trouble else WAITING.format(cluster)
        name, seconds = cluster_key(project, cluster), self.unwatched_seconds + pause
        by_step: dict[str, list[Waiting]] = defaultdict(list)
        for one in waiting:
            by_step[one.step].append(one)
        try:
            for step, group in by_step.items():
                steps: StepsFields | None = {step: {"reason": trouble}} if trouble else None
                told: OperationFields = {"description": description, "error": trouble}
                self._claims.watch_again(_fences(group), name, seconds, told, steps=steps)
        except ErrStorageMongoConnection as error:
            log.warning("cluster_not_watched", cluster=cluster, reason=error.reason)

    def _send(self, project: str, cluster: str, waiting: Collection[Waiting]) -> None:
        """Send the jobs of operations and do not watch them any more. If MongoDB fails, the sweeper sends them."""
        if not waiting:
            return
        try:
            self._claims.make_due(_fences(waiting), cluster_key(project, cluster))
            for due in (one.due for one in waiting):
                self._send_job(due)
        except ErrStorageMongoConnection as error:
            operations = [one.due.operation_id for one in waiting]
            log.warning("operations_not_sent", cluster=cluster, operations=operations, reason=error.reason)
        self._drop(project, cluster, waiting)

    def _send_job(self, due: Due) -> None:
        self._queue.send(JOBS[due.kind], [due.instance_id, due.binding_id, due.operation_id])

    def _drop(self, project: str, cluster: str, waiting: Collection[Waiting]) -> None:
        with self._changed:
            watched = self._waiting[project, cluster]
            for one in waiting:
                if watched.get(one.due.key) is one:
                    del watched[one.due.key]


def _fences(waiting: Iterable[Waiting]) -> Fences:
    return {one.due.key: one.fence for one in waiting}


def _span_of_poll(waiting: Iterable[Waiting]) -> AbstractContextManager[None]:
    """Return the span of a poll: a part of the trace of one operation, with links to the others that wait for it."""
    parents = [one.traceparent for one in waiting if one.traceparent]
    return tracing.span("poll", parent=parents[0] if parents else None, links=parents[1:])
