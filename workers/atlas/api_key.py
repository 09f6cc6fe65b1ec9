"""Authentication by an API key (HTTP digest). All threads of a process answer one challenge."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from requests.auth import AuthBase, HTTPDigestAuth

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response
    from requests.auth import HTTPBasicAuth

NONCE_TRUSTED_SECONDS = 20.0  # after its last use; how long Atlas's nonces live is not documented
FIRST_PATIENCE_SECONDS = 2.0


def clean_secret(secret: str, name: str) -> str:
    """Return the secret without a line break that a file or a shell added; raise ValueError for a malformed one."""
    stripped = secret.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise ValueError(f"{name} must be non-empty ASCII without blanks or line breaks")
    return stripped


@dataclass(eq=False, repr=False)
class _Challenge:
    """The digest challenge that all threads answer, each use with its own count.

    When it is not known to be good, one thread finds out and the others wait for it, since a burst of jobs would be
    challenged once for each thread. No thread waits longer than `FIRST_PATIENCE_SECONDS`.
    """

    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _values: dict[str, str] = field(default_factory=dict, init=False)
    _uses: int = field(default=0, init=False)
    _good_until: float = field(default=0.0, init=False)
    _asking_until: float = field(default=0.0, init=False)

    def take(self) -> tuple[dict[str, str], int]:
        """Return the challenge's values, empty when there is none, and the count of this use."""
        with self._changed:
            now = time.monotonic()
            if now > self._good_until and now < self._asking_until:
                self._changed.wait_for(lambda: time.monotonic() < self._good_until, self._asking_until - now)
            elif now > self._good_until:
                self._asking_until = now + FIRST_PATIENCE_SECONDS
            self._uses += 1
            return self._values, self._uses

    def put(self, values: dict[str, str]) -> None:
        """Store a new challenge, whose first use was taken: a server may want the counts in order."""
        with self._changed:
            self._values, self._uses = values, 1
        self.confirm()

    def confirm(self) -> None:
        """Record that Atlas has just accepted the challenge."""
        with self._changed:
            self._good_until, self._asking_until = time.monotonic() + NONCE_TRUSTED_SECONDS, 0.0
            self._changed.notify_all()


class _Digest(HTTPDigestAuth):
    """The library's digest for one thread, with a challenge that it shares with the others."""

    def __init__(self, public: str, private: str, challenge: _Challenge) -> None:
        super().__init__(public, private)
        self._challenge = challenge

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        self.init_per_thread_state()
        values, uses = self._challenge.take()
        if values:
            own = vars(self)["_thread_local"]
            own.chal, own.last_nonce, own.nonce_count = values, values["nonce"], uses - 1
        signed: PreparedRequest = super().__call__(request)  # type: ignore[no-untyped-call]
        return signed

    def handle_401(self, r: Response, **kwargs: object) -> Response:
        """Answer a challenge, and share what any answer says about it; the library calls this with every answer."""
        response: Response = super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call]
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            if response is r:
                self._challenge.confirm()
            else:
                self._challenge.put(vars(self)["_thread_local"].chal)
        return response


class ApiKey:
    """A programmatic API key. All threads reuse one nonce, so that few calls are challenged."""

    def __init__(self, public: str, private: str) -> None:
        self.public = clean_secret(public, "the public API key")
        self._private = clean_secret(private, "the private API key")
        self._challenge = _Challenge()

    def __repr__(self) -> str:
        return f"ApiKey({self.public!r})"

    def attach(self, _ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> AuthBase:
        """Return a new auth object for one session."""
        return _Digest(self.public, self._private, self._challenge)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no error text may repeat."""
        return (self._private,)
