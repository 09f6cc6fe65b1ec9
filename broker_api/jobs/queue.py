"""Sends jobs to the workers by name. The operation is in MongoDB, so a lost message costs seconds and no operation.

Sending takes about a second at most, also when Redis refuses connections or never answers. After a failure nothing is
sent for two seconds; the sweeper sends those jobs later.
"""

import threading
import time

from broker_api.jobs.redis_errors import OutageLog, sentence
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.json_types import JsonObject
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
"""The queue of each job. Each kind of work has a queue, so that it can have worker pods of its own."""

PAUSE_SECONDS = 2.0
SOCKET_SECONDS = 0.5
CONNECTIONS = 10


class Queue:
    """Sends jobs by their names, without their code."""

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
            if time.monotonic() < self._silent_until:
                return False
            self._app.send_task(job, args=arguments, queue=QUEUES[job], ignore_result=True)
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, the sweeper sends it later
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            self._outage.failed(error)
            return False
        finally:
            self._slots.release()
        self._outage.recovered()
        return True

    def problem(self) -> str | None:
        """Return a sentence when Redis cannot be used, within about a second; calls at the same time share an answer.

        The probe writes what each worker writes when it starts: a full Redis and a replica answer to reads.
        """
        asked_at = time.monotonic()
        with self._probing:
            if self._probed_at < asked_at:
                self._answer = None
                try:
                    self._probe.sadd("_kombu.binding.maintenance", "maintenance\x06\x16\x06\x16maintenance")
                except Exception as error:  # noqa: BLE001 - whatever redis-py raises
                    self._answer = f"{sentence(error)}; accepted operations wait, and are sent later"
                self._probed_at = time.monotonic()
            return self._answer


def _bounded(redis: RedisSettings) -> JsonObject:
    """Return Celery's settings with which sending ends within about ``SOCKET_SECONDS``."""
    options = {
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # No retry at any level: the sweeper sends again.
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
