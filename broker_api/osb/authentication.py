"""HTTP basic authentication (RFC 7617) against the configured users."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import Unauthorized

_CHALLENGE = WWWAuthenticate("basic", {"realm": "Atlas Broker", "charset": "UTF-8"})


class Users:
    """The configured users. The time of a check reveals neither a password nor whether a name is known."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._digests = {name: _digest(password) for name, password in users.items()}
        self._unknown = _digest(secrets.token_hex())

    def require(self, authorization: Authorization | None) -> None:
        """Check the user and the password of a request.

        Args:
            authorization: the parsed header; None if there is none.

        Raises:
            Unauthorized: the header is missing, the user is unknown or the password is wrong.
        """
        name = password = ""
        if authorization is not None and authorization.type == "basic":
            name, password = authorization.username or "", authorization.password or ""
        if not hmac.compare_digest(_digest(password), self._digests.get(name, self._unknown)):
            raise Unauthorized("A user name and password are required (basic authentication).", None, _CHALLENGE)


def _digest(password: str) -> bytes:
    # All digests have the same length, so comparing them does not reveal the password's.
    return hashlib.sha256(password.encode()).digest()
