"""Faults on demand: rules say which calls go wrong, how, and how often."""

import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Literal

from werkzeug import Response

from tests.emulator.answers import json_response, refusal
from tests.emulator.errors import CODES, ApiError
from tests.emulator.model import Json

When = Literal["before", "after"]

HTML = "<html><head><title>{0} Trouble</title></head><body><h1>{0} Trouble</h1></body></html>"


@dataclass
class Rule:
    """What happens to the next `times` calls (None: to all) that fit `method`, `path` and `body` (patterns to search).

    `hang` seconds pass before or after the call acts, `drop` closes the connection before or after it acts. With a
    `status`, that is the answer instead, and the call acts only with `act`. Rules concern calls whose credentials are
    right, so that digest's first leg uses none up; with `unauthenticated` they come before authentication.
    """

    method: str = "*"
    path: str = ""
    body: str = ""
    times: int | None = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    answer: object = None
    error_code: str | None = None
    html: bool = False
    act: bool = False
    hang_before: float = 0
    hang_after: float = 0
    drop: When | None = None
    unauthenticated: bool = False
    id: int = 0

    def fits(self, method: str, path: str, body: str) -> bool:
        if self.times == 0 or self.method not in ("*", method):
            return False
        return bool(re.search(self.path, path) and re.search(self.body, body))

    def response(self) -> Response | None:
        """The canned answer, if there is one: given, HTML, or JSON with an error code in Atlas's form."""
        if self.status is None:
            return None
        if self.html:
            return Response(HTML.format(self.status), self.status, self.headers, content_type="text/html")
        if self.answer is None:
            return refusal(_error(self.status, self.error_code), self.headers)
        if isinstance(self.answer, str):
            return Response(self.answer, self.status, self.headers, content_type="text/plain")
        return json_response(self.answer, self.status, self.headers)


@dataclass
class Faults:
    _rules: list[Rule] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, rule: Rule) -> int:
        with self._lock:
            rule.id = next(self._ids)
            self._rules.append(rule)
            return rule.id

    def take(self, method: str, path: str, body: str, *, authenticated: bool) -> Rule | None:
        """The oldest rule that fits; this use is counted."""
        with self._lock:
            for rule in self._rules:
                if rule.unauthenticated != authenticated and rule.fits(method, path, body):
                    if rule.times is not None:
                        rule.times -= 1
                    return rule
            return None

    def all(self) -> list[Json]:
        """`times` is how often each is still to happen."""
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def clear(self, number: int | None = None) -> None:
        with self._lock:
            self._rules = [rule for rule in self._rules if number is not None and rule.id != number]


def _error(status: int, code: str | None) -> ApiError:
    code = code or {429: "RATE_LIMITED", 503: "SERVICE_UNAVAILABLE"}.get(status, "UNEXPECTED_ERROR")
    places = CODES[code][1].count("%s")
    error = ApiError(code, *["x"] * places)
    error.status = status
    return error
