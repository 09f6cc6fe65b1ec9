"""Each rule of the rate limiter, in this process on the real Redis."""

import time
import uuid

import pytest
from structlog.testing import capture_logs

from broker_api.settings.redis_settings import RedisSettings
from tests.dev.services import Redis
from tests.integration.rates import share_the_rate_limit
from workers.atlas.client import Answer
from workers.guard.rate_limiter import RateLimiter

LIMIT = 720
"""A tenth is 72; near the end 30 calls in ten seconds are half of what flows into the bucket."""


def answer(remaining: int | None, status: int = 200) -> Answer:
    path = "/api/atlas/v2/groups"
    return Answer("GET", path, status, None, limit=LIMIT, remaining=remaining, seconds=0.1, requests=1)


@pytest.fixture
def redis(redis_server: Redis) -> RedisSettings:
    return RedisSettings.parse(redis_server.uri)


@pytest.fixture
def project() -> str:
    return uuid.uuid4().hex


def test_nothing_is_slowed_down_before_the_last_tenth(redis: RedisSettings, project: str) -> None:
    limiter = RateLimiter(project, redis)
    limiter.observe(answer(72))
    limiter.observe(answer(None))
    assert not [pause for pause in (limiter.pause() for _ in range(100)) if pause]


def test_near_the_end_half_of_what_flows_in_is_used(redis: RedisSettings, project: str) -> None:
    limiter = RateLimiter(project, redis)
    with capture_logs() as logs:
        limiter.observe(answer(71))
        limiter.observe(answer(70))
    assert [line["event"] for line in logs] == ["rate_limit_near"]
    sent = [pause for pause in (limiter.pause() for _ in range(100)) if pause is None]
    assert 30 <= len(sent) <= 60  # a window may have ended meanwhile
    pause = limiter.pause()
    assert pause
    assert "near its rate limit" in pause.reason


def test_workers_share_what_is_left(redis: RedisSettings, project: str) -> None:
    share_the_rate_limit(redis, project)


def test_another_project_is_not_slowed_down(redis: RedisSettings, project: str) -> None:
    near, other = RateLimiter(project, redis), RateLimiter(uuid.uuid4().hex, redis)
    near.observe(answer(1))
    assert any(near.pause() for _ in range(100))
    assert not any(other.pause() for _ in range(100))


def test_after_a_429_no_call_is_sent_until_the_time_that_atlas_names(redis: RedisSettings, project: str) -> None:
    limiter = RateLimiter(project, redis)
    limiter.observe(answer(None, 429))
    pause = limiter.pause()
    assert pause
    assert 0 < pause.seconds <= 1
    time.sleep(pause.seconds)
    assert limiter.pause() is None


def test_without_redis_each_worker_counts_alone_and_says_so_once(project: str) -> None:
    limiter = RateLimiter(project, RedisSettings.parse("redis://127.0.0.1:1/0"))
    limiter.observe(answer(1))
    with capture_logs() as logs:
        assert sum(limiter.pause() is None for _ in range(100)) in range(30, 61)
    assert [line["event"] for line in logs] == ["redis_lost"]
