"""Two workers of one Atlas project, near its rate limit."""

from contextlib import closing

from limits.storage import RedisStorage
from structlog.testing import capture_logs

from broker_api.settings.redis_settings import RedisSettings
from workers.atlas.client import Answer
from workers.guard.rate_limiter import RateLimiter


class ClosableLimiter(RateLimiter):
    """A worker's limiter lives as long as its process; one of a test must close its connections."""

    def close(self) -> None:
        shared = self._shared.storage
        assert isinstance(shared, RedisStorage)
        shared.storage.connection_pool.disconnect()


def share_the_rate_limit(redis: RedisSettings, project: str) -> None:
    """One worker makes all calls of the window; another is held back.

    On a busy machine a window may end, or an answer of Redis come too late, between the two: not each time.
    """
    assert any(_is_shared(redis, f"{project}{attempt}") for attempt in range(5))


def _is_shared(redis: RedisSettings, project: str) -> bool:
    near = Answer("GET", "/api/atlas/v2/groups", 200, None, limit=120, remaining=1, seconds=0.1, requests=1)
    with (
        closing(ClosableLimiter(project, redis)) as mine,
        closing(ClosableLimiter(project, redis)) as anothers,
        capture_logs() as logs,
    ):
        for each in (mine, anothers):
            each.observe(near)
        assert any(mine.pause() for _ in range(40))
        held_back = anothers.pause() is not None
    return held_back and not [line for line in logs if line["event"] == "redis_lost"]
