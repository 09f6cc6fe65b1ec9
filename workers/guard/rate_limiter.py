"""Slows down all workers of an Atlas project when the rate bucket of the project is nearly empty.

This should prevent a 429. After a 429 the process sends no call to the project until the time that Atlas names; the
others learn of it by an answer of their own. The library ``limits`` counts in the Redis that all workers share; while
Redis cannot be reached, each process counts alone.
"""

import math
import time
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

from broker_api.jobs.redis_errors import OutageLog
from broker_api.settings.redis_settings import RedisSettings
from workers import metrics
from workers.atlas.client import Answer

LOW_SHARE = 0.1
SLOW_SECONDS = 60.0
SHOWN_SECONDS = 10.0
"""How long after its end a pause is announced, so that a short one is seen."""
WINDOW_SECONDS = 10
REDIS_SECONDS = 0.5
_REFILL_SECONDS = 120
"""A bucket that was emptied is full again after about two minutes (Atlas: refill 5000 of 10000 in 60 s)."""

POLLS_SHARE = 0.1
"""The part of the refill rate that polls of the status of clusters may use."""
USUAL_LIMIT = 10_000
"""The capacity of the rate bucket of clusters, until an answer names it (Atlas: API rate limits)."""
REDIS_PAUSE_SECONDS = 5.0
"""How long this process counts alone after Redis has failed."""

_API = "/api/atlas/"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pause:
    """How many seconds no call may be sent, and why, as a sentence for users."""

    seconds: float
    reason: str


class RateLimiter:
    """Watches ``RateLimit-Remaining`` and 429 of one project. Requests for OAuth tokens have limits of their own."""

    def __init__(self, project: str, redis: RedisSettings) -> None:
        self._project = project
        self._redis = redis
        self._outage = OutageLog("sharing the rate limit")
        self._alone = FixedWindowRateLimiter(MemoryStorage())
        self._slow_until = -math.inf
        self._silent_until = -math.inf
        self._alone_until = 0.0
        self._most = RateLimitItemPerSecond(1, WINDOW_SECONDS)
        self._most_polls = _polls(USUAL_LIMIT)

    def observe(self, answer: Answer) -> None:
        """Read from an answer how full the rate bucket is, and whether Atlas asks to wait (429)."""
        now = time.monotonic()
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS and answer.path.startswith(_API):
            seconds = (answer.error and answer.error.retry_after) or 1.0
            log.warning("rate_limited", project=self._project, seconds=seconds)
            self._silent_until = max(self._silent_until, now + min(seconds, SLOW_SECONDS))
        if answer.limit is not None and answer.path.endswith("/status"):
            self._most_polls = _polls(answer.limit)
        if answer.remaining is not None:
            with metrics.COUNTING:
                metrics.RATE_LIMIT_REMAINING.labels(self._project).set(answer.remaining)
        if answer.limit is None or answer.remaining is None or answer.remaining >= answer.limit * LOW_SHARE:
            return
        if now > self._slow_until:
            log.warning("rate_limit_near", project=self._project, remaining=answer.remaining)
        # Use half of the refill rate, so that the other half fills the bucket again.
        calls = max(1, answer.limit * WINDOW_SECONDS // (2 * _REFILL_SECONDS))
        self._most = RateLimitItemPerSecond(calls, WINDOW_SECONDS)
        self._slow_until = now + SLOW_SECONDS

    @property
    def paused(self) -> bool:
        """Whether Atlas asks to wait (429), or did so a few seconds ago."""
        return time.monotonic() < self._silent_until + SHOWN_SECONDS

    @property
    def slowed(self) -> bool:
        """Whether the rate bucket is nearly empty, so that all workers slow down."""
        return time.monotonic() < self._slow_until

    def pause(self) -> Pause | None:
        """Return how long to wait before the next call; None, and the call is counted, when it may be sent now."""
        now = time.monotonic()
        if now < self._silent_until:
            return Pause(self._silent_until - now, "Atlas asks the broker to wait; the broker continues soon.")
        if now < self._slow_until and not self._count(self._most, f"atlas-broker-{self._project}"):
            return Pause(WINDOW_SECONDS / 2, "The Atlas project is near its rate limit; the broker slows down.")
        return None

    def may_poll(self) -> bool:
        """Count a poll of a cluster's status; return False when all polls of the project have used up their share."""
        return self._count(self._most_polls, f"atlas-broker-polls-{self._project}")

    def _count(self, most: RateLimitItem, key: str) -> bool:
        """Count a call; return False when all workers together have used up the calls of this window."""
        if time.monotonic() < self._alone_until:
            return self._alone.hit(most, key)
        try:
            hit = self._shared.hit(most, key)
        except Exception as error:  # noqa: BLE001 - whatever Redis raises: counting alone is better than not at all
            self._outage.failed(error)
            self._alone_until = time.monotonic() + REDIS_PAUSE_SECONDS
            return self._alone.hit(most, key)
        if self._outage.ongoing:
            self._outage.recovered()
        return hit

    @cached_property
    def _shared(self) -> FixedWindowRateLimiter:
        pool = self._redis.pool(REDIS_SECONDS, health_check_interval=10)
        return FixedWindowRateLimiter(RedisStorage("redis://", connection_pool=pool))


def _polls(limit: int) -> RateLimitItem:
    """Return how many polls may be sent in a window, by the capacity of the rate bucket."""
    return RateLimitItemPerSecond(max(1, int(limit * POLLS_SHARE * WINDOW_SECONDS / _REFILL_SECONDS)), WINDOW_SECONDS)
