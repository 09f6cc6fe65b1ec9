"""Celery with the connections of ``RedisSettings``; written for Celery 5.7 and kombu 5.7.

kombu parses each URL of a list separately, and its calls to sentinels have no timeout
(github.com/celery/celery/issues/7997). Celery prefers variables such as CELERY_BROKER_URL to its configuration.
Therefore ``RedisSettings`` makes all connections, in subclasses whose names are given to Celery and kombu.
"""

from typing import TYPE_CHECKING

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import redis
from redis import ConnectionPool, Redis
from redis.sentinel import SentinelConnectionPool

from broker_api.json_types import JsonObject
from broker_api.settings.redis_settings import RedisSettings

_STEADY: JsonObject = {
    "socket_keepalive": True,
    "health_check_interval": 10,
    # No retries in kombu, which SIGTERM does not interrupt: the sweeper sends again, and the consumer reconnects.
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}
"""Options of every connection, for sending and for receiving."""

if TYPE_CHECKING:

    class KombuChannel(redis.Channel):
        """kombu's channel, with types for the private methods that are used here and in the workers."""

        def _connparams(self, asynchronous: bool = False) -> JsonObject: ...  # noqa: FBT001, FBT002 - kombu's own
        def _create_client(self, asynchronous: bool = False) -> Redis: ...  # noqa: FBT001, FBT002 - kombu's own
        def _receive_one(self, c: object) -> object: ...
        def _brpop_start(self, timeout: float | None = None) -> None: ...

else:
    KombuChannel = redis.Channel


class Channel(KombuChannel):
    """kombu's channel, with the connections of ``RedisSettings``."""

    from_transport_options = (*redis.Channel.from_transport_options, "redis_settings")
    redis_settings: RedisSettings
    _sender: Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> Redis:  # noqa: FBT001, FBT002 - kombu's own
        if asynchronous:
            return super()._create_client(asynchronous)
        # kombu makes a client for each message, a third of what sending costs; one serves all of a pool.
        if self._sender is None or self._sender.connection_pool is not self.pool:
            self._sender = super()._create_client()
        return self._sender

    def _get_pool(self, asynchronous: bool = False) -> ConnectionPool:  # noqa: FBT001, FBT002 - kombu's own
        settings = self.redis_settings
        self.connection_class = self.connection_class_ssl = settings.connection_class
        made = self._connparams(asynchronous)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=settings.database)
        pool = settings.pool(
            self.socket_timeout or 1.0,
            self.socket_connect_timeout,
            made["connection_class"],  # kombu's asynchronous class leaves its poller when it is closed
            max_connections=self.max_connections,
            health_check_interval=self.health_check_interval,
        )
        if isinstance(pool, SentinelConnectionPool):
            setattr(self, "_async_sentinel_manager" if asynchronous else "_sentinel_manager", pool.sentinel_manager)
        return pool


class Transport(redis.Transport):
    """kombu's transport, with the channel above."""

    Channel = Channel


class ShownConnection(Connection):
    """kombu's connection. Logs, ``inspect`` and Flower show it as the operator has set it."""

    def info(self) -> JsonObject:
        """Return the facts that may be shown; kombu also makes the shown URL from them."""
        settings: RedisSettings = (self.transport_options or {})["redis_settings"]
        return {
            **super().info(),
            "transport": settings.scheme,
            "transport_options": {},
            "ssl": settings.tls is not None,
        }


class Amqp(AMQP):
    """Celery's messages, sent and received over the connection above."""

    Connection = ShownConnection


class RedisCelery(Celery):
    """A Celery application with one Redis: no environment variable and no option can select another one."""

    amqp_cls = "broker_api.jobs.redis_transport:Amqp"
    backend_cls = "disabled"

    def __init__(
        self,
        name: str,
        *,
        include: list[str] | None = None,
        events: str | None = None,
        set_as_current: bool = True,
    ) -> None:
        loader = "celery.loaders.app:AppLoader"
        super().__init__(name, loader=loader, include=include, events=events, set_as_current=set_as_current)

    def connection_for_read(self, url: str | None = None, **options: object) -> Connection:  # noqa: ARG002 - Celery's
        """Return a connection to the configured Redis; ``url`` is ignored."""
        return super().connection_for_read(self.conf.broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: object) -> Connection:  # noqa: ARG002 - Celery's
        """Return a connection to the configured Redis; ``url`` is ignored."""
        return super().connection_for_write(self.conf.broker_url, **options)


def celery_settings(settings: RedisSettings, transport: str, options: JsonObject) -> JsonObject:
    """Return Celery's settings for a Redis.

    Args:
        settings: the Redis.
        transport: the class of the transport, as ``module:class``.
        options: the options of the transport, beside those of every connection.
    """
    # Flower's page of queues connects to sentinels with these options.
    shown = {"master_name": settings.master_name, "sentinel_kwargs": settings.sentinel}
    return {
        "broker_url": settings.celery_url,
        "broker_use_ssl": settings.tls or False,
        "broker_transport": transport,
        "broker_transport_options": {**_STEADY, **options, "redis_settings": settings, **shown},
    }
