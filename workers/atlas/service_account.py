"""Authentication by a service account (OAuth bearer token).

All workers share the token through a `TokenStore`, since Atlas allows 100 valid tokens for an account and limits how
often a new one is issued. To mint a token is to request a new one from Atlas.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from requests.auth import AuthBase, HTTPBasicAuth

from workers.atlas.api_key import clean_secret
from workers.atlas.errors import AtlasError, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

REFRESH_BEFORE = timedelta(minutes=10)
MINT_LEASE_SECONDS = 45.0  # more than one token request can last with both timeouts
MINT_PAUSE_SECONDS = 6.0  # after a failed mint; the endpoint was seen to allow ten a minute
REPEATS = 3  # with tokens of other workers, which Atlas may have revoked too
FIRST_REFUSED_PAUSE_SECONDS = 8.0
REFUSED_PAUSE_SECONDS = 64.0  # after new tokens were refused: more of them would only use up the limit of 100
_POLL_SECONDS = 0.1

# Codes of a 401 about the roles of the account: another token does not help.
_ABOUT_ROLES = (b"NOT_IN_GROUP", b"USER_UNAUTHORIZED", b"USER_CANNOT_ACCESS_GROUP")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. Both times have a time zone and are by this process's clock."""

    value: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime

    def valid(self, now: datetime) -> bool:
        """Return whether the token has not expired; Atlas may have revoked it all the same."""
        return now < self.expires_at

    def fresh(self, now: datetime) -> bool:
        """Return whether it is too early to renew the token.

        The renewal is due ten minutes before the end, or for short lifetimes when a fifth of it is left.
        """
        return now < self.expires_at - min(REFRESH_BEFORE, (self.expires_at - self.issued_at) / 5)


class TokenStore(Protocol):
    """The token of one service account, and the right to mint the next one; all workers share both.

    Each method is atomic.
    """

    def current(self) -> Token | None:
        """Return the token that was saved last, expired or not."""

    def take(self, seconds: float) -> bool:
        """Take the right to mint for at most `seconds`; return False at once when another has it or minting pauses."""

    def save(self, token: Token) -> None:
        """Save the current token and release the right to mint."""

    def release(self, pause: float = 0.0) -> None:
        """Release the right to mint without a token; no worker can take it in the next `pause` seconds."""


@dataclass(eq=False, repr=False)
class MemoryTokens:
    """A token store for one process, for `atlas-broker check` and tests."""

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _token: Token | None = field(default=None, init=False)
    _taken_until: float = field(default=0.0, init=False)

    def current(self) -> Token | None:
        """Return the token of this process, expired or not."""
        with self._lock:
            return self._token

    def take(self, seconds: float) -> bool:
        """Take the right to mint; False when another thread has it."""
        with self._lock:
            if time.monotonic() < self._taken_until:
                return False
            self._taken_until = time.monotonic() + seconds
            return True

    def save(self, token: Token) -> None:
        """Save a token and release the right to mint."""
        with self._lock:
            self._token, self._taken_until = token, 0.0

    def release(self, pause: float = 0.0) -> None:
        """Release the right to mint after a pause."""
        with self._lock:
            self._taken_until = time.monotonic() + pause


