"""Two workers of one Atlas project, near its rate limit."""

from contextlib import closing

from limits.storage import RedisStorage
from structlog.testing import capture_logs

from broker_api.settings.redis_settings import RedisSettings
from tests.tenant import eventually
from workers.atlas.client import Answer
from workers.guard.rate_limiter import RateLimiter


class ClosableLimiter(RateLimiter):
    """A worker's limiter lives as long as its process; one of a test must close its connections."""

    def connect(self) -> None:
        """Open a connection; on a busy machine that may take longer than a worker waits for Redis."""
        eventually(self._shared.storage.check, "Redis answers")

    def close(self) -> None:
        shared = self._shared.storage
        assert isinstance(shared, RedisStorage)
        shared.storage.connection_pool.disconnect()


def share_the_rate_limit(redis: RedisSettings, project: str) -> None:
    """One worker makes all calls of a window; another is held back.

    There are several attempts, since the window may end between the two, and a busy machine may delay an answer of
    Redis until a worker counts alone. A limiter that always counts alone passes none.
    """
    assert any(_is_held_back(redis, f"{project}{attempt}") for attempt in range(5))


def _is_held_back(redis: RedisSettings, project: str) -> bool:
    near = Answer("GET", "/api/atlas/v2/groups", 200, None, limit=120, remaining=1, seconds=0.1, requests=1)
    with (
        closing(ClosableLimiter(project, redis)) as mine,
        closing(ClosableLimiter(project, redis)) as anothers,
    ):
        for each in (mine, anothers):
            each.connect()
            each.observe(near)
        with capture_logs() as logs:
            assert any(mine.pause() for _ in range(40))
            held_back = anothers.pause() is not None
    return held_back and not [line for line in logs if line["event"] == "redis_lost"]
