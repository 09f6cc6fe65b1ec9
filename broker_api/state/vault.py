"""Encryption of what MongoDB keeps secret for us: credentials, the shared Atlas token (Fernet, with key rotation)."""

import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from broker_api.errors import UndecryptableError


class Vault:
    """Seals JSON values; the first key encrypts, all decrypt."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        keyrings = [Fernet(key) for key in keys]
        self._first = keyrings[0]
        self._fernet = MultiFernet(keyrings)

    def seal(self, secret: Any) -> str:  # noqa: ANN401 - any JSON value
        """Encrypt a JSON value into text."""
        return self._fernet.encrypt(json.dumps(secret).encode()).decode()

    def open(self, sealed: str) -> Any:  # noqa: ANN401 - any JSON value
        """Decrypt what ``seal`` made.

        Raises:
            UndecryptableError: no key fits, or what it gives is no JSON: keys may share the half that signs.
        """
        try:
            return json.loads(self._fernet.decrypt(sealed.encode()))
        except (InvalidToken, ValueError) as error:
            raise UndecryptableError from error

    def opens(self, sealed: str, *, first_key_only: bool = False) -> bool:
        """Return whether one of the keys opens this, or the one that encrypts does."""
        try:
            json.loads((self._first if first_key_only else self._fernet).decrypt(sealed.encode()))
        except (InvalidToken, ValueError):
            return False
        return True
