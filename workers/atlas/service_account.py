"""Authentication by a service account (OAuth bearer token).

The token is shared by all workers through a `TokenStore`: Atlas allows 100 live tokens an account and limits how often
one may be minted.
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
REPEATS = 3  # with tokens that other workers have fetched, before which Atlas may have revoked them too
FIRST_REFUSED_PAUSE_SECONDS = 8.0
REFUSED_PAUSE_SECONDS = 64.0  # after brand-new tokens were refused: more of them would only fill the limit of 100
_POLL_SECONDS = 0.1

# 401s that say "this account may not", which another token does not change.
_ABOUT_ROLES = (b"NOT_IN_GROUP", b"USER_UNAUTHORIZED", b"USER_CANNOT_ACCESS_GROUP")


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; both times are aware and by this side's clock."""

    value: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime

    def valid(self, now: datetime) -> bool:
        """Return whether Atlas still accepts it, unless it was revoked."""
        return now < self.expires_at

    def fresh(self, now: datetime) -> bool:
        """Return whether it is not yet due for renewal: ten minutes before its end, or a fifth of a shorter life."""
        return now < self.expires_at - min(REFRESH_BEFORE, (self.expires_at - self.issued_at) / 5)


class TokenStore(Protocol):
    """One service account's token, and the right to mint the next one; shared by every worker.

    Every method is one atomic step. An implementation in a database needs one document:
    the token (encrypted), and a time until which no worker may mint.
    """

    def current(self) -> Token | None:
        """Return the token that was saved last, expired or not."""

    def take(self, seconds: float) -> bool:
        """Take the right to mint for at most `seconds`; return False at once when it is taken or paused."""

    def save(self, token: Token) -> None:
        """Make `token` the current one and give the right to mint back."""

    def release(self, pause: float = 0.0) -> None:
        """Release the right without a token; no worker can take it within `pause` seconds."""


@dataclass(eq=False, repr=False)
class MemoryTokens:
    """A store for one process: `check` and tests."""

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
        """Keep a token, and give the right to mint back."""
        with self._lock:
            self._token, self._taken_until = token, 0.0

    def release(self, pause: float = 0.0) -> None:
        """Release the right to mint after a pause."""
        with self._lock:
            self._taken_until = time.monotonic() + pause


class ServiceAccount:
    """An OAuth client whose token comes from, and goes to, a store that all workers share.

    `patience` is how many seconds a call without a token waits while another worker mints one.
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
        """Return a new auth object for one session; `ask_token` posts to the token endpoint and returns its answer."""

        def mint() -> Token:
            issued_at = self._clock()
            answer = ask_token(HTTPBasicAuth(self.client_id, self._secret))
            return Token(answer["access_token"], issued_at, issued_at + timedelta(seconds=answer["expires_in"]))

        return _Bearer(self, mint)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no error text may repeat."""
        return (self._secret, *(token.value for token in [self._known] if token))

    def token(self, mint: Callable[[], Token]) -> Token:
        """Return a token to call with. While it is only due for renewal, a call that cannot renew it uses it.

        Raises:
            AtlasError: there is no token, and none could be minted.
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
        """Return another token than the refused one (None when there is none now), and whether it is new.

        One that is not new was fetched by another worker, earlier than Atlas may have revoked it.
        """
        replacement, minted = self._await_other(refused, mint)
        self._known = replacement or self._known
        return replacement, minted

    def refused(self) -> None:
        """Pause minting: Atlas refuses a new token, too, so that it is the account that it refuses."""
        pause = min(REFUSED_PAUSE_SECONDS, FIRST_REFUSED_PAUSE_SECONDS * 2 ** min(self._refusals, 3))
        self._refusals += 1
        if self._tokens.take(pause):
            self._tokens.release(pause=pause)

    def accepted(self) -> None:
        """Record that Atlas accepts the account; end a pause."""
        if self._refusals:
            self._refusals = 0
            self._tokens.release()

    def _await_other(self, old: Token | None, mint: Callable[[], Token]) -> tuple[Token | None, bool]:
        """Return another token than the old one, and whether it is new; None after `patience` seconds without."""
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
        """Mint, holding the right to do so. Looks once more: another worker may have minted just before."""
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
    """Shaped like `HTTPDigestAuth`: sets the header, and repeats a request that came back with 401."""

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
    """Return whether Atlas refuses the token. Where it refuses the account's roles, another token changes nothing."""
    return response.status_code == HTTPStatus.UNAUTHORIZED and not any(
        code in response.content for code in _ABOUT_ROLES
    )
