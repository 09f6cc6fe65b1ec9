"""The metrics of a worker for Prometheus, served on BROKER_METRICS_PORT together with the worker's probes.

They are counted also while nothing serves them, which takes some microseconds for each call of Atlas. Labels have few
values: names of endpoints, statuses, kinds of operations, projects; never an id of a user.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from broker_api.errors import SettingError
from broker_api.json_types import JsonObject
from broker_api.metrics_directory import DIRECTORY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Probe = Callable[[], tuple[bool, JsonObject]]
"""Returns whether all is well, and the body of the answer."""

COUNTING = suppress(OSError)
"""The context of each count: an error with the files of several processes loses the count and fails no operation."""

_CALL_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_OPERATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1500)

REQUESTS = Counter("atlas_broker_atlas_requests", "Calls of Atlas, by endpoint and status.", ("endpoint", "status"))
REQUEST_SECONDS = Histogram(
    "atlas_broker_atlas_request_seconds", "How long calls of Atlas took.", ("endpoint",), buckets=_CALL_BUCKETS
)
RATE_LIMIT_REMAINING = Gauge(
    "atlas_broker_rate_limit_remaining",
    "Calls that were left in the project's rate bucket at the latest answer.",
    ("project",),
    multiprocess_mode="mostrecent",
)
RETRIES = Counter("atlas_broker_retries", "Steps of operations that are tried again after an error.", ("type",))
TAKEOVERS = Counter(
    "atlas_broker_lease_takeovers", "Operations that were taken over from a worker whose lease had expired.", ("type",)
)
PHASE_SECONDS = Histogram(
    "atlas_broker_operation_seconds",
    "How long the phases of operations took.",
    ("type", "phase"),
    buckets=_OPERATION_BUCKETS,
)


@dataclass(frozen=True)
class OperationTimes:
    """When an operation has reached its phases, in monotonic seconds of this process.

    Attributes:
        kind: What the operation does.
        claimed: A worker has claimed it for the first time.
        changed: Atlas has taken its last change; None without a change that has to be applied.
    """

    kind: str
    claimed: float
    changed: float | None

    def succeeded(self) -> None:
        """Count the phases after the claim of an operation that has succeeded just now."""
        now = time.monotonic()
        taken = now if self.changed is None else self.changed
        with COUNTING:
            PHASE_SECONDS.labels(self.kind, "atlas").observe(max(0.0, taken - self.claimed))
            if self.changed is not None:
                PHASE_SECONDS.labels(self.kind, "applying").observe(now - self.changed)


def serve(port: int, probes: Mapping[str, Probe], *, processes: bool) -> None:
    """Serve probes and metrics on all addresses of IPv6 and IPv4, in a background thread.

    Args:
        port: The port.
        probes: What answers which path; every other path has the metrics.
        processes: The pool has processes, which count into the files of a directory.

    Raises:
        SettingError: The port cannot be opened, or the processes have no directory.
    """
    registry = REGISTRY
    if DIRECTORY in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    elif processes:
        raise SettingError(f"BROKER_METRICS_PORT: with a pool of processes {DIRECTORY} must name an empty directory")
    try:
        try:
            server, _ = start_http_server(port, "::", registry)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            server, _ = start_http_server(port, "0.0.0.0", registry)  # noqa: S104 - a machine without IPv6
    except OSError as error:
        raise SettingError(f"BROKER_METRICS_PORT: port {port} cannot be opened: {error.strerror}") from None
    server.set_app(_with_probes(probes, make_wsgi_app(registry)))


def _with_probes(probes: Mapping[str, Probe], others: "WSGIApplication") -> "WSGIApplication":
    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        probe = probes.get(environ["PATH_INFO"])
        if probe is None:
            return others(environ, start_response)
        is_well, body = probe()
        start_response("200 OK" if is_well else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]

    return answer
