"""HTTP basic authentication (RFC 7617) against the configured users."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import Unauthorized

_CHALLENGE = WWWAuthenticate("basic", {"realm": "Atlas Broker", "charset": "UTF-8"})


class Users:
    """Who may ask. The time that an answer takes tells neither a password nor whether a name is known."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._digests = {name: _digest(password) for name, password in users.items()}
        self._nobody = _digest(secrets.token_hex())

    def require(self, authorization: Authorization | None) -> None:
        """Let a known user pass.

        Raises:
            Unauthorized: the user is unknown or the password wrong.
        """
        given = authorization if authorization is not None and authorization.type == "basic" else None
        name, password = ((given.username or ""), (given.password or "")) if given else ("", "")
        if not hmac.compare_digest(_digest(password), self._digests.get(name, self._nobody)):
            raise Unauthorized("A user name and password are required (basic authentication).", None, _CHALLENGE)


def _digest(password: str) -> bytes:
    # Digests are equally long, so comparing them does not tell the password's length.
    return hashlib.sha256(password.encode()).digest()
