"""Celery's consumer, changed so that no error of Redis and no message ends a worker: for Celery 5.7 and kombu 5.7.

These subclasses replace parts of the consumer by settings of Celery: ``worker_consumer``, ``broker_transport`` and
``Celery(events=…)``. Each one changes a behaviour for which the libraries have no setting:

- An error answer of Redis (READONLY, OOM, NOPERM, WRONGTYPE, …) is an error of a channel for kombu, and ends the worker
  (github.com/celery/celery/issues/7946 and 5716). Here each error counts as a lost connection: the worker pauses and
  reconnects until it succeeds.
- Celery retries a heartbeat without an end, and SIGTERM does not interrupt it. Here each event is sent only once.
- Celery sends the events of jobs as they come, which took a sixth of the CPU of a busy worker. Here those of a tenth of
  a second are sent together, and the last ones when a worker stops.
- kombu expects messages to be well formed (github.com/celery/celery/issues/7975 and 4308). Here each one passes
  ``messages.rebuild``, or is logged and dropped.
- Workers ask each other for revoked jobs and listen to each other's events, which anything may have written. Here they
  do neither; the setting ``worker_enable_remote_control`` turns off broadcasts of commands.

``tests/unit/test_library_workarounds.py`` fails as soon as the libraries do not need one of these any more.
"""

import logging
import math
import time
import warnings
from collections import deque
from queue import Empty
from typing import TYPE_CHECKING, Any

import structlog
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import consumer, state
from kombu import Consumer as KombuConsumer
from kombu.asynchronous import Hub
from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from broker_api.jobs import redis_transport
from broker_api.jobs.redis_errors import OutageLog, is_answer
from workers.engine.backoff import backoff
from workers.messages import MalformedError, rebuild
from workers.queue_order import QueueOrder

CONNECTION_LOST: tuple[type[Exception], ...] = (RedisError, OSError)
"""Exceptions of Redis and the network; any other exception comes from the message."""
LONGEST_PAUSE_SECONDS = 3
BRPOP_SECONDS = 2.0
"""How long to wait for the answer to a BRPOP, which comes within a second."""
ACTIVE_SECONDS = 10.0
"""After so many seconds without an answer to a BRPOP the consumer counts as stuck."""
AGAIN_SECONDS = 0.1
"""How long to wait for a job of some queues, before it is asked again whether there is a thread for the others."""
MOST_UNSENT_EVENTS = 1000
EVENTS_SECONDS = 0.1
"""How long events of jobs are collected before they are sent: one message with many costs little more than with one."""
HEARTBEAT = "worker.heartbeat"

OUTAGE = OutageLog("receiving jobs")


class Activity:
    """What the consumer of this process has done last, in monotonic seconds."""

    received_at = -math.inf
    """An answer to a BRPOP came."""
    heartbeat_at = -math.inf
    """A heartbeat was sent."""
    turned_at = -math.inf
    """Its loop has turned, or it has tried to connect to Redis."""

    @classmethod
    def turn(cls) -> None:
        """Record a turn of the consumer's loop."""
        cls.turned_at = time.monotonic()


log = structlog.get_logger(__name__)

if TYPE_CHECKING:

    class CeleryDispatcher(EventDispatcher):
        """Celery's dispatcher of events, with what its type stubs lack."""

        _group_buffer: dict[str, list[object]]

        def _publish(self, event: object, producer: object, routing_key: str) -> None: ...

else:
    CeleryDispatcher = EventDispatcher


# --- messages -------------------------------------------------------------------------------------------------


def _log_dropped(reason: str) -> None:
    log.warning("message_dropped", reason=reason)


def _received(answer: list[bytes] | None) -> tuple[bytes, bytes] | None:
    """Return an answer to BRPOP for kombu, with the message written anew; None without a message.

    Raises:
        Empty: The message is malformed. It is no longer in Redis.
    """
    if OUTAGE.ongoing:
        OUTAGE.recovered()
    Activity.received_at = time.monotonic()
    if not answer:
        return None
    queue, written = answer
    try:
        return queue, rebuild(written)
    except MalformedError as error:
        _log_dropped(str(error))
        raise Empty from None


