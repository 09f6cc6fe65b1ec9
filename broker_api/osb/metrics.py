"""Metrics for Prometheus: the requests of this server and the state of the whole broker. Also logs each request."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, after_this_request, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import JOBS, QUEUES
from broker_api.metrics_directory import DIRECTORY, check_directory
from broker_api.service.health import Figures, Health
from broker_api.state.bind_reads import DEFAULT_LIMIT
from broker_api.state.open_operations import Reason
from broker_api.state.process_report import SENDS
from broker_api.state.records import Kind, State

# The last buckets are for requests that wait for their operations.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MUTATIONS = frozenset({"PUT", "PATCH", "DELETE"})
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"}) | _MUTATIONS

ENDS = (State.SUCCEEDED, State.FAILED)

log = structlog.get_logger(__name__)


def forget_process(process: int) -> None:
    """Remove from the metrics of a server what one of its processes was doing when it ended."""
    if DIRECTORY in os.environ:
        mark_process_dead(process)


class Metrics:
    """The metrics of one app, in their own registry."""

    def __init__(self, health: Health) -> None:
        """Create them.

        Args:
            health: The state of the whole broker.

        Raises:
            SettingError: The directory of several processes cannot be used.
        """
        check_directory(os.environ)
        self._registry = CollectorRegistry()
        self._registry.register(_SharedFigures(health))
        own: CollectorRegistry | None = self._registry
        if DIRECTORY in os.environ:  # the metrics of all processes are in files of this directory
            MultiProcessCollector(self._registry)
            own = None
        self._requests = Histogram(
            "atlas_broker_http_request_seconds",
            "Requests and how long they took, by method, route and status.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=own,
        )
        self._waiters = Gauge(
            "atlas_broker_sync_waiters",
            "Requests without accepts_incomplete=true that are being answered: they may wait for their jobs.",
            multiprocess_mode="livesum",
            registry=own,
        )

        self._failed_logins = Counter(
            "atlas_broker_failed_logins",
            "Requests with a wrong name or password: wrong, or limited when there were too many before.",
            ("answer",),
            registry=own,
        )

    def count_failed_login(self, answer: str) -> None:
        """Count a request with a wrong name or password, with how it is answered."""
        self._failed_logins.labels(answer).inc()

    def observe(self, app: Flask) -> None:
        """Count and log the app's requests from now on."""
        app.before_request(self._begin)
        app.after_request(self._finish)

    def show(self) -> Response:
        """Return the response to ``/metrics``."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _begin(self) -> None:
        if request.method in _MUTATIONS and not g.caller.accepts_incomplete:
            self._waiters.inc()
            after_this_request(self._count_answered)

    def _count_answered(self, response: Response) -> Response:
        self._waiters.dec()
        return response

    def _finish(self, response: Response) -> Response:
        if response.status_code == HTTPStatus.CONTINUE:
            return response  # no answer: the server has asked whether to read the body
        seconds = time.perf_counter() - g.started
        route = str(request.url_rule) if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, response.status_code).observe(seconds)
        # Probes come every few seconds; only their errors are worth a line.
        line = {"method": request.method, "route": route, "status": response.status_code, "seconds": round(seconds, 4)}
        if route.startswith("/v2/") or response.status_code >= HTTPStatus.BAD_REQUEST:
            log.info("request_answered", **line)
        else:
            log.debug("request_answered", **line)
        return response


@dataclass(eq=False)
class _SharedFigures(Collector):
    """Reads the state of the broker at each scrape, since each of its processes changes it."""

    health: Health

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; without MongoDB only that it does not answer."""
        up = "Whether MongoDB answers; if not, most metrics of the broker are absent."
        try:
            figures = self.health.figures()
        except ErrStorageMongoConnection:
            yield _gauge("mongodb_up", up, (), {(): 0})
            return
        yield _gauge("mongodb_up", up, (), {(): 1})
        yield from _operations(figures)
        yield from _queues(figures)
        yield from _atlas(figures)


