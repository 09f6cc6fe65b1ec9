"""Sends jobs to the workers by name. A message is a nudge: losing it costs seconds, so sending never fails a request.

Sending is bounded: Redis may refuse, hang or accept connections and never answer. After a failure nothing is sent for
a while; the sweep sends what was left out.
"""

import threading
import time
from typing import Any

from broker_api.jobs.redis_errors import OutageLog, sentence
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.settings.redis_settings import RedisSettings
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


class Queue:
    """A sender of jobs that knows their names and nothing of their code."""

    def __init__(self, redis: RedisSettings) -> None:
        self._app = RedisCelery("broker_api", set_as_current=False)
        self._app.config_from_object(_bounded(redis))
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._silent_until = 0.0
        self._outage = OutageLog("sending jobs")
        self._probe = redis.client(SOCKET_SECONDS)
        self._probing = threading.Lock()
        self._probed_at = 0.0
        self._answer: str | None = None

    def send(self, job: str, arguments: list[str | None]) -> bool:
        """Send a job within about a second; return whether Redis took it."""
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
            self._outage.failed(error)
            return False
        self._outage.recovered()
        return True

    def trouble(self) -> str | None:
        """Return a sentence when Redis cannot be used. Takes about a second at the most; calls in parallel share it."""
        asked_at = time.monotonic()
        with self._probing:
            if self._probed_at < asked_at:
                self._answer = self._ask()
                self._probed_at = time.monotonic()
            return self._answer

    def _ask(self) -> str | None:
        """Write what each worker writes when it starts: a full Redis and a replica answer to everything else."""
        try:
            self._probe.sadd("_kombu.binding.maintenance", "maintenance\x06\x16\x06\x16maintenance")
        except Exception as error:  # noqa: BLE001 - whatever redis-py raises
            return f"{sentence(error)}; accepted operations wait, and are sent later"
        return None


def _bounded(redis: RedisSettings) -> dict[str, Any]:
    """Return settings with which a send ends within ``SOCKET_SECONDS`` or so, whatever Redis does."""
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
        **celery_settings(redis, "broker_api.jobs.redis_transport:Transport", options),
        "broker_connection_timeout": 1,
        "broker_pool_limit": CONNECTIONS,
        "task_publish_retry": False,
        "task_serializer": "json",
        "task_ignore_result": True,
        "result_backend": None,
    }
