"""Encryption of the secrets in MongoDB: credentials and the shared Atlas token (Fernet, with key rotation)."""

import json
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from broker_api.errors import UndecryptableError


class Vault:
    """Encrypts and decrypts JSON values. The first key encrypts; all keys decrypt."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        fernets = [Fernet(key) for key in keys]
        self._first = fernets[0]
        self._all = MultiFernet(fernets)

    def seal(self, secret: object) -> str:
        """Return the encrypted text of a JSON value."""
        return self._all.encrypt(json.dumps(secret).encode()).decode()

    def open(self, sealed: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the JSON value of a text that ``seal`` returned.

        Raises:
            UndecryptableError: No key decrypts it. Two keys may share the half that signs, so the result of a wrong
                key may also be no JSON.
        """
        try:
            return json.loads(self._all.decrypt(sealed.encode()))
        except (InvalidToken, ValueError) as error:
            raise UndecryptableError from error

    def opens(self, sealed: str, *, first_key_only: bool = False) -> bool:
        """Return whether a key decrypts a text that ``seal`` returned.

        Args:
            sealed: The text.
            first_key_only: Try only the key that encrypts.
        """
        try:
            json.loads((self._first if first_key_only else self._all).decrypt(sealed.encode()))
        except (InvalidToken, ValueError):
            return False
        return True
