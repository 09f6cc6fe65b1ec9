"""Service accounts: minting, using and revoking access tokens, with Atlas's two limits on them."""

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from werkzeug import Request, Response

from tests.emulator.answers import json_response, refusal
from tests.emulator.digest import Credential
from tests.emulator.errors import ApiError

TOKEN_PATH = "/api/oauth/token"
REVOKE_PATH = "/api/oauth/revoke"


@dataclass
class _Token:
    account: Credential
    ends: float


@dataclass
class OAuth:
    """Tokens live for `seconds`, at most `live_limit` an account; `mint_limit` are minted in `mint_minutes`."""

    accounts: dict[str, Credential] = field(default_factory=dict)
    seconds: int = 3600
    live_limit: int = 100
    mint_limit: int = 50
    mint_minutes: float = 1
    _tokens: dict[str, _Token] = field(default_factory=dict)
    _mints: deque[float] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request, path: str) -> Response:
        given = request.authorization
        account = self.accounts.get((given and given.username) or "")
        if account is None or given is None or given.type != "basic" or given.password != account.secret:
            return _refused(401, "invalid_client", "Invalid credentials provided.")
        return self._revoke(request) if path == REVOKE_PATH else self._mint(request, account)

    def caller(self, token: str) -> Credential | None:
        with self._lock:
            self._forget_ended()
            found = self._tokens.get(token)
            return found.account if found else None

    def revoke_all(self) -> None:
        with self._lock:
            self._tokens.clear()

    def live(self) -> int:
        with self._lock:
            self._forget_ended()
            return len(self._tokens)

    def _mint(self, request: Request, account: Credential) -> Response:
        grant = request.form.get("grant_type")
        if grant is None:
            return _refused(400, "invalid_request", "grant_type is missing.")
        if grant != "client_credentials":
            return _refused(400, "unsupported_grant_type", "Only client_credentials is supported.")
        with self._lock:
            return self._mint_within_limits(account)

    def _mint_within_limits(self, account: Credential) -> Response:
        now = time.monotonic()
        while self._mints and self._mints[0] <= now - 60 * self.mint_minutes:
            self._mints.popleft()
        if len(self._mints) >= self.mint_limit:
            return refusal(ApiError("RATE_LIMITED", TOKEN_PATH, self.mint_limit, int(self.mint_minutes)))
        self._forget_ended()
        if sum(token.account.name == account.name for token in self._tokens.values()) >= self.live_limit:
            return _refused(403, "access_denied", "Access Token limit reached.")
        self._mints.append(now)
        token = f"eyJhbGciOiJFUzUxMiJ9.{secrets.token_urlsafe(60)}.{secrets.token_urlsafe(60)}"
        self._tokens[token] = _Token(account, now + self.seconds)
        return json_response({"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"})

    def _revoke(self, request: Request) -> Response:
        with self._lock:
            self._tokens.pop(request.form.get("token", ""), None)
        return Response(status=200)

    def _forget_ended(self) -> None:
        now = time.monotonic()
        self._tokens = {value: token for value, token in self._tokens.items() if token.ends > now}


def _refused(status: int, error: str, description: str) -> Response:
    return json_response({"error": error, "error_description": description}, status)
