"""Both ways to authenticate: API keys with HTTP digest, and service accounts with access tokens."""

import hashlib
import hmac
import secrets
import threading
import time
from base64 import b64encode
from collections import deque
from dataclasses import dataclass, field

from werkzeug import Request, Response
from werkzeug.datastructures import Authorization

from tests.emulator.errors import ApiError, json_response
from tests.emulator.model import Credential

REALM = "MMS Public API"
TOKEN_PATH = "/api/oauth/token"
REVOKE_PATH = "/api/oauth/revoke"


@dataclass
class Digest:
    """As recorded: MD5, qop auth, no opaque, `stale` never true.

    Nonces end after `seconds` or `uses`, whichever comes first; how long Atlas's live is not known.
    """

    keys: dict[str, Credential] = field(default_factory=dict)
    seconds: float = 300
    uses: int = 1000
    _nonces: dict[str, tuple[float, int]] = field(default_factory=dict)  # when it was issued, and how often used
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def challenge(self) -> str:
        nonce = b64encode(secrets.token_bytes(24)).decode()
        with self._lock:
            self._nonces[nonce] = time.monotonic(), 0
        return f'Digest realm="{REALM}", domain="", nonce="{nonce}", algorithm=MD5, qop="auth", stale=false'

    def caller(self, given: Authorization, method: str, target: str) -> Credential | None:
        """Return the key that signed this request (`target` is the path and query as sent) with a live nonce."""
        key = self.keys.get(given.username or "")
        if key is None or given.parameters.get("uri") != target:
            return None
        parts = [given.parameters.get(name) or "" for name in ("nonce", "nc", "cnonce", "qop")]
        expected = _md5(_md5(key.name, REALM, key.secret), *parts, _md5(method, target))
        if not hmac.compare_digest(given.parameters.get("response") or "", expected):
            return None
        with self._lock:
            issued, uses = self._nonces.pop(parts[0], (0.0, self.uses))
            if uses >= self.uses or time.monotonic() - issued > self.seconds:
                return None
            self._nonces[parts[0]] = issued, uses + 1
        return key

    def expire(self) -> None:
        with self._lock:
            self._nonces.clear()


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


@dataclass
class OAuth:
    """Tokens live for `seconds`, at most `live_limit` an account; `mint_limit` are minted in `mint_minutes`."""

    accounts: dict[str, Credential] = field(default_factory=dict)
    seconds: int = 3600
    live_limit: int = 100
    mint_limit: int = 50
    mint_minutes: float = 1
    _tokens: dict[str, tuple[Credential, float]] = field(default_factory=dict)  # with the time at which each ends
    _mints: deque[float] = field(default_factory=deque)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request, path: str) -> Response:
        """Mint or revoke a token."""
        given, form = request.authorization, request.form
        account = self.accounts.get((given and given.username) or "")
        if account is None or given is None or given.type != "basic" or given.password != account.secret:
            return _refused(401, "invalid_client", "Invalid credentials provided.")
        with self._lock:
            if path == REVOKE_PATH:
                self._tokens.pop(form.get("token", ""), None)
                return Response(status=200)
            if "grant_type" not in form:
                return _refused(400, "invalid_request", "grant_type is missing.")
            if form["grant_type"] != "client_credentials":
                return _refused(400, "unsupported_grant_type", "Only client_credentials is supported.")
            return self._mint(account)

    def _mint(self, account: Credential) -> Response:
        now = time.monotonic()
        while self._mints and self._mints[0] <= now - 60 * self.mint_minutes:
            self._mints.popleft()
        if len(self._mints) >= self.mint_limit:
            return ApiError("RATE_LIMITED", TOKEN_PATH, self.mint_limit, int(self.mint_minutes)).response()
        if sum(owner.name == account.name for owner, _ in self._live().values()) >= self.live_limit:
            return _refused(403, "access_denied", "Access Token limit reached.")
        self._mints.append(now)
        token = f"eyJhbGciOiJFUzUxMiJ9.{secrets.token_urlsafe(60)}.{secrets.token_urlsafe(60)}"
        self._tokens[token] = account, now + self.seconds
        return json_response({"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"})

    def _live(self) -> dict[str, tuple[Credential, float]]:
        with self._lock:
            now = time.monotonic()
            self._tokens = {token: (owner, end) for token, (owner, end) in self._tokens.items() if end > now}
            return self._tokens

    def caller(self, token: str) -> Credential | None:
        """Return the account that a live token belongs to, with the roles that it has now."""
        owner = self._live().get(token, (None, 0))[0]
        return owner and self.accounts.get(owner.name, owner)

    def count(self) -> int:
        return len(self._live())

    def revoke_all(self) -> None:
        with self._lock:
            self._tokens.clear()


def _refused(status: int, error: str, description: str) -> Response:
    return json_response({"error": error, "error_description": description}, status)
