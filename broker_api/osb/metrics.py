"""Metrics for Prometheus: the requests of this server and all operations in MongoDB. Also logs each request."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from broker_api.errors import ErrStorageMongoConnection
from broker_api.service.health import Health

# The last buckets are for requests that wait for their operations.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MUTATIONS = frozenset({"PUT", "PATCH", "DELETE"})
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"}) | _MUTATIONS

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory in which all processes of a server count; prometheus_client reads it too."""

log = structlog.get_logger(__name__)


def forget_process(process: int) -> None:
    """Remove from the metrics of a server what one of its processes was doing when it ended."""
    if DIRECTORY in os.environ:
        mark_process_dead(process)


class Metrics:
    """The metrics of one app, in their own registry."""

    def __init__(self, health: Health) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Operations(health))
        own: CollectorRegistry | None = self._registry
        if DIRECTORY in os.environ:  # the metrics of all processes are in files of this directory
            MultiProcessCollector(self._registry)
            own = None
        self._requests = Histogram(
            "broker_http_request_seconds",
            "Requests and how long they took, by method, route and status.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=own,
        )
        self._waiters = Gauge(
            "broker_sync_waiters",
            "Requests without accepts_incomplete=true that are being answered: they may wait for their jobs.",
            multiprocess_mode="livesum",
            registry=own,
        )

        self._failed_logins = Counter(
            "broker_failed_logins",
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
        app.teardown_request(self._tear_down)

    def show(self) -> Response:
        """Return the response to ``/metrics``."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _begin(self) -> None:
        if request.method in _MUTATIONS and not g.caller.accepts_incomplete:
            g.waiting = True
            self._waiters.inc()

    def _tear_down(self, _: BaseException | None) -> None:
        if g.pop("waiting", default=False):
            self._waiters.dec()

    def _finish(self, response: Response) -> Response:
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
class _Operations(Collector):
    """Reads the number of operations from MongoDB at each scrape, since every process of the broker changes it."""

    health: Health

    def collect(self) -> Iterator[Metric]:
        up = "Whether MongoDB answers."
        try:
            counts, oldest = self.health.operations()
        except ErrStorageMongoConnection:
            yield GaugeMetricFamily("broker_mongodb_up", up, value=0)
            return
        yield GaugeMetricFamily("broker_mongodb_up", up, value=1)
        operations = GaugeMetricFamily(
            "broker_operations",
            "Operations in MongoDB: open ones now, others at the last count.",
            labels=("kind", "state"),
        )
        for (kind, state), number in counts.items():
            operations.add_metric((kind, state), number)
        yield operations
        text = "For how long the oldest due operation has waited for a worker."
        yield GaugeMetricFamily("broker_oldest_due_seconds", text, value=oldest)
