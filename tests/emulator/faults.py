"""Faults on demand: rules say which calls go wrong, how, and how often."""

import re
import threading
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from werkzeug import Response

from tests.emulator.errors import CODES, ApiError, json_response

When = Literal["before", "after"]

HTML = "<html><head><title>{0} Trouble</title></head><body><h1>{0} Trouble</h1></body></html>"


@dataclass
class Rule:
    """What happens to the next `times` calls (None: to all) that fit `method`, `path` and `body` (patterns to search).

    `hang` seconds pass before or after the call acts, `drop` closes the connection before or after it acts. With a
    `status`, that is the answer instead, and the call acts only with `act`. Rules concern calls whose credentials are
    right, so that digest's first leg uses none up; with `unauthenticated` they come before authentication. In the list
    of rules `times` is how often each is still to happen.
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
    id: int = field(default_factory=count(1).__next__)

    def response(self) -> Response | None:
        """Return the canned answer, if there is one: given, HTML, or JSON with an error code in Atlas's form."""
        if self.status is None:
            return None
        if self.html:
            return Response(HTML.format(self.status), self.status, self.headers, content_type="text/html")
        if isinstance(self.answer, str):
            return Response(self.answer, self.status, self.headers, content_type="text/plain")
        if self.answer is not None:
            return json_response(self.answer, self.status, self.headers)
        code = {429: "RATE_LIMITED", 503: "SERVICE_UNAVAILABLE"}.get(self.status, "UNEXPECTED_ERROR")
        error = ApiError(self.error_code or code, *["x"] * CODES[self.error_code or code][1].count("%s"))
        error.status = self.status
        return error.response(self.headers)


class Faults(list[Rule]):
    """The rules, oldest first."""

    _lock = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self._let_go: set[int] = set()
        self._changed = threading.Condition()

    def hang(self, rule: Rule, seconds: float) -> None:
        """Return after so many seconds, or as soon as the calls of this rule are let go."""
        with self._changed:
            self._changed.wait_for(lambda: rule.id in self._let_go, seconds)

    def let_go(self, number: int) -> None:
        """End the waiting of all calls that a rule keeps, also of those to come."""
        with self._changed:
            self._let_go.add(number)
            self._changed.notify_all()

    def take(self, method: str, path: str, body: str, *, authenticated: bool) -> Rule | None:
        """Return the oldest rule that fits, and count this use of it."""
        with self._lock:
            for rule in self:
                if rule.times == 0 or rule.unauthenticated == authenticated or rule.method not in ("*", method):
                    continue
                if re.search(rule.path, path) and re.search(rule.body, body):
                    rule.times = None if rule.times is None else rule.times - 1
                    return rule
            return None