def _operations(figures: Figures) -> Iterator[Metric]:
    opened = figures.open
    running = {(kind,): opened.by_state[kind, State.IN_PROGRESS] for kind in Kind}
    ends = figures.state.counters("ends")
    ended = {(kind, state): ends.get(kind, {}).get(state, 0) for kind in Kind for state in ENDS}
    yield _counter("operations", "Operations that have ended, by result.", ("type", "result"), ended)
    yield _gauge("operations_in_progress", "Operations in progress now.", ("type",), running)
    text = "The latest operation of each instance and binding: open ones now, others at the last count."
    yield _gauge("latest_operations", text, ("type", "state"), opened.by_state + figures.ended)
    text = "Operations in progress for more than two minutes, by what they wait for."
    waiting = {(kind, reason): opened.long[kind, reason] for kind in Kind for reason in Reason}
    yield _gauge("operations_waiting_long", text, ("type", "reason"), waiting)


def _queues(figures: Figures) -> Iterator[Metric]:
    state, since = figures.state, figures.open.due_since
    yield _gauge("redis_up", "Whether Redis answers.", (), {(): int(figures.depths is not None)})
    if figures.depths is not None:
        text = "Messages in Redis that no worker has taken."
        yield _gauge("queue_depth", text, ("queue",), {(queue,): depth for queue, depth in figures.depths.items()})
    oldest: dict[tuple[str, ...], float] = {}
    for kind, job in JOBS.items():
        seconds = max(0.0, (state.now - since.get(kind, state.now)).total_seconds())
        oldest[QUEUES[job],] = max(seconds, oldest.get((QUEUES[job],), 0.0))
    text = "For how long the oldest due operation has waited for a worker."
    yield _gauge("oldest_waiting_seconds", text, ("queue",), oldest)
    workers = {(queue,): number for queue, number in state.workers_by_queue.items()}
    yield _gauge("workers", "Workers that consume the queue now.", ("queue",), workers)
    sends = state.counters("sends")
    sent = {(result,): sends.get(result, 0) for result in SENDS}
    yield _counter("sends", "Messages that processes have sent to Redis, or tried to.", ("result",), sent)


def _atlas(figures: Figures) -> Iterator[Metric]:
    state = figures.state
    circuits = {(project,): int(reason is not None) for project, reason in state.circuits.items()}
    yield _gauge("circuit_open", "Whether calls to the project are stopped.", ("project",), circuits)
    text = "Workers that Atlas refuses or slows down, or with other encryption keys (project is empty)."
    yield _gauge("workers_in_trouble", text, ("trouble", "project"), state.troubles)
    users = {(project,): number for project, number in figures.users.items()}
    yield _gauge("project_users", "Database users of the project, of the broker and others.", ("project",), users)
    limits = {(project,): room.get("limit") or DEFAULT_LIMIT for project, room in state.rooms.items()}
    yield _gauge("project_users_limit", "How many database users the project may have.", ("project",), limits)
    drift = {(kind,): number for kind, number in state.drift.items()}
    text = "Differences between Atlas and MongoDB that the last reconciliation has left."
    yield _gauge("drift", text, ("kind",), drift)
    text = "Projects that the last reconciliation could not compare."
    yield _gauge("reconcile_failed_projects", text, (), {(): len(state.not_compared)})
    if state.reconciled_at:
        text = "When the last reconciliation ended, in seconds since 1970."
        yield _gauge("reconciled_timestamp_seconds", text, (), {(): state.reconciled_at.timestamp()})


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    metric = GaugeMetricFamily(f"atlas_broker_{name}", text, labels=labels)
    for of, value in values.items():
        metric.add_metric(of, value)
    return metric


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> Metric:
    metric = CounterMetricFamily(f"atlas_broker_{name}", text, labels=labels)
    for of, value in values.items():
        metric.add_metric(of, value)
    return metric
