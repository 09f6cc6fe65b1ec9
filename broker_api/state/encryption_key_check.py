"""Check that this process has the broker's encryption keys: one of them must decrypt a stored text, the canary.

The first process creates the canary, after its keys have decrypted a secret of an earlier release, if there is one. To
change a key, the keys of all processes become [old], [old, new], [new, old], [new], one process after the other. A
process that starts, and decrypts the canary only with a key that is not its first, encrypts it again with its first
key. So the canary is encrypted with ``new`` before the old key is removed.
"""

import threading
import time
from dataclasses import dataclass, field

import pymongo
import structlog
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.settings.settings import Settings
from broker_api.state.encryption import Vault
from broker_api.state.housekeeping import PROBE_SECONDS, Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.store import Store

CANARY = "encryption_keys"
SEALED_FIELDS = ("sealed_credentials", "sealed_dropper")
START_SECONDS = 3.0
"""How long the start of a process waits for MongoDB; without an answer the keys are checked later."""
FRESH_SECONDS = 1.0
SAMPLE = 100

WRONG_KEYS = (
    "BROKER_ENCRYPTION_KEYS: must contain a key that opens what the broker has stored; none of these does. "
    "Put back the key that the other processes have"
)

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class KeyCheck:
    """Checks the keys of one process."""

    housekeeping: Housekeeping
    vault: Vault
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _looked_at: float = field(default=-FRESH_SECONDS, init=False)
    _canary: str | None = field(default=None, init=False)
    _problem: str | None = field(default=None, init=False)
    _tried: bool = field(default=False, init=False)

    @storage_errors("try the encryption keys")
    def problem(self, *, renew: bool = False) -> str | None:
        """Check the keys now; create the canary if there is none.

        Args:
            renew: Encrypt the canary again with the first key if only another key decrypts it.

        Returns:
            The problem as a sentence for operators; None when a key decrypts the canary.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        sealed = self.canary()
        if sealed is None:
            if not self._opens_stored_secrets():
                return WRONG_KEYS
            made = {"sealed": {"$ifNull": ["$sealed", self.vault.seal(CANARY)]}}
            try:
                document = self.housekeeping.collection.find_one_and_update(
                    {"_id": CANARY}, [{"$set": made}], upsert=True, return_document=ReturnDocument.AFTER
                )
                sealed = str(document["sealed"]) if document else ""
            except DuplicateKeyError:  # another process has made it at this moment
                sealed = self.canary() or ""
        if not self.vault.opens(sealed):
            return WRONG_KEYS
        if renew and not self.vault.opens(sealed, first_key_only=True):
            unchanged = {"_id": CANARY, "sealed": sealed}
            self.housekeeping.collection.update_one(unchanged, {"$set": {"sealed": self.vault.seal(CANARY)}})
        return None

    def canary(self) -> str | None:
        """Return the encrypted canary; None when there is none."""
        found = self.housekeeping.collection.find_one({"_id": CANARY}) or {}
        return str(found["sealed"]) if found.get("sealed") else None

    def _opens_stored_secrets(self) -> bool:
        """Return whether the keys decrypt one of the last stored secrets; true when there are none."""
        query = {"$or": [{field: {"$type": "string"}} for field in SEALED_FIELDS]}
        collection = self.housekeeping.store.collection
        found = collection.find(query, dict.fromkeys(SEALED_FIELDS, 1)).sort("$natural", -1).limit(SAMPLE)
        sealed = [str(document[field]) for document in found for field in SEALED_FIELDS if document.get(field)]
        return not sealed or any(map(self.vault.opens, sealed))

    def passes(self) -> bool:
        """Return whether the keys are right; secrets that are encrypted with wrong keys would be lost.

        This is called before each operation. The keys are tried when the canary has changed.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        with self._lock:
            canary = self.housekeeping.recent(CANARY).get("sealed")
            changed = canary is None or canary != self._canary
            if changed and time.monotonic() - self._looked_at >= FRESH_SECONDS:
                before = self._problem
                self._problem = self.problem(renew=not self._tried)
                self._looked_at, self._tried, self._canary = time.monotonic(), True, canary
                if self._problem and not before:
                    log.error("encryption_keys_wrong", reason=self._problem)
                elif before and not self._problem:
                    log.info("encryption_keys_right")
            return self._problem is None

    def report(self) -> str:
        """Return "ok" or the problem of the keys, for ``/ready``.

        Raises:
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        with pymongo.timeout(PROBE_SECONDS):
            return "ok" if self.passes() else WRONG_KEYS


def check_at_start(settings: Settings) -> None:
    """Check the keys at the start of a process. Without an answer of MongoDB the process may start.

    Raises:
        SettingError: The keys do not decrypt the canary.
    """
    try:
        with connect(settings.mongo_uri, settings.mongo_timeout_ms) as client, pymongo.timeout(START_SECONDS):
            store = Store(client, settings.mongo_db, settings.mongo_collection)
            problem = KeyCheck(Housekeeping(store), Vault(settings.encryption_keys)).problem(renew=True)
    except (ErrStorageMongoConnection, PyMongoError):
        return
    if problem:
        raise SettingError(problem)
