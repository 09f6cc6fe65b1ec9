"""Celery on the Redis of ``RedisSettings``: for kombu 5.7 and Celery 5.7.

kombu reads each URL of a list by itself, cannot bound its calls to sentinels, and Celery lets variables such as
CELERY_BROKER_URL win over its configuration. Here connections are made by ``RedisSettings`` only.
"""

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import redis
from redis import ConnectionPool
from redis.sentinel import SentinelConnectionPool

from broker_api.settings.redis_settings import RedisSettings


class Channel(redis.Channel):
    """kombu's channel, which takes its connections from ``RedisSettings``."""

    from_transport_options = (*redis.Channel.from_transport_options, "redis_settings")  # type: ignore[assignment]
    redis_settings: RedisSettings

    def _get_pool(self, asynchronous: bool = False) -> ConnectionPool:  # noqa: FBT001, FBT002 - kombu's own
        settings = self.redis_settings
        for name in ("connection_class", "connection_class_ssl"):
            setattr(self, name, settings.connection_class)
        made = self._connparams(asynchronous)  # type: ignore[no-untyped-call]
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=settings.database)
        pool = settings.pool(
            self.socket_timeout or 1.0,
            self.socket_connect_timeout,
            made["connection_class"],  # an asynchronous one leaves kombu's poller when it is closed
            max_connections=self.max_connections,
            health_check_interval=self.health_check_interval,
        )
        if isinstance(pool, SentinelConnectionPool):
            setattr(self, "_async_sentinel_manager" if asynchronous else "_sentinel_manager", pool.sentinel_manager)
        return pool


class Transport(redis.Transport):
    """kombu's transport with that channel."""

    Channel = Channel


class _Connection(Connection):
    """kombu's connection, which shows Redis as the operator knows it: logs, ``inspect`` and Flower print this."""

    def info(self) -> dict[str, Any]:
        """Return what may be shown, and what the text form of the URL is made of."""
        settings: RedisSettings = (self.transport_options or {})["redis_settings"]
        return {
            **super().info(),  # type: ignore[no-untyped-call]
            "transport": settings.scheme,
            "transport_options": {},
            "ssl": settings.tls is not None,
        }


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _Connection


class RedisCelery(Celery):  # type: ignore[misc]
    """A Celery application with one broker: no variable of the environment, and no option, leads it to another."""

    amqp_cls = _Amqp
    backend_cls = "disabled"

    def __init__(self, name: str, **options: Any) -> None:  # noqa: ANN401 - Celery's
        super().__init__(name, loader="celery.loaders.app:AppLoader", **options)

    def _connection(self, _url: str, **options: Any) -> Any:  # noqa: ANN401 - Celery's
        return super()._connection(self.conf["broker_url"], **options)


def celery_settings(settings: RedisSettings, transport: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return Celery's settings for this Redis; ``options`` are the transport's."""
    shown = {"master_name": settings.master_name, "sentinel_kwargs": settings.sentinel}  # to Flower's page of queues
    return {
        "broker_url": settings.celery_url,
        "broker_use_ssl": settings.tls or False,
        "broker_transport": transport,
        "broker_transport_options": {**options, "redis_settings": settings, **shown},
    }
