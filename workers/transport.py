"""Celery's consumer, changed so that no error of Redis and no message ends a worker: for Celery 5.7 and kombu 5.7.

These subclasses replace parts of the consumer by settings of Celery: ``worker_consumer``, ``broker_transport`` and
``Celery(events=…)``. Each one changes a behaviour for which the libraries have no setting:

- An error answer of Redis (READONLY, OOM, NOPERM, WRONGTYPE, …) is an error of a channel for kombu, and ends the worker
  (github.com/celery/celery/issues/7946 and 5716). Here each error counts as a lost connection: the worker pauses and
  reconnects until it succeeds.
- Celery retries a heartbeat without an end, and SIGTERM does not interrupt it. Here each event is sent only once.
- kombu expects messages to be well formed (github.com/celery/celery/issues/7975 and 4308). Here a malformed message is
  logged and deleted.
- When Redis is lost while a message is not acknowledged, Celery 5.7.0 closes the connection a second time, through a
  transport without a client. Here the message is not put back then; the sweeper sends the job again.

``tests/unit/test_library_workarounds.py`` fails as soon as the libraries do not need one of these any more.
"""

import logging
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any

import structlog
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import consumer, state
from kombu.connection import Connection
from kombu.exceptions import KombuError
from kombu.transport import redis, virtual
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from broker_api.jobs import redis_transport
from broker_api.jobs.redis_errors import OutageLog, is_answer
from broker_api.json_types import JsonObject

CONNECTION_LOST: tuple[type[Exception], ...] = (RedisError, OSError)
"""Exceptions of Redis and the network; any other exception comes from the message."""
LONGEST_PAUSE_SECONDS = 3
ANSWER_SECONDS = 2.0
"""How long to wait for the answer to a BRPOP, which comes within a second."""
MOST_EVENTS = 1000
HEARTBEAT = "worker.heartbeat"

OUTAGE = OutageLog("receiving jobs")

log = structlog.get_logger(__name__)

if TYPE_CHECKING:

    class KombuQoS(redis.QoS):
        """kombu's QoS, with the methods that its type stubs lack."""

        _delivered: OrderedDict[str, Any]

        def restore_unacked(self, client: object = None) -> None:
            """Put messages that are not acknowledged back into their queues."""

        def restore_by_tag(self, tag: object, client: object = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's own
            """Put one message back into its queue."""

        def _remove_from_indices(self, delivery_tag: object, pipe: object = None) -> Any: ...  # noqa: ANN401 - kombu's own

    class CeleryDispatcher(EventDispatcher):
        """Celery's dispatcher of events, with the method that its type stubs lack."""

        def _publish(self, event: object, producer: object, routing_key: str) -> None: ...

else:
    KombuQoS, CeleryDispatcher = redis.QoS, EventDispatcher


# --- messages -------------------------------------------------------------------------------------------------


class MalformedError(ValueError):
    """A message does not have the form in which kombu and Celery write messages."""


def check_envelope(payload: object) -> None:
    """Check the form of a message. A compressed message is refused, since its contents could be of any size.

    Args:
        payload: The message as decoded JSON.

    Raises:
        MalformedError: kombu could not handle the message.
    """
    match payload:
        case {
            "body": str(),
            "content-type": str(),
            "content-encoding": str(),
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
                **properties,
            },
            **rest,
        }:
            headers = rest.get("headers") or {}
            encoded = properties.get("body_encoding") in (None, "base64")
            if isinstance(headers, dict) and not headers.get("compression") and encoded:
                return
    raise MalformedError


def _log_dropped(error: Exception) -> None:
    log.warning("message_dropped", reason="it is malformed", error=type(error).__name__)


class Message(virtual.Message):
    """A message of kombu, checked before it is read."""

    def __init__(self, payload: JsonObject, channel: virtual.Channel | None = None, **options: object) -> None:
        check_envelope(payload)
        super().__init__(payload, channel=channel, **options)


class QoS(KombuQoS):
    """kombu's list of messages that are not acknowledged."""

    def restore_unacked(self, client: object = None) -> None:
        """Put messages back into their queues; without a connection the sweeper sends their jobs again."""
        if OUTAGE.ongoing:
            self._delivered.clear()
        else:
            self._unless_closed(partial(super().restore_unacked, client))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; do nothing without a connection."""
        self._unless_closed(partial(super().ack, delivery_tag))

    def _unless_closed(self, call: Callable[[], None]) -> None:
        try:
            call()
        except AttributeError:
            transport: virtual.Transport | None = self.channel.connection
            if transport is not None and transport.client is not None:
                raise

    def restore_by_tag(self, tag: object, client: object = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's own
        """Put a message back into its queue; delete a malformed one, which would come back again and again."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except CONNECTION_LOST:
            raise
        except Exception as error:  # noqa: BLE001 - a malformed entry can raise anything
            self._remove_from_indices(tag).execute()
            _log_dropped(error)


