"""Numbers for Prometheus: of the requests of this process, and of all operations in MongoDB."""

import time
from collections.abc import Iterator

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from broker_api.errors import ErrStorageMongoConnection
from broker_api.osb.interface import Service
from broker_api.osb.queries import accepts_incomplete

# The last ones are for requests that wait for their job.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MUTATIONS = frozenset({"PUT", "PATCH", "DELETE"})
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"}) | _MUTATIONS

log = structlog.get_logger()


class Metrics:
    """The numbers of one app, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Operations(service))
        labels = ("method", "route", "status")
        text = "Requests and how long they took, by method, route and status."
        self._requests = Histogram(
            "broker_http_request_seconds", text, labels, buckets=_BUCKETS, registry=self._registry
        )
        text = "Requests without accepts_incomplete=true that are being answered: they may wait for their jobs."
        self._waiters = Gauge("broker_sync_waiters", text, registry=self._registry)

    def observe(self, app: Flask) -> None:
        """Count the app's requests from now on."""
        app.before_request(self._start_waiting)
        app.after_request(self._count)
        app.teardown_request(self._stop_waiting)

    def show(self) -> Response:
        """Answer ``/metrics``."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    def _start_waiting(self) -> None:
        if request.method in _MUTATIONS and not accepts_incomplete():
            g.waiting = True
            self._waiters.inc()

    def _stop_waiting(self, _: BaseException | None) -> None:
        if g.pop("waiting", default=False):
            self._waiters.dec()

    def _count(self, response: Response) -> Response:
        seconds = time.perf_counter() - g.started
        route = str(request.url_rule) if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, response.status_code).observe(seconds)
        _tell(route, response.status_code, seconds)
        return response


def _tell(route: str, status: int, seconds: float) -> None:
    """Leave one line in the log for each request; probes come every few seconds and stay quiet."""
    level = log.info if route.startswith("/v2/") or status >= 400 else log.debug  # noqa: PLR2004 - errors start there
    level("request answered", method=request.method, route=route, status=status, seconds=round(seconds, 4))


class _Operations(Collector):
    """Operations are counted at each scrape, since every process of the broker changes them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        try:
            counts, oldest = self._service.operation_counts(), self._service.oldest_due_seconds()
        except ErrStorageMongoConnection:
            yield GaugeMetricFamily("broker_mongodb_up", "Whether MongoDB answers.", value=0)
            return
        yield GaugeMetricFamily("broker_mongodb_up", "Whether MongoDB answers.", value=1)
        operations = GaugeMetricFamily("broker_operations", "Operations in MongoDB.", labels=("kind", "state"))
        for (kind, state), number in counts.items():
            operations.add_metric((kind, state), number)
        yield operations
        text = "For how long the oldest due operation has waited for a worker."
        yield GaugeMetricFamily("broker_oldest_due_seconds", text, value=oldest)
