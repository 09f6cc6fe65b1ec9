"""Whether this process has the broker's encryption keys: they must open one sealed document, the canary.

The first process ever makes the canary, once its keys have opened what an earlier release has sealed. To change a key,
the keys of the processes become [old], [old, new], [new, old], [new], one process after the other. A process that
starts and opens the canary only with a later key seals it again with its first one, so that the canary is sealed with
``new`` before the old key is taken away.
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
from broker_api.state.housekeeping import PROBE_SECONDS
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.store import Store
from broker_api.state.vault import Vault

CANARY = "encryption_keys"
SEALED_FIELDS = ("sealed_credentials", "sealed_dropper")
START_SECONDS = 3.0
"""How long the start of a process waits for MongoDB; when it is away, the keys are tried once it answers."""
FRESH_SECONDS = 1.0
SAMPLE = 100

WRONG_KEYS = (
    "BROKER_ENCRYPTION_KEYS: must contain a key that opens what the broker has stored; none of these does. "
    "Put back the key that the other processes have"
)

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class KeyCheck:
    """Tries the keys of one process on the canary."""

    store: Store
    vault: Vault
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _looked_at: float = field(default=-FRESH_SECONDS, init=False)
    _problem: str | None = field(default=None, init=False)
    _tried: bool = field(default=False, init=False)

    @storage_errors("try the encryption keys")
    def problem(self, *, renew: bool = False) -> str | None:
        """Return what is wrong with the keys; None when they open the canary, which is made if there is none.

        Args:
            renew: Seal the canary again with the first key if only a later one opens it.
        """
        sealed = self.canary()
        if sealed is None:
            if not self._opens_stored_secrets():
                return WRONG_KEYS
            made = {"sealed": {"$ifNull": ["$sealed", self.vault.seal(CANARY)]}}
            try:
                document = self.store.housekeeping.find_one_and_update(
                    {"_id": CANARY}, [{"$set": made}], upsert=True, return_document=ReturnDocument.AFTER
                )
                sealed = str(document["sealed"]) if document else ""
            except DuplicateKeyError:  # another process has made it at this moment
                sealed = self.canary() or ""
        if not self.vault.opens(sealed):
            return WRONG_KEYS
        if renew and not self.vault.opens(sealed, first_key_only=True):
            unchanged = {"_id": CANARY, "sealed": sealed}
            self.store.housekeeping.update_one(unchanged, {"$set": {"sealed": self.vault.seal(CANARY)}})
        return None

    def canary(self) -> str | None:
        """Return the canary as it is stored."""
        found = self.store.housekeeping.find_one({"_id": CANARY}) or {}
        return str(found["sealed"]) if found.get("sealed") else None

    def _opens_stored_secrets(self) -> bool:
        """Return whether the keys open one of the secrets that were stored last; true when there is none."""
        query = {"$or": [{field: {"$type": "string"}} for field in SEALED_FIELDS]}
        found = self.store.collection.find(query, dict.fromkeys(SEALED_FIELDS, 1)).sort("$natural", -1).limit(SAMPLE)
        sealed = [str(document[field]) for document in found for field in SEALED_FIELDS if document.get(field)]
        return not sealed or any(map(self.vault.opens, sealed))

    def passes(self) -> bool:
        """Return whether this process may work with its keys: what is sealed with a wrong key is lost.

        It is asked before each operation; MongoDB is asked once a second at most.
        """
        with self._lock:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                before = self._problem
                self._problem = self.problem(renew=not self._tried)
                self._looked_at, self._tried = time.monotonic(), True
                if self._problem and not before:
                    log.error("encryption_keys_wrong", reason=self._problem)
                elif before and not self._problem:
                    log.info("encryption_keys_right")
            return self._problem is None

    def report(self) -> str:
        """Return "ok" or what is wrong with the keys, for ``/ready``."""
        with pymongo.timeout(PROBE_SECONDS):
            return "ok" if self.passes() else WRONG_KEYS


def check_at_start(settings: Settings) -> None:
    """Try the keys before a process serves or works. When MongoDB does not answer, it is not known, and allowed.

    Raises:
        SettingError: The keys do not open the canary.
    """
    try:
        with connect(settings.mongo_uri, settings.mongo_timeout_ms) as client, pymongo.timeout(START_SECONDS):
            store = Store(client, settings.mongo_db, settings.mongo_collection)
            problem = KeyCheck(store, Vault(settings.encryption_keys)).problem(renew=True)
    except (ErrStorageMongoConnection, PyMongoError):
        return
    if problem:
        raise SettingError(problem)