class Channel(redis_transport.Channel):
    """The channel of a consumer."""

    QoS = QoS
    Message = Message
    _in_poll: Any

    def close(self) -> None:
        """Close the connections; when Redis is lost, send nothing and wait for nothing."""
        if self._in_poll and not OUTAGE.ongoing and not self._in_poll.can_read(timeout=ANSWER_SECONDS):
            OUTAGE.failed(TimeoutError())
        if OUTAGE.ongoing:
            self._in_poll = False
            self.auto_delete_queues.clear()
        super().close()

    def _brpop_read(self, **options: object) -> object:
        try:
            return super()._brpop_read(**options)
        except Empty:
            OUTAGE.recovered()
            raise
        except CONNECTION_LOST:
            raise
        except Exception as error:  # noqa: BLE001 - a malformed entry can raise anything
            _log_dropped(error)
            raise Empty from None

    def _receive_one(self, c: object) -> object:
        try:
            return super()._receive_one(c)
        except (Empty, RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a malformed broadcast can raise anything
            _log_dropped(error)
            raise Empty from None


class Transport(redis_transport.Transport):
    """The transport of a consumer."""

    Channel = Channel
    connection_errors = (*redis_transport.Transport.connection_errors, RedisError)

    def _deliver(self, message: object, queue: str | None) -> None:
        try:
            super()._deliver(message, queue)
        except CONNECTION_LOST:
            raise
        except Exception as error:  # noqa: BLE001 - a malformed message can raise anything
            _log_dropped(error)
            self._acknowledge(message)
        else:
            OUTAGE.recovered()

    def _acknowledge(self, message: object) -> None:
        """Acknowledge a malformed message that kombu has recorded as delivered, so that it does not come back."""
        match message:
            case {"properties": {"delivery_tag": str(tag)}}:
                for channel in self.channels or ():
                    if tag in (channel.qos._delivered or ()):  # noqa: SLF001 - kombu has no other way
                        channel.basic_reject(tag, requeue=False)


# --- events ---------------------------------------------------------------------------------------------------


class Dispatcher(CeleryDispatcher):
    """Sends each event once; keeps a limited number of unsent events. A heartbeat reports that Redis is lost."""

    def __init__(self, connection: Connection | None = None, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        super().__init__(connection, **{**options, "buffer_while_offline": False})
        self._outbound_buffer: deque[tuple[object, str]] = deque(maxlen=MOST_EVENTS)

    def _publish(self, event: object, producer: object, routing_key: str, **_: object) -> None:
        lost = None
        if not OUTAGE.ongoing:
            try:
                super()._publish(event, producer, routing_key)
            except (RedisError, OSError, KombuError) as error:
                lost = error
            else:
                return
        if routing_key != HEARTBEAT:
            self._outbound_buffer.append((event, routing_key))
        if lost and not is_answer(lost):
            OUTAGE.failed(lost)
            if routing_key == HEARTBEAT:
                raise RedisConnectionError("a heartbeat was not sent") from lost


class Events(CeleryEvents):
    """Celery's events with the dispatcher above."""

    dispatcher_cls = "workers.transport:Dispatcher"


# --- the consumer ---------------------------------------------------------------------------------------------


class Consumer(consumer.Consumer):
    """Celery's consumer, which handles each error like a lost connection."""

    event_dispatcher: EventDispatcher | None

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        super().__init__(*args, **options)
        self.connection_errors = (Exception,)
        self._failures = 0
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # about a setting in celeryconfig.py
        for name in ("consumer", "connection", "mingle"):
            # Celery logs each attempt; OUTAGE logs changes.
            logging.getLogger(f"celery.worker.consumer.{name}").addFilter(lambda _: not OUTAGE.ongoing)

    def ensure_connected(self, conn: Connection) -> Connection:
        """Try to connect until it succeeds; SIGTERM ends it within a second."""
        conn.ensure_connection(
            lambda error, _: OUTAGE.failed(error),
            interval_start=1,
            interval_step=1,
            interval_max=LONGEST_PAUSE_SECONDS,
            callback=state.maybe_shutdown,
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
        until = time.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.5 * 2**self._failures)
        while time.monotonic() < until:
            state.maybe_shutdown()
            time.sleep(0.1)
