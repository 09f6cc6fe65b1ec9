"""The call log: what was asked of the Admin API, by whom and with what result. It holds no body and no secret."""

import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from werkzeug import Request

from tests.emulator.model import Json


@dataclass
class Call:
    """`status` stays None while the answer is on its way, and when the connection was closed without one."""

    method: str
    path: str
    query: str
    template: str
    accept: str
    user_agent: str
    authentication: str
    start: float
    end: float | None = None
    status: int | None = None
    error_code: str | None = None
    challenge: bool = False
    caller: str | None = None
    fault: int | None = None


@dataclass
class CallLog:
    _calls: list[Call] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, request: Request, path: str, template: str) -> Call:
        given = request.authorization
        call = Call(
            request.method,
            path,
            request.query_string.decode(),
            template,
            request.headers.get("Accept", ""),
            request.headers.get("User-Agent", ""),
            given.type if given else "none",
            time.time(),
        )
        with self._lock:
            self._calls.append(call)
        return call

    def all(self) -> list[Json]:
        with self._lock:
            return [asdict(call) for call in self._calls]

    def counts(self) -> dict[str, int]:
        """Calls by method and path template, without the first leg of digest authentication."""
        with self._lock:
            return dict(Counter(f"{call.method} {call.template}" for call in self._calls if not call.challenge))

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
