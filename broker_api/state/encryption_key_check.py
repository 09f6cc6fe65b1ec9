"""Check that this process has the broker's encryption keys: one of them must decrypt a stored text, the canary.

The first process creates the canary, after its keys have decrypted a secret of an earlier release, if there is one. To
change a key, the keys of all processes become [old], [old, new], [new, old], [new], one process after the other. A
process that starts, and decrypts the canary only with a key that is not its first, encrypts it again with its first
key. So the canary is encrypted with ``new`` before the old key is removed.

Its text also tells whether every document has MACs (``record_macs``), so that a document without them is refused.
Earlier releases read the canary too, so it stays a Fernet token.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pymongo
import structlog
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.settings.settings import Settings
from broker_api.state.encryption import FERNET, Vault, key_id_of
from broker_api.state.housekeeping import PROBE_SECONDS, Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.private_values import CONTEXT, PARAMETERS
from broker_api.state.record_macs import REQUEST
from broker_api.state.records import Place
from broker_api.state.store import Store

CANARY = "encryption_keys"
"""The name of the canary's document, and its text while documents of earlier releases may have no MACs."""
MACS_REQUIRED = "macs_required"
"""The text of the canary when every document has MACs."""
CANARY_PLACE = Place(CANARY, "sealed")
SEALED_FIELDS = ("sealed_credentials", "sealed_dropper", PARAMETERS, CONTEXT)
START_SECONDS = 3.0
"""How long the start of a process waits for MongoDB; without an answer the keys are checked later."""
FRESH_SECONDS = 1.0
SAMPLE = 100
UNAUTHORIZED = 13
"""MongoDB's code of the error that this user may not do that."""

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

    def replace_keys(self, keys: tuple[str, ...]) -> None:
        """Use other keys in the vault from now on, if they open what is stored.

        Raises:
            SettingError: They do not.
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        new = Vault(keys)
        if new.ids == self.vault.ids:
            return
        if KeyCheck(self.housekeeping, new).problem(renew=True):
            raise SettingError(WRONG_KEYS)
        self.vault.replace(keys)
        with self._lock:
            self._canary = None

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
            text = self._text_of_first_canary()
            if text is None:
                return WRONG_KEYS
            made = {"sealed": {"$ifNull": ["$sealed", self.vault.seal_for_all_releases(text)]}}
            try:
                document = self.housekeeping.collection.find_one_and_update(
                    {"_id": CANARY}, [{"$set": made}], upsert=True, return_document=ReturnDocument.AFTER
                )
                sealed = str(document["sealed"]) if document else ""
            except DuplicateKeyError:  # another process has made it at this moment
                sealed = self.canary() or ""
        if not self.vault.opens(sealed, CANARY_PLACE):
            return WRONG_KEYS
        text = self.vault.open(sealed, CANARY_PLACE)
        if text == MACS_REQUIRED:
            self.housekeeping.store.macs.required = True
            self.vault.fernet_only_at = CANARY_PLACE
        if renew and not self.vault.opens(sealed, CANARY_PLACE, first_key_only=True):
            try:
                self.replace(sealed, text)
            except OperationFailure as error:  # MongoDB may let only workers write it; one of them replaces it
                if error.code != UNAUTHORIZED:
                    raise
        return None

    def replace(self, sealed: str, text: str) -> bool:
        """Encrypt the canary again with the first key; return False if another process has replaced it meanwhile."""
        unchanged, renewed = {"_id": CANARY, "sealed": sealed}, self.vault.seal_for_all_releases(text)
        collection = self.housekeeping.collection
        return collection.update_one(unchanged, {"$set": {"sealed": renewed}}).matched_count == 1

    def canary(self) -> str | None:
        """Return the encrypted canary; None when there is none."""
        found = self.housekeeping.collection.find_one({"_id": CANARY}) or {}
        return str(found["sealed"]) if found.get("sealed") else None

    def _text_of_first_canary(self) -> str | None:
        """Return the text of a canary that is made now; None when the keys open none of the last stored secrets.

        Only a release without MACs has stored Fernet tokens and no MAC. Without such a token MACs are required, so a
        canary that something else has deleted does not switch them off.
        """
        collection = self.housekeeping.store.collection
        query = {"$or": [{field: {"$type": "string"}} for field in SEALED_FIELDS]}
        found = collection.find(query, dict.fromkeys(SEALED_FIELDS, 1)).sort("$natural", -1).limit(SAMPLE)
        sealed = stored_secrets(found)
        opened = [(place, text) for place, text in sealed if self.vault.opens(text, place)]
        if sealed and not opened:
            return None
        # The canary is a Fernet token too, and may have been copied; what it holds is no JSON object.
        tokens = [self.vault.open(text, place) for place, text in opened if key_id_of(text) == FERNET]
        has_macs = collection.find_one({REQUEST: {"$exists": True}}, {"_id": 1})
        is_earlier = any(isinstance(secret, dict) for secret in tokens) and not has_macs
        return CANARY if is_earlier else MACS_REQUIRED

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


def stored_secrets(documents: Iterable[Mapping[str, Any]]) -> list[tuple[Place, str]]:
    """Return the encrypted fields of instances and bindings, each with its place."""
    return [
        (Place(str(document["_id"]), field), str(document[field]))
        for document in documents
        for field in SEALED_FIELDS
        if document.get(field)
    ]


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
