"""Authentication towards Atlas: an API key (HTTP digest) or a service account (OAuth bearer token).

Both become a `requests` auth object, one for each thread's session. A service account's token is shared by all
workers through a `TokenStore`: Atlas allows 100 live tokens an account and limits how often one may be minted.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from workers.atlas.errors import AtlasError, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response

REFRESH_BEFORE = timedelta(minutes=10)
MINT_LEASE_SECONDS = 45.0  # more than one token request can last with both timeouts
MINT_PAUSE_SECONDS = 6.0  # after a failed mint; the endpoint was seen to allow ten a minute
REPEATS = 3  # with tokens that other workers have fetched, before which Atlas may have revoked them too
UNAUTHORIZED = 401
FIRST_REFUSED_PAUSE_SECONDS = 8.0
REFUSED_PAUSE_SECONDS = 64.0  # after brand-new tokens were refused: more of them would only fill the limit of 100
_POLL_SECONDS = 0.1
NONCE_TRUSTED_SECONDS = 20.0  # after its last use; how long Atlas's nonces live is not documented
FIRST_PATIENCE_SECONDS = 2.0

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


class MemoryTokens:
    """A store for one process: `check` and tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._taken_until = 0.0

    def current(self) -> Token | None:  # noqa: D102  the rule stands at TokenStore
        with self._lock:
            return self._token

    def take(self, seconds: float) -> bool:  # noqa: D102  the rule stands at TokenStore
        with self._lock:
            if time.monotonic() < self._taken_until:
                return False
            self._taken_until = time.monotonic() + seconds
            return True

    def save(self, token: Token) -> None:  # noqa: D102  the rule stands at TokenStore
        with self._lock:
            self._token, self._taken_until = token, 0.0

    def release(self, pause: float = 0.0) -> None:  # noqa: D102  the rule stands at TokenStore
        with self._lock:
            self._taken_until = time.monotonic() + pause


def _clean(secret: str, name: str) -> str:
    """Return the secret without a line break that a file or a shell added; raise ValueError for a malformed one."""
    stripped = secret.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable() or " " in stripped:
        raise ValueError(f"{name} must be non-empty ASCII without blanks or line breaks")
    return stripped


