"""No error of Redis, and nothing that is in it, ends a worker: for Celery 5.7 and kombu 5.7.

All work-arounds for Celery's consumer stand here:

- An error answer (READONLY, OOM, NOPERM, WRONGTYPE, …) is for kombu an error of a channel, on which Celery ends the
  worker (github.com/celery/celery/issues/7946 and 5716). Here every error is a lost connection: pause, reconnect,
  forever.
- Celery sends heartbeats with retries that never end and that SIGTERM does not interrupt. Here an event is sent once.
- kombu trusts what it reads from Redis (github.com/celery/celery/issues/7975 and 4308). Here a malformed message is
  logged and thrown away, and never comes back.
- When Redis dies while a message is unacknowledged, Celery 5.7.0 closes the connection twice, the second time through a
  transport that has no client any more. There is nothing to restore then: the sweep delivers.
"""

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any

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
from broker_api.jobs.redis_trouble import Trouble, is_answer

LOST: tuple[type[Exception], ...] = (RedisError, OSError)
"""What Redis or the network raises; anything else that happens to a message is the message's fault."""
LONGEST_PAUSE_SECONDS = 3.0
ANSWER_SECONDS = 2.0
"""A waiting BRPOP is answered within a second."""
MOST_EVENTS = 1000
HEARTBEAT = "worker.heartbeat"

TROUBLE = Trouble("receiving jobs")

log = structlog.get_logger(__name__)


# --- messages -------------------------------------------------------------------------------------------------


class MalformedError(ValueError):
    """A message is not as kombu and Celery write them."""


def check_envelope(payload: Any) -> None:  # noqa: ANN401 - any JSON value
    """Raise MalformedError unless kombu can handle the message; a compressed one could be of any size."""
    properties = _part(payload, "properties")
    delivery = _part(properties, "delivery_info")
    headers = payload.get("headers") or {}
    texts = (
        payload.get("body"),
        payload.get("content-type"),
        payload.get("content-encoding"),
        properties.get("delivery_tag"),
        delivery.get("exchange"),
        delivery.get("routing_key"),
    )
    if (
        not all(isinstance(text, str) for text in texts)
        or not isinstance(headers, dict)
        or headers.get("compression")
        or properties.get("body_encoding") not in (None, "base64")
    ):
        raise MalformedError


