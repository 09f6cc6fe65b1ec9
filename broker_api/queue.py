"""Sends jobs to the workers by name. A message is a nudge: losing it costs seconds, so sending never fails a request.

Sending is bounded: Redis may refuse, hang or accept connections and never answer. After a failure nothing is sent for
a while; the sweep sends what was left out.
"""

import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog
from celery import Celery

from broker_api.state.records import Kind

JOBS: dict[str, str] = {kind: f"atlas.{kind}" for kind in Kind}
RECONCILE = "maintenance.reconcile"
QUEUES: dict[str, str] = {
    "atlas.provision": "instances",
    "atlas.update": "instances",
    "atlas.deprovision": "instances",
    "atlas.bind": "bindings",
    "atlas.unbind": "bindings",
    RECONCILE: "maintenance",
}
"""Which queue each job goes to, so that each kind of work can have its own worker pods."""

PAUSE_SECONDS = 2.0
SOCKET_SECONDS = 0.5
CONNECTIONS = 10

log = structlog.get_logger(__name__)


def address(redis_url: str) -> str:
    """Give the URL as Celery is to have it: it checks no certificate of ``rediss://`` that it is not told to check."""
    if redis_url.startswith("sentinel://"):
        return redis_url.partition("?")[0]  # what is behind it is for ``transport_options``
    if not redis_url.startswith("rediss://") or "ssl_cert_reqs=" in redis_url:
        return redis_url
    return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=required"


def transport_options(redis_url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Add what a ``sentinel://`` URL says of its master: ``?master_name=mymaster``."""
    if not redis_url.startswith("sentinel://"):
        return options
    master = parse_qs(urlsplit(redis_url.rpartition(";")[2]).query).get("master_name", ["mymaster"])
    return {**options, "master_name": master[0]}


class Queue:
    """A sender of jobs that knows their names and nothing of their code."""

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("broker_api", set_as_current=False)
        self._app.conf.update(_bounded(redis_url))
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._silent_until = 0.0

    def send(self, job: str, arguments: list[str | None]) -> bool:
        """Send a job within about a second; say whether Redis took it."""
        if not self._slots.acquire(timeout=2 * SOCKET_SECONDS):
            return False
        try:
            return time.monotonic() >= self._silent_until and self._send(job, arguments)
        finally:
            self._slots.release()

    def _send(self, job: str, arguments: list[str | None]) -> bool:
        try:
            self._app.send_task(job, args=arguments, queue=QUEUES[job], ignore_result=True)
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, the sweep sends it later
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            log.warning("job not sent, the sweep will", job=job, error=type(error).__name__)
            return False
        return True

    def trouble(self) -> str | None:
        """Ask Redis whether it is there; a sentence when it is not. Takes about a second at the most."""
        try:
            with self._app.connection_for_write() as connection:
                connection.default_channel.client.ping()
        except Exception as error:  # noqa: BLE001 - whatever the transport raises
            return f"Redis does not answer ({type(error).__name__}); accepted operations wait, and are sent later"
        return None


def _bounded(redis_url: str) -> dict[str, Any]:
    """Give settings with which a send ends within ``SOCKET_SECONDS`` or so, whatever Redis does."""
    options = {
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # No retry at any level: the sweep is the retry.
        "max_retries": 0,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
    }
    return {
        "broker_url": address(redis_url),
        "broker_transport_options": transport_options(redis_url, options),
        "broker_connection_timeout": 1,
        "broker_pool_limit": CONNECTIONS,
        "task_publish_retry": False,
        "task_serializer": "json",
        "task_ignore_result": True,
        "result_backend": None,
    }
