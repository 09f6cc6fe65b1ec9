"""Sends jobs to the workers by name. The operation is in MongoDB, so a lost message delays it by seconds only.

Sending takes at most about a second, also when Redis refuses connections or never answers. After a failure nothing is
sent for two seconds; the sweeper sends those jobs later.
"""

import secrets
import threading
import time
from contextlib import suppress
from typing import Any

from redis import RedisError
from redis.exceptions import NoPermissionError

from broker_api.jobs.redis_errors import OutageLog, sentence
from broker_api.json_types import JsonObject
from broker_api.settings.redis_settings import RedisSettings
from broker_api.state.process_report import ACCEPTED, FAILED, SKIPPED, ProcessReport
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
"""The queue of each job. Each kind of work has its own queue, so that it can have its own worker pods."""

FAILURE_PAUSE_SECONDS = 2.0
"""How long nothing is sent after a failure."""
SOCKET_SECONDS = 0.5
"""The timeout of each connection attempt, read and write."""
SEND_CONNECTIONS = 10
"""How many jobs can be sent at the same time."""
_SENDING: JsonObject = {
    "broker_connection_timeout": 1,
    "broker_pool_limit": SEND_CONNECTIONS,
    "task_publish_retry": False,
    "task_serializer": "json",
    "task_ignore_result": True,
    "result_backend": None,
}


class Queue:
    """Sends jobs by name; the API has no code of the jobs."""

    def __init__(self, redis: RedisSettings, report: ProcessReport | None = None) -> None:
        """Create the queue; it connects when a job is sent.

        Args:
            redis: The Redis.
            report: Counts the sends and remembers a failed one for all processes.
        """
        from broker_api.jobs.redis_transport import RedisCelery, celery_settings  # noqa: PLC0415 - slow: all of Celery

        self._report = report
        self._app = RedisCelery("broker_api", set_as_current=False)
        timeouts = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS}
        options = celery_settings(redis, "broker_api.jobs.redis_transport:Transport", timeouts)
        self._app.config_from_object({**options, **_SENDING})
        self._slots = threading.BoundedSemaphore(SEND_CONNECTIONS)
        self._silent_until = 0.0
        self._outage = OutageLog("sending jobs")
        self._probe = redis.client(SOCKET_SECONDS)
        self._probing = threading.Lock()
        self._probed_at = 0.0
        self._answer: str | None = None

    def send(self, job: str, arguments: list[str | None]) -> bool:
        """Send a job; takes at most about a second.

        The id of the message is that of the operation, so that Flower shows all runs of an operation as one job.

        Args:
            job: the name, a key of ``QUEUES``.
            arguments: the ids that the task in ``workers/tasks.py`` takes; that of the operation is the last one.

        Returns:
            Whether Redis accepted the message. If it did not, the sweeper sends the job later.
        """
        result, failure = SKIPPED, None
        if self._slots.acquire(timeout=2 * SOCKET_SECONDS):
            try:
                if time.monotonic() >= self._silent_until:
                    self._app.send_task(
                        job,
                        args=arguments,
                        task_id=arguments[-1],
                        queue=QUEUES[job],
                        ignore_result=True,
                    )
                    result = ACCEPTED
                    if self._outage.ongoing:
                        self._outage.recovered()
            except Exception as error:  # noqa: BLE001 - whatever the transport raises, the sweeper sends it later
                self._silent_until = time.monotonic() + FAILURE_PAUSE_SECONDS
                self._outage.failed(error)
                result, failure = FAILED, sentence(error)
            finally:
                self._slots.release()
        if self._report:
            self._report.count(f"sends.{result}", failure=failure)
        return result == ACCEPTED

    def depths(self) -> dict[str, int] | None:
        """Return the number of messages in each queue; None when Redis does not answer within about a second."""
        names = list(dict.fromkeys(QUEUES.values()))
        try:
            with self._probe.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.llen(name)
                return dict(zip(names, pipeline.execute(), strict=True))
        except (RedisError, OSError):
            return None

    def try_to_send(self) -> str | None:
        """Write a message to a queue of its own and remove it, as ``check`` does.

        Returns:
            The policy by which Redis evicts keys when it is full; None when it does not tell.

        Raises:
            Exception: Redis does not take the message; see ``redis_errors.sentence``.
        """
        name = f"atlas-broker-check-{secrets.token_hex(8)}"
        with self._probe.pipeline(transaction=False) as pipeline:
            pipeline.lpush(name, "x" * 1000)
            pipeline.expire(name, 10)
            pipeline.delete(name)
            pipeline.execute()
        with suppress(NoPermissionError):
            told: dict[str, Any] = self._probe.info("memory")
            return told.get("maxmemory_policy")
        return None

    def problem(self) -> str | None:
        """Return why Redis cannot be used, as a sentence for operators; None if it can. Takes about a second at most.

        Concurrent calls share one probe. The probe writes the same value that each worker writes when it starts; a
        read would also succeed on a full Redis and on a replica.
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
