"""The OAuth token of a service account, encrypted in MongoDB for all workers; one worker at a time requests it.

It is encrypted with a key that only workers have, since it gives access to Atlas.
"""

from datetime import datetime
from uuid import uuid4

from broker_api.errors import UndecryptableError
from broker_api.state.encryption import Vault
from broker_api.state.housekeeping import TOKENS, Housekeeping
from broker_api.state.records import Place
from workers.atlas.client import Token


class SharedTokens:
    """The ``TokenStore`` of the Atlas client, for one service account."""

    def __init__(self, housekeeping: Housekeeping, vault: Vault, client_id: str) -> None:
        self._housekeeping = housekeeping
        self._vault = vault
        self._name = f"{TOKENS}{client_id}"
        self._place = Place(self._name, "sealed")
        self._lease = f"minting/{client_id}"
        self._owner = uuid4().hex

    def current(self) -> Token | None:
        """Return the token that was saved last; None when there is none or no key decrypts it any more."""
        sealed = self._housekeeping.read(self._name).get("sealed")
        if sealed is None:
            return None
        try:
            value, issued_at, expires_at = self._vault.open(sealed, self._place)
        except UndecryptableError:
            return None
        return Token(value, datetime.fromisoformat(issued_at), datetime.fromisoformat(expires_at))

    def take(self, seconds: float) -> bool:
        """Take the right to mint; each attempt has another owner, so that two threads cannot both have the right."""
        owner = uuid4().hex
        taken = self._housekeeping.acquire(self._lease, owner, seconds)
        self._owner = owner if taken else self._owner
        return taken

    def save(self, token: Token) -> None:
        """Save a new token and release the right to mint."""
        value = [token.value, token.issued_at.isoformat(), token.expires_at.isoformat()]
        self._housekeeping.write(self._name, {"sealed": self._vault.seal(value, self._place)})
        self.release()

    def release(self, pause: float = 0.0) -> None:
        """Release the right to mint; no worker can take it in the next ``pause`` seconds."""
        if pause:
            self._housekeeping.acquire(self._lease, self._owner, pause)
        else:
            self._housekeeping.release(self._lease, self._owner)
