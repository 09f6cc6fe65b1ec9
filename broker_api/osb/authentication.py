"""HTTP basic authentication (RFC 7617) against the configured users."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import Unauthorized

_CHALLENGE = WWWAuthenticate("basic", {"realm": "Atlas Broker", "charset": "UTF-8"})


class Users:
    """The configured users. How long an answer takes reveals neither a password nor whether a name is known."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._digests = {name: _digest(password) for name, password in users.items()}
        self._unknown = _digest(secrets.token_hex())

    def require(self, authorization: Authorization | None) -> None:
        """Check a request's user and password.

        Raises:
            Unauthorized: the user is unknown or the password wrong.
        """
        name = password = ""
        if authorization is not None and authorization.type == "basic":
            name, password = authorization.username or "", authorization.password or ""
        if not hmac.compare_digest(_digest(password), self._digests.get(name, self._unknown)):
            raise Unauthorized("A user name and password are required (basic authentication).", None, _CHALLENGE)


def _digest(password: str) -> bytes:
    # All digests have the same length, so comparing them does not reveal the password's.
    return hashlib.sha256(password.encode()).digest()