class ServiceAccount:
    """A service account of Atlas (an OAuth client).

    Args:
        client_id: Its client id.
        client_secret: Its secret.
        tokens: The store of its token, which all workers share.
        clock: Returns the current time, with a time zone.
        patience: How many seconds a call waits for a token that another worker mints.

    Raises:
        ValueError: The id or the secret is malformed.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        tokens: TokenStore,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience: float = 3.0,
    ) -> None:
        self.client_id = clean_secret(client_id, "the service account's client id")
        self._secret = clean_secret(client_secret, "the service account's secret")
        self._tokens = tokens
        self._clock = clock
        self._patience = patience
        self._known: Token | None = None  # spares a read of the store for each call
        self._refusals = 0  # of new tokens, one after the other

    def __repr__(self) -> str:
        return f"ServiceAccount({self.client_id!r})"

    def attach(self, ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> AuthBase:
        """Return a new auth object for one session.

        Args:
            ask_token: Sends the request to the token endpoint and returns the JSON object of the answer.
        """

        def mint() -> Token:
            issued_at = self._clock()
            answer = ask_token(HTTPBasicAuth(self.client_id, self._secret))
            return Token(answer["access_token"], issued_at, issued_at + timedelta(seconds=answer["expires_in"]))

        return _Bearer(self, mint)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that no error message may contain."""
        return (self._secret, *(token.value for token in [self._known] if token))

    def token(self, mint: Callable[[], Token]) -> Token:
        """Return the token for a call, minted if necessary. A token that is due for renewal is used until it expires.

        Args:
            mint: Requests a new token from Atlas.

        Raises:
            AtlasError: There is no valid token, and none could be minted.
        """
        now = self._clock()
        token = self._known
        if token is None or not token.fresh(now):
            token = self._tokens.current()
        if token is None or not token.valid(now):
            token, _ = self._await_other(token, mint)
            if token is None:
                raise NoAnswer(
                    f"No OAuth token for service account {self.client_id}: another worker is fetching one or could "
                    "not get one a moment ago.",
                    sent=False,
                )
        elif not token.fresh(now) and self._tokens.take(MINT_LEASE_SECONDS):
            with suppress(AtlasError):
                token, _ = self._mint(token, mint)
        self._known = token
        return token

    def replace(self, refused: Token, mint: Callable[[], Token]) -> tuple[Token | None, bool]:
        """Replace a token that Atlas refused.

        Args:
            refused: The token.
            mint: Requests a new token from Atlas.

        Returns:
            Another token, None when there is none now; and whether it was minted by this call. Atlas may have revoked
            the token of another worker too.
        """
        replacement, minted = self._await_other(refused, mint)
        self._known = replacement or self._known
        return replacement, minted

    def refused(self) -> None:
        """Pause minting, since Atlas has refused a new token: it refuses the account, not the token."""
        pause = min(REFUSED_PAUSE_SECONDS, FIRST_REFUSED_PAUSE_SECONDS * 2 ** min(self._refusals, 3))
        self._refusals += 1
        if self._tokens.take(pause):
            self._tokens.release(pause=pause)

    def accepted(self) -> None:
        """Record that Atlas accepts the account; end the pause of minting, if there is one."""
        if self._refusals:
            self._refusals = 0
            self._tokens.release()

    def _await_other(self, old: Token | None, mint: Callable[[], Token]) -> tuple[Token | None, bool]:
        """Return another token than the old one, and whether this call minted it; None after `patience` seconds."""
        end = time.monotonic() + self._patience
        while True:
            if (other := self._other(old)) is not None:
                return other, False
            if self._tokens.take(MINT_LEASE_SECONDS):
                return self._mint(old, mint)
            if time.monotonic() > end:
                return None, False
            time.sleep(_POLL_SECONDS)

    def _other(self, old: Token | None) -> Token | None:
        token = self._tokens.current()
        if token is None or not token.valid(self._clock()) or (old is not None and token.value == old.value):
            return None
        return token

    def _mint(self, old: Token | None, mint: Callable[[], Token]) -> tuple[Token, bool]:
        """Mint a token, unless another worker has minted one just before; the caller has the right to mint."""
        try:
            other = self._other(old)
            token = other or mint()
        except AtlasError as error:
            self._tokens.release(pause=max(MINT_PAUSE_SECONDS, error.retry_after or 0.0))
            raise
        except BaseException:
            self._tokens.release()
            raise
        self._tokens.save(token)
        return token, other is None


@dataclass(eq=False, repr=False)
class _Bearer(AuthBase):
    """Sets the header of a request, and repeats a request with another token after a 401, like `HTTPDigestAuth`."""

    account: ServiceAccount
    mint: Callable[[], Token]

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        token = self.account.token(self.mint)
        request.headers["Authorization"] = f"Bearer {token.value}"
        request.hooks["response"].append(partial(self._answered, token))
        return request

    def _answered(self, token: Token, response: Response, **kwargs: object) -> Response:
        new, repeats = False, 0
        while _is_refused(response) and not new and repeats < REPEATS:
            response.close()
            replacement, new = self.account.replace(token, self.mint)
            if replacement is None:
                return response
            token, refused, repeats = replacement, response, repeats + 1
            request = refused.request.copy()
            request.headers["Authorization"] = f"Bearer {token.value}"
            send: Callable[..., Response] = refused.connection.send
            response = send(request, **kwargs)
            response.history.append(refused)
            response.request = request
        if response.ok:
            self.account.accepted()
        elif new and _is_refused(response):
            self.account.refused()
        return response


def _is_refused(response: Response) -> bool:
    """Return whether Atlas refuses the token itself; if it refuses the roles of the account, a new token is no help."""
    return response.status_code == HTTPStatus.UNAUTHORIZED and not any(
        code in response.content for code in _ABOUT_ROLES
    )
