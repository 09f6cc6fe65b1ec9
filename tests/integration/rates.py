"""Two workers of one Atlas project, near its rate limit."""

from structlog.testing import capture_logs

from broker_api.settings.redis_settings import RedisSettings
from workers.atlas.client import Answer
from workers.guard.rate_limiter import RateLimiter


def share_the_rate_limit(redis: RedisSettings, project: str) -> None:
    """One worker makes all calls of the window; another is held back."""
    mine, anothers = RateLimiter(project, redis), RateLimiter(project, redis)
    near = Answer("GET", "/api/atlas/v2/groups", 200, None, limit=120, remaining=1, seconds=0.1, requests=1)
    with capture_logs() as logs:
        for each in (mine, anothers):
            each.observe(near)
        assert any(mine.pause() for _ in range(40))
        assert anothers.pause() is not None
    assert not [line for line in logs if line["event"] == "redis_lost"]
