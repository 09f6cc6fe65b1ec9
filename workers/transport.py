"""A guard for Celery 5.7 with Redis: losing Redis must not end a worker.

When Redis dies while a message is unacknowledged, the consumer closes its connection twice; the second time kombu
restores messages through a transport that has no client any more, and the AttributeError ends the process. There is
nothing to restore then: the sweep delivers.
"""

from typing import Any

from kombu.transport import redis


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


def guard() -> None:
    """Make kombu's Redis channels use the guarded bookkeeping; ``Channel.QoS`` is kombu's place for another class."""
    redis.Channel.QoS = GuardedQoS
