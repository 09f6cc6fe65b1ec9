"""HTTP digest authentication with API keys, as recorded: MD5, qop auth, no opaque, `stale` never true."""

import hashlib
import hmac
import secrets
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field

from werkzeug.datastructures import Authorization

REALM = "MMS Public API"


@dataclass(frozen=True)
class Credential:
    """An API key or a service account, `name` its public half; a read-only one changes nothing."""

    name: str
    secret: str
    projects: frozenset[str]
    read_only: bool = False


@dataclass
class _Nonce:
    issued: float
    uses: int = 0


@dataclass
class Digest:
    """Nonces end after `seconds` or `uses`, whichever comes first; how long Atlas's live is not known."""

    keys: dict[str, Credential] = field(default_factory=dict)
    seconds: float = 300
    uses: int = 1000
    _nonces: dict[str, _Nonce] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def challenge(self) -> str:
        nonce = b64encode(secrets.token_bytes(24)).decode()
        with self._lock:
            self._nonces[nonce] = _Nonce(time.monotonic())
        return f'Digest realm="{REALM}", domain="", nonce="{nonce}", algorithm=MD5, qop="auth", stale=false'

    def caller(self, given: Authorization, method: str, target: str) -> Credential | None:
        """The key that signed this request (`target` is the path and query as sent), if it did and its nonce lives."""
        key = self.keys.get(given.username or "")
        if key is None or given.parameters.get("uri") != target:
            return None
        signed = hmac.compare_digest(given.parameters.get("response") or "", _response(key, given, method, target))
        return key if signed and self._use(given.parameters.get("nonce") or "") else None

    def expire(self) -> None:
        with self._lock:
            self._nonces.clear()

    def _use(self, value: str) -> bool:
        with self._lock:
            nonce = self._nonces.get(value)
            if nonce is None or nonce.uses >= self.uses or time.monotonic() - nonce.issued > self.seconds:
                self._nonces.pop(value, None)
                return False
            nonce.uses += 1
            return True


def _response(key: Credential, given: Authorization, method: str, target: str) -> str:
    parts = [given.parameters.get(name) or "" for name in ("nonce", "nc", "cnonce", "qop")]
    return _md5(_md5(key.name, REALM, key.secret), *parts, _md5(method, target))


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
