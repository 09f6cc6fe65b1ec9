"""Rate limits: one token bucket for each endpoint set and project (or caller)."""

import math
import threading
import time
from dataclasses import dataclass, field

from tests.emulator.errors import ApiError


@dataclass(frozen=True)
class Limit:
    capacity: int
    refill: int
    seconds: int = 60


LIMITS = {
    "users": Limit(10000, 5000),
    "clusters": Limit(10000, 5000),
    "roles": Limit(2000, 1000),
    "project": Limit(1200, 500),
    "groups": Limit(1200, 500),
    "processes": Limit(300, 100),
    "root": Limit(300, 100),
}


@dataclass
class _Bucket:
    tokens: float
    filled: float


@dataclass
class Buckets:
    limits: dict[str, Limit] = field(default_factory=lambda: dict(LIMITS))
    _left: dict[str, float] = field(default_factory=dict)
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, name: str, limit: Limit, left: float | None = None) -> None:
        """From now on, with full buckets, or with so many tokens left in each."""
        with self._lock:
            self.limits[name], self._left[name] = limit, limit.capacity if left is None else left
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[0] != name}

    def take(self, name: str, scope: str, path: str) -> dict[str, str]:
        """Takes one token and tells the headers to answer with. Raises ApiError (429) when there is none."""
        with self._lock:
            limit, now = self.limits[name], time.monotonic()
            bucket = self._buckets.setdefault((name, scope), _Bucket(self._left.get(name, limit.capacity), now))
            rate = limit.refill / limit.seconds
            bucket.tokens = min(limit.capacity, bucket.tokens + (now - bucket.filled) * rate)
            bucket.filled = now
            if bucket.tokens < 1:
                raise _limited(limit, path, math.ceil((1 - bucket.tokens) / rate) if rate else limit.seconds)
            bucket.tokens -= 1
            return _headers(limit, int(bucket.tokens))


def _headers(limit: Limit, remaining: int) -> dict[str, str]:
    return {"RateLimit-Limit": str(limit.capacity), "RateLimit-Remaining": str(remaining)}


def _limited(limit: Limit, path: str, wait: int) -> ApiError:
    where = path.lstrip("/")
    error = ApiError("RATE_LIMITED_TOKEN_BUCKET", where, wait, limit.capacity, limit.refill, limit.seconds)
    error.headers = _headers(limit, 0) | {"Retry-After": str(wait)}
    return error
