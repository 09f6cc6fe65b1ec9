"""A guard for Celery 5.7 with Redis: neither losing Redis nor what somebody puts into it may end a worker.

When Redis dies while a message is unacknowledged, the consumer closes its connection twice; the second time kombu
restores messages through a transport that has no client any more, and the AttributeError ends the process. There is
nothing to restore then: the sweep delivers. And an entry of a queue that is no JSON ends the process, too.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class GuardedQoS(redis.QoS):
    """kombu's bookkeeping of unacknowledged messages, which forgives a connection that is closed already."""

    def restore_unacked(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - kombu's own arguments
        """Put unacknowledged messages back, unless there is no connection to do it through."""
        try:
            super().restore_unacked(*args, **kwargs)  # type: ignore[no-untyped-call]
        except AttributeError:
            if self.channel.connection is not None and self.channel.connection.client is not None:
                raise

    def ack(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - kombu's own arguments
        """Acknowledge a message, unless there is no connection to do it through."""
        try:
            super().ack(*args, **kwargs)  # type: ignore[no-untyped-call]
        except AttributeError:
            if self.channel.connection is not None and self.channel.connection.client is not None:
                raise


class _Guarded:
    """What a channel of kombu's is mixed with."""

    QoS = GuardedQoS

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401 - kombu's own
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (ValueError, TypeError, KeyError) as error:
            log.warning("an entry in Redis is no message, it is dropped", reason=type(error).__name__)
            raise Empty from None


class GuardedChannel(_Guarded, redis.Channel):
    """For ``redis://`` and ``rediss://``."""


class GuardedSentinelChannel(_Guarded, redis.SentinelChannel):
    """For ``sentinel://``."""


def guard() -> None:
    """Make kombu's Redis transports use the guarded channels; ``Channel`` is kombu's place for another class."""
    redis.Transport.Channel = GuardedChannel
    redis.SentinelTransport.Channel = GuardedSentinelChannel
