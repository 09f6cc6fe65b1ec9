"""Encryption of the secrets in MongoDB: credentials and the shared Atlas token (Fernet, with key rotation)."""

import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from broker_api.errors import UndecryptableError


class Vault:
    """Seals JSON values; the first key encrypts, all decrypt."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        fernets = [Fernet(key) for key in keys]
        self._first = fernets[0]
        self._all = MultiFernet(fernets)

    def seal(self, secret: object) -> str:
        """Encrypt a JSON value into text."""
        return self._all.encrypt(json.dumps(secret).encode()).decode()

    def open(self, sealed: str) -> Any:  # noqa: ANN401 - any JSON value
        """Decrypt what ``seal`` made.

        Raises:
            UndecryptableError: No key fits. A key may fit and give no JSON: keys may share the half that signs.
        """
        try:
            return json.loads(self._all.decrypt(sealed.encode()))
        except (InvalidToken, ValueError) as error:
            raise UndecryptableError from error

    def opens(self, sealed: str, *, first_key_only: bool = False) -> bool:
        """Return whether one of the keys, or the one that encrypts, opens what ``seal`` made."""
        try:
            json.loads((self._first if first_key_only else self._all).decrypt(sealed.encode()))
        except (InvalidToken, ValueError):
            return False
        return True