class _Challenge:
    """The digest challenge that all threads answer, each use with its own count.

    When it is not known to be good, one thread finds out and the others wait for it, since a burst of jobs would be
    challenged once for each thread. No thread waits longer than `FIRST_PATIENCE_SECONDS`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._values: dict[str, str] = {}
        self._uses = 0
        self._good_until = self._asking_until = 0.0

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
            own = self._state
            own.chal, own.last_nonce, own.nonce_count = values, values["nonce"], uses - 1
        signed: PreparedRequest = super().__call__(request)  # type: ignore[no-untyped-call]
        return signed

    def handle_401(self, r: Response, **kwargs: Any) -> Response:  # noqa: ANN401  requests' own arguments
        """Called with every answer; shares what it says about the challenge."""
        response: Response = super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call]
        if response.status_code != UNAUTHORIZED:
            if response is r:
                self._challenge.confirm()
            else:
                self._challenge.put(self._state.chal)
        return response

    @property
    def _state(self) -> Any:  # noqa: ANN401  the library keeps it so
        return vars(self)["_thread_local"]


class ApiKey:
    """A programmatic API key. All threads reuse one nonce, so that few calls are challenged."""

    def __init__(self, public: str, private: str) -> None:
        self.public = _clean(public, "the public API key")
        self._private = _clean(private, "the private API key")
        self._challenge = _Challenge()

    def __repr__(self) -> str:
        return f"ApiKey({self.public!r})"

    def attach(self, ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> AuthBase:  # noqa: ARG002  no token here
        """Return a new auth object for one session."""
        return _Digest(self.public, self._private, self._challenge)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no error text may repeat."""
        return (self._private,)


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
        self.client_id = _clean(client_id, "the service account's client id")
        self._secret = _clean(client_secret, "the service account's secret")
        self._tokens = tokens
        self._clock = clock
        self._patience = patience
        self._known: Token | None = None  # spares a read of the store for each call
        self._refusals = 0  # of new tokens, one after the other

    def __repr__(self) -> str:
        return f"ServiceAccount({self.client_id!r})"

    def attach(self, ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> AuthBase:
        """A new auth object for one session; `ask_token` posts to the token endpoint and gives its answer."""
        return _Bearer(self, lambda: self._ask(ask_token))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return what no error text may repeat."""
        return (self._secret, *(token.value for token in [self._known] if token))

    def token(self, mint: Callable[[], Token]) -> Token:
        """Return a token to call with. While it is only due for renewal, a call that cannot renew it uses it."""
        now = self._clock()
        token = self._known
        if token is None or not token.fresh(now):
            token = self._tokens.current()
        if token is None or not token.fresh(now):
            token = self._renew(token, mint)
        self._known = token
        return token

    def replace(self, refused: Token, mint: Callable[[], Token]) -> tuple[Token | None, bool]:
        """Return another token than the refused one (None when there is none now), and whether it is new.

        One that is not new was fetched by another worker, earlier than Atlas may have revoked it.
        """
        minted: list[Token] = []

        def noted() -> Token:
            minted.append(mint())
            return minted[0]

        replacement = self._await_other(refused, noted)
        self._known = replacement or self._known
        return replacement, bool(minted)

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

    def _renew(self, old: Token | None, mint: Callable[[], Token]) -> Token:
        if old is not None and old.valid(self._clock()):
            return self._try_mint(old, mint) if self._tokens.take(MINT_LEASE_SECONDS) else old
        token = self._await_other(old, mint)
        if token is None:
            raise NoAnswer(
                f"No OAuth token for service account {self.client_id}: another worker is fetching one or could not "
                "get one a moment ago.",
                sent=False,
            )
        return token

    def _try_mint(self, old: Token, mint: Callable[[], Token]) -> Token:
        """Return a new token, or the old one when the renewal fails."""
        try:
            return self._mint(old, mint)
        except AtlasError:
            return old

    def _await_other(self, old: Token | None, mint: Callable[[], Token]) -> Token | None:
        end = time.monotonic() + self._patience
        while True:
            if (other := self._other(old)) is not None:
                return other
            if self._tokens.take(MINT_LEASE_SECONDS):
                return self._mint(old, mint)
            if time.monotonic() > end:
                return None
            time.sleep(_POLL_SECONDS)

    def _other(self, old: Token | None) -> Token | None:
        token = self._tokens.current()
        if token is None or not token.valid(self._clock()) or (old is not None and token.value == old.value):
            return None
        return token

    def _mint(self, old: Token | None, mint: Callable[[], Token]) -> Token:
        """Mint, holding the right to do so. Looks once more: another worker may have minted just before."""
        try:
            token = self._other(old) or mint()
        except AtlasError as error:
            self._tokens.release(pause=max(MINT_PAUSE_SECONDS, error.retry_after or 0.0))
            raise
        except BaseException:
            self._tokens.release()
            raise
        self._tokens.save(token)
        return token

    def _ask(self, ask_token: Callable[[HTTPBasicAuth], dict[str, Any]]) -> Token:
        issued_at = self._clock()
        answer = ask_token(HTTPBasicAuth(self.client_id, self._secret))
        return Token(answer["access_token"], issued_at, issued_at + timedelta(seconds=answer["expires_in"]))


class _Bearer(AuthBase):
    """Shaped like `HTTPDigestAuth`: sets the header, and repeats a request that came back with 401."""

    def __init__(self, account: ServiceAccount, mint: Callable[[], Token]) -> None:
        self._account = account
        self._mint = mint

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        token = self._account.token(self._mint)
        request.headers["Authorization"] = f"Bearer {token.value}"

        def answered(response: Response, **kwargs: Any) -> Response:  # noqa: ANN401  requests' own arguments
            return self._answered(token, response, **kwargs)

        request.hooks["response"].append(answered)
        return request

    def _answered(self, token: Token, response: Response, **kwargs: Any) -> Response:  # noqa: ANN401
        new, repeats = False, 0
        while _is_refused(response) and not new and repeats < REPEATS:
            response.close()
            replacement, new = self._account.replace(token, self._mint)
            if replacement is None:
                return response
            token, response, repeats = replacement, self._repeat(response, replacement, **kwargs), repeats + 1
        if response.ok:
            self._account.accepted()
        elif new and _is_refused(response):
            self._account.refused()
        return response

    def _repeat(self, refused: Response, token: Token, **kwargs: Any) -> Response:  # noqa: ANN401
        request = refused.request.copy()
        request.headers["Authorization"] = f"Bearer {token.value}"
        response: Response = refused.connection.send(request, **kwargs)
        response.history.append(refused)
        response.request = request
        return response


def _is_refused(response: Response) -> bool:
    """Return whether Atlas refuses the token. Where it refuses the account's roles, another token changes nothing."""
    return response.status_code == UNAUTHORIZED and not any(code in response.content for code in _ABOUT_ROLES)