class Channel(redis_transport.Channel):
    """The channel of a consumer.

    A message that is received and not run when the channel closes is not put back: the sweeper sends its job again.
    """

    do_restore = False
    _in_poll: Any
    _queue_cycle: QueueOrder

    def _create_client(self, asynchronous: bool = False) -> Redis:  # noqa: FBT001, FBT002 - kombu's own
        client = super()._create_client(asynchronous)
        client.set_response_callback("BRPOP", _received)
        return client

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask Redis for a job; only for a moment while queues are left out, since a thread may become free for them."""
        left_out = len(self._queue_cycle.consume(len(self.active_queues))) < len(self.active_queues)
        super()._brpop_start(AGAIN_SECONDS if left_out else timeout)

    def close(self) -> None:
        """Close the connections; when Redis is lost, send nothing and wait for nothing."""
        if self._in_poll and not OUTAGE.ongoing and not self._in_poll.can_read(timeout=BRPOP_SECONDS):
            OUTAGE.failed(TimeoutError())
        if OUTAGE.ongoing:
            self._in_poll = False
            self.auto_delete_queues.clear()
        super().close()

    def _receive_one(self, c: object) -> object:
        """Receive an event, in Flower; workers subscribe to nothing."""
        try:
            return super()._receive_one(c)
        except (Empty, RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a malformed event can raise anything
            _log_dropped(f"event: {type(error).__name__}")
            raise Empty from None


class Transport(redis_transport.Transport):
    """The transport of a consumer."""

    Channel = Channel
    connection_errors = (*redis_transport.Transport.connection_errors, RedisError)


# --- events ---------------------------------------------------------------------------------------------------


class Dispatcher(CeleryDispatcher):
    """Sends each event once; keeps a limited number of unsent events. A heartbeat reports that Redis is lost."""

    def __init__(self, connection: Connection | None = None, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        super().__init__(connection, **{**options, "buffer_while_offline": False})
        self._outbound_buffer: deque[tuple[object, str]] = deque(maxlen=MOST_UNSENT_EVENTS)

    def _publish(self, event: object, producer: object, routing_key: str, **_: object) -> None:
        lost = None
        if not OUTAGE.ongoing:
            try:
                super()._publish(event, producer, routing_key)
            except (RedisError, OSError, KombuError) as error:
                lost = error
            else:
                if routing_key == HEARTBEAT:
                    Activity.heartbeat_at = time.monotonic()
                return
        if routing_key != HEARTBEAT:
            self._outbound_buffer.append((event, routing_key))
        if lost and not is_answer(lost):
            OUTAGE.failed(lost)
            if routing_key == HEARTBEAT:
                raise RedisConnectionError("a heartbeat was not sent") from lost

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take what another dispatcher has not sent, also the events that it has collected."""
        super().extend_buffer(other)
        if isinstance(other, Dispatcher):
            for group, events in other._group_buffer.items():  # noqa: SLF001 - Celery leaves them behind
                self._group_buffer[group].extend(events)


class Events(CeleryEvents):
    """Celery's events with the dispatcher above."""

    dispatcher_cls = "workers.transport:Dispatcher"


# --- the consumer ---------------------------------------------------------------------------------------------


class Consumer(consumer.Consumer):
    """Celery's consumer, which handles each error like a lost connection."""

    event_dispatcher: EventDispatcher | None
    task_consumer: KombuConsumer | None = None

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        alone = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, **{**options, "worker_options": {**(options.get("worker_options") or {}), **alone}})
        self.connection_errors = (Exception,)
        self._failures = 0
        self._events_due = -math.inf
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # about a setting in celeryconfig.py
        for name in ("consumer", "connection"):
            # Celery logs each attempt; OUTAGE logs changes.
            logging.getLogger(f"celery.worker.consumer.{name}").addFilter(lambda _: not OUTAGE.ongoing)

    def consumed_queues(self) -> list[str]:
        """Return the names of the queues that this worker consumes now; none while it is stuck or without Redis.

        A worker whose threads are all busy asks Redis for no message; then its heartbeats must reach Redis.
        """
        is_full = len(state.reserved_requests) >= self.pool.num_processes
        active_at = max(Activity.received_at, Activity.heartbeat_at if is_full else -math.inf)
        consumer = self.task_consumer  # Celery's thread sets it to None when Redis is lost
        if consumer is None or time.monotonic() - active_at > ACTIVE_SECONDS:
            return []
        return [queue.name for queue in consumer.queues]

    def register_with_event_loop(self, hub: Hub) -> None:
        """Let each turn of the loop be recorded, for the liveness probe, and tell how many threads there are."""
        super().register_with_event_loop(hub)
        # The option --autoscale has set max_concurrency.
        most: int | None = getattr(self.controller, "max_concurrency", None)  # type: ignore[attr-defined]  # no stub
        QueueOrder.threads = most or self.pool.num_processes
        hub.on_tick.add(Activity.turn)  # type: ignore[attr-defined]  # a set, in the stub a list

    def on_send_event_buffered(self) -> None:  # type: ignore[override]  # the stub has it as an attribute
        """Send the event of a job soon, together with those of other jobs; any thread may call this."""
        now = time.monotonic()
        if now >= self._events_due:
            self._events_due = now + EVENTS_SECONDS
            self.call_soon(self.timer.call_after, EVENTS_SECONDS, self._send_events)

    def _send_events(self) -> None:
        if self.event_dispatcher:
            self.event_dispatcher.flush()

    def shutdown(self) -> None:
        """Send the last events, when all jobs have ended, and close the connections."""
        self._send_events()
        super().shutdown()

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try to connect until it succeeds; SIGTERM ends it within a second."""
        conn.ensure_connection(
            lambda error, _: OUTAGE.failed(error),
            interval_start=1,
            interval_step=1,
            interval_max=LONGEST_PAUSE_SECONDS,
            callback=self._wait,
        )
        self.first_connection_attempt = False
        return conn

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Pause; Celery starts the consumer again."""
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection and pause; Celery starts the consumer again."""
        self._failures = self._failures + 1 if OUTAGE.ongoing else 0
        OUTAGE.failed(exc)
        super().on_connection_error_after_connected(exc)
        self._pause(exc)

    def _pause(self, error: Exception) -> None:
        # kombu raises KeyError for a stale connection.
        if not isinstance(error, (*CONNECTION_LOST, KombuError, KeyError)):
            log.error("consumer_failed", exc_info=error)
        OUTAGE.failed(error)
        until = time.monotonic() + backoff(self._failures, LONGEST_PAUSE_SECONDS)
        while time.monotonic() < until:
            self._wait()
            time.sleep(0.1)

    def _wait(self) -> None:
        Activity.turn()
        state.maybe_shutdown()
