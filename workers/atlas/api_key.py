"""Authentication by an API key (HTTP digest). All threads of a process share one challenge of the server."""

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

NONCE_TRUSTED_SECONDS = 20.0  # after its last use; Atlas does not document the lifetime of a nonce
FIRST_PATIENCE_SECONDS = 2.0


def clean_secret(secret: str, name: str) -> str:
    """Return a secret without surrounding white space, which a file or a shell may have added.

    Raises:
        ValueError: The secret cannot be sent in a header; the message contains ``name`` and not the secret.
    """
    stripped = secret.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise ValueError(f"{name} must be non-empty ASCII without blanks or line breaks")
    return stripped


@dataclass(eq=False, repr=False)
class _Challenge:
    """The digest challenge (nonce) that all threads use; each request has its own count.

    When the challenge is old, one thread sends the next request and the others wait for its answer. Otherwise Atlas
    would challenge each thread of a burst of jobs. No thread waits longer than `FIRST_PATIENCE_SECONDS`.
    """

    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _values: dict[str, str] = field(default_factory=dict, init=False)
    _uses: int = field(default=0, init=False)
    _good_until: float = field(default=0.0, init=False)
    _asking_until: float = field(default=0.0, init=False)

    def take(self) -> tuple[dict[str, str], int]:
        """Return the values of the challenge (empty when there is none) and the count of this request.

        This may wait up to `FIRST_PATIENCE_SECONDS` for the answer to another thread.
        """
        with self._changed:
            now = time.monotonic()
            if now > self._good_until and now < self._asking_until:
                self._changed.wait_for(lambda: time.monotonic() < self._good_until, self._asking_until - now)
            elif now > self._good_until:
                self._asking_until = now + FIRST_PATIENCE_SECONDS
            self._uses += 1
            return self._values, self._uses

    def put(self, values: dict[str, str]) -> None:
        """Store a new challenge, which has been used once; the counts go on from there, as servers may require."""
        with self._changed:
            self._values, self._uses = values, 1
        self.confirm()

    def confirm(self) -> None:
        """Record that Atlas has just accepted the challenge."""
        with self._changed:
            self._good_until, self._asking_until = time.monotonic() + NONCE_TRUSTED_SECONDS, 0.0
            self._changed.notify_all()


class _Digest(HTTPDigestAuth):
    """The digest authentication of `requests` for one thread, with the challenge of all threads."""

    def __init__(self, public: str, private: str, challenge: _Challenge) -> None:
        super().__init__(public, private)
        self._challenge = challenge

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        self.init_per_thread_state()
        values, uses = self._challenge.take()
        if values:
            own = vars(self)["_thread_local"]
            own.chal, own.last_nonce, own.nonce_count = values, values["nonce"], uses - 1
        signed: PreparedRequest = super().__call__(request)  # type: ignore[no-untyped-call]  # not in the stubs
        return signed

    def handle_401(self, r: Response, **kwargs: object) -> Response:
        """Answer a challenge, and share its values with the other threads; `requests` calls this for every answer."""
        response: Response = super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call]  # not in the stubs
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            if response is r:
                self._challenge.confirm()
            else:
                self._challenge.put(vars(self)["_thread_local"].chal)
        return response


class ApiKey:
    """A programmatic API key. All threads reuse one nonce, so that Atlas challenges only few calls.

    Raises:
        ValueError: The public or the private key is malformed.
    """

    def __init__(self, public: str, private: str) -> None:
        self.public = clean_secret(public, "the public API key")
        self._private = clean_secret(private, "the private API key")
        self._challenge = _Challenge()

    def __repr__(self) -> str:
        return f"ApiKey({self.public!r})"

    def attach(self, _ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> AuthBase:
        """Return a new auth object for one session.

        Args:
            _ask_token: Not used; a service account needs it.
        """
        return _Digest(self.public, self._private, self._challenge)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that no error message may contain."""
        return (self._private,)
