"""Two workers of one Atlas project, near its rate limit."""

import pytest
from structlog.testing import capture_logs

from broker_api.redis_settings import RedisSettings
from workers.atlas.client import Answer
from workers.outcome import HeldBackError
from workers.politeness import Politeness


def share_the_rate_limit(redis: RedisSettings, project: str) -> None:
    """One worker makes all calls of the window; another is held back."""
    mine, anothers = Politeness(project, redis), Politeness(project, redis)
    near = Answer("GET", "/api/atlas/v2/groups", 200, None, limit=120, remaining=1, seconds=0.1, requests=1)
    with capture_logs() as logs:
        for each in (mine, anothers):
            each.observe(near)
        held = 0
        for _ in range(40):
            try:
                mine.check()
            except HeldBackError:
                held += 1
        assert held > 0
        with pytest.raises(HeldBackError):
            anothers.check()
    assert not [line for line in logs if line["event"] == "redis_lost"]
