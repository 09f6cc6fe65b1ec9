"""Rate limits: one token bucket for each endpoint set and project (or caller)."""

import math
import threading
import time
from dataclasses import dataclass

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


class Buckets:
    def __init__(self) -> None:
        self._limits = {name: (limit, float(limit.capacity)) for name, limit in LIMITS.items()}
        self._tokens: dict[tuple[str, str], tuple[float, float]] = {}  # how many there were, and when
        self._lock = threading.Lock()

    def set(self, name: str, limit: Limit, left: float | None = None) -> None:
        """From now on, with full buckets, or with so many tokens left in each."""
        with self._lock:
            self._limits[name] = limit, limit.capacity if left is None else left
            self._tokens = {key: tokens for key, tokens in self._tokens.items() if key[0] != name}

    def take(self, name: str, scope: str, path: str) -> dict[str, str]:
        """Take one token; return the headers to answer with. Raise ApiError (429) when there is none."""
        with self._lock:
            (limit, left), now = self._limits[name], time.monotonic()
            tokens, filled = self._tokens.get((name, scope), (left, now))
            rate = limit.refill / limit.seconds
            tokens = min(limit.capacity, tokens + (now - filled) * rate)
            self._tokens[name, scope] = (tokens - 1 if tokens >= 1 else tokens, now)
        headers = {"RateLimit-Limit": str(limit.capacity), "RateLimit-Remaining": str(max(0, int(tokens - 1)))}
        if tokens < 1:
            wait = math.ceil((1 - tokens) / rate) if rate else limit.seconds
            parameters = (path.lstrip("/"), wait, limit.capacity, limit.refill, limit.seconds)
            raise ApiError("RATE_LIMITED_TOKEN_BUCKET", *parameters, headers={**headers, "Retry-After": str(wait)})
        return headers