def _part(whole: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    part = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(part, dict):
        raise MalformedError
    return part


def _dropped(error: Exception) -> None:
    log.warning("message_dropped", reason="it is malformed", error=type(error).__name__)


class _Message(virtual.Message):
    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:  # noqa: ANN401 - kombu's own
        check_envelope(payload)
        super().__init__(payload, channel=channel, **options)  # type: ignore[no-untyped-call]


class QoS(redis.QoS):
    """kombu's bookkeeping of unacknowledged messages."""

    def restore_unacked(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - kombu's own arguments
        """Put unacknowledged messages back, unless there is no connection to do it through; the sweep delivers."""
        if TROUBLE.present:
            self._delivered.clear()
            return
        self._unless_closed(super().restore_unacked, *args, **kwargs)

    def ack(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - kombu's own arguments
        """Acknowledge a message, unless there is no connection to do it through."""
        self._unless_closed(super().ack, *args, **kwargs)

    def _unless_closed(self, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        try:
            call(*args, **kwargs)
        except AttributeError:
            if self.channel.connection is not None and self.channel.connection.client is not None:
                raise

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: ANN401, FBT001, FBT002 - kombu's own
        """Put a message back into its queue; forget one that is malformed, or it would be tried for ever."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except LOST:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the entry is
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]
            _dropped(error)


class Channel(redis_transport.Channel):
    """The channel of a consumer."""

    QoS = QoS
    Message = _Message

    def close(self) -> None:
        """Close the connections; one to a Redis that is lost is not asked for what it owes."""
        waiting: Any = self._in_poll
        if waiting and not TROUBLE.present and not waiting.can_read(timeout=ANSWER_SECONDS):
            TROUBLE.lost(TimeoutError())
        if TROUBLE.present:
            self._in_poll = False
            self.auto_delete_queues.clear()
        super().close()  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401 - kombu's own
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Empty:
            TROUBLE.back()
            raise
        except LOST:
            raise
        except Exception as error:  # noqa: BLE001 - the entry is no JSON
            _dropped(error)
            raise Empty from None

    def _receive_one(self, c: Any) -> Any:  # noqa: ANN401 - kombu's own
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call]
        except (Empty, RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the broadcast is no JSON, or for no queue of ours
            _dropped(error)
            raise Empty from None


class Transport(redis_transport.Transport):
    """The transport of a consumer."""

    Channel = Channel
    connection_errors = (*redis_transport.Transport.connection_errors, RedisError)

    def _deliver(self, message: Any, queue: str) -> None:  # noqa: ANN401 - any JSON value
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except LOST:
            raise
        except Exception as error:  # noqa: BLE001 - whatever Celery raises for what it cannot handle
            _dropped(error)
            self._forget(message)
        else:
            TROUBLE.back()

    def _forget(self, message: Any) -> None:  # noqa: ANN401 - any JSON value
        """Acknowledge a message that was noted as unacknowledged before it turned out to be malformed."""
        properties = message.get("properties") if isinstance(message, dict) else None
        tag = properties.get("delivery_tag") if isinstance(properties, dict) else None
        for channel in self.channels:
            if isinstance(tag, str) and tag in channel.qos._delivered:  # noqa: SLF001 - kombu has no other way
                channel.basic_reject(tag, requeue=False)


# --- events ---------------------------------------------------------------------------------------------------


class Dispatcher(EventDispatcher):  # type: ignore[misc]
    """Sends each event once. One that cannot be sent is kept, up to a limit; a heartbeat tells that Redis is lost."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's own arguments
        super().__init__(*args, **kwargs, buffer_while_offline=False)
        self._outbound_buffer: deque[Any] = deque(maxlen=MOST_EVENTS)

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:  # noqa: ANN401 - Celery's own
        lost = None
        if not TROUBLE.present:
            try:
                super()._publish(event, producer, routing_key)
            except (RedisError, OSError, KombuError) as error:
                lost = error
            else:
                return
        if routing_key != HEARTBEAT:
            self._outbound_buffer.append((event, routing_key))
        if lost and not is_answer(lost):
            TROUBLE.lost(lost)
            if routing_key == HEARTBEAT:
                raise RedisConnectionError("a heartbeat was not sent") from lost


class Events(CeleryEvents):  # type: ignore[misc]
    """Celery's events with that dispatcher."""

    dispatcher_cls = Dispatcher


# --- the consumer ---------------------------------------------------------------------------------------------


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's consumer, for which every error is a lost connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's own arguments
        super().__init__(*args, **kwargs)
        self.connection_errors = (Exception,)
        self._failures = 0
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # of a choice that celeryconfig.py makes
        for name in ("consumer", "connection", "mingle"):
            # Celery tells of each attempt; TROUBLE tells of changes.
            logging.getLogger(f"celery.worker.consumer.{name}").addFilter(lambda _: not TROUBLE.present)

    def ensure_connected(self, conn: Connection) -> Connection:
        """Connect, for as long as it takes; SIGTERM ends it within a second."""
        conn.ensure_connection(  # type: ignore[no-untyped-call]
            lambda error, _: TROUBLE.lost(error),
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
        self._failures = self._failures + 1 if TROUBLE.present else 0
        TROUBLE.lost(exc)
        super().on_connection_error_after_connected(exc)
        self._pause(exc)

    def _pause(self, error: Exception) -> None:
        if not isinstance(error, (*LOST, KombuError, KeyError)):  # kombu raises KeyError for a stale connection
            log.error("consumer_failed", exc_info=error)
        TROUBLE.lost(error)
        until = time.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.5 * 2**self._failures)
        while time.monotonic() < until:
            state.maybe_shutdown()
            time.sleep(0.1)
