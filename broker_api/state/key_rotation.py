"""Rotation of the encryption keys: every secret is encrypted, and every MAC made, again with the first key.

It runs beside the broker. A document is replaced only if its secrets and MACs are still those that were read, so that
it takes nothing from a process that writes the document at this moment; such a document is looked at again. An
interrupted rotation is begun again, and skips what is done.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection

from broker_api.errors import BrokerError, TamperedError
from broker_api.json_types import JsonObject
from broker_api.state.database_reservations import RESERVATIONS, checked
from broker_api.state.encryption import FERNET, key_id_of
from broker_api.state.encryption_key_check import CANARY_PLACE, MACS_REQUIRED, SEALED_FIELDS, KeyCheck
from broker_api.state.housekeeping import BROKER, BROKER_PLACE, TOKENS, Housekeeping, checked_broker_id
from broker_api.state.mongo import Document, in_batches
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.private_values import REQUEST as SEALED_REQUEST
from broker_api.state.private_values import in_clear, opened, sealed, sealed_request
from broker_api.state.record_macs import OPERATION, REQUEST, SETTLED
from broker_api.state.records import Phase, Place, canonical, record
from broker_api.state.store import Store

MACS = (REQUEST, SETTLED, OPERATION)
ALL_SEALED = (*SEALED_FIELDS, SEALED_REQUEST)
CLEAR = ("parameters", "context", "operation.request")
NOT_HERE = "the key of the other processes"
"""Stands for the id of a key that has made the canary and that the settings lack: a canary does not tell the id."""
PASSES = 5
BATCH_PAUSE_SECONDS = 0.02
"""The pause after each batch, which leaves MongoDB to the broker."""
WITH_MACS = {"_id": {"$type": "string", "$regex": f"^({RESERVATIONS}|{BROKER}$)"}}
"""The query for small documents that have MACs and are not read again from Atlas."""
RESOURCES = {"_id": {"$type": "string", "$regex": "^(binding|instance)/"}}


@dataclass
class RotationProgress:
    """What a rotation has done so far.

    Attributes:
        looked_at: The documents that it has read, in all passes.
        rewritten: Those that it has written.
        busy: Those that another process has written at the same moment, in this pass.
        left: Why a document cannot be rewritten, by its ``_id``.
    """

    looked_at: int = 0
    rewritten: int = 0
    busy: int = 0
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyUse:
    """What is under each key: numbers of secrets and MACs by the key's id, and the documents that lack MACs.

    Attributes:
        secrets: Numbers of secrets.
        macs: Numbers of MACs.
        worker_secrets: Numbers of secrets by the ids of the workers' keys.
        without_macs: The number of documents that lack MACs.
        in_clear: The number of documents in which unknown parameters or contexts are not encrypted.
        macs_required: Whether such documents are refused.
        canary: The id of the key of the canary, or ``NOT_HERE``.
    """

    secrets: Counter[str]
    macs: Counter[str]
    worker_secrets: Counter[str]
    without_macs: int
    in_clear: int
    macs_required: bool
    canary: str

    def needed(self) -> set[str]:
        """Return the ids of all keys that something is under, but for those of workers."""
        return {*self.secrets, *self.macs, self.canary}

    def is_all_under(self, key_id: str) -> bool:
        """Return whether everything is encrypted and has MACs, and needs no other key than this one."""
        return self.needed() <= {key_id} and not self.without_macs and not self.in_clear


class KeyRotation:
    """Rotates the keys of a store, and counts what is under which.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used.

    Args:
        store: The store, with the keys.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._vault, self._macs = store.macs.vault, store.macs
        self._housekeeping = Housekeeping(store)
        self._check = KeyCheck(self._housekeeping, self._vault)

    def problem(self) -> str | None:
        """Return why these keys cannot be used, as a sentence; None when they are the broker's."""
        return self._check.problem()

    @storage_errors("count what is under which key")
    def use(self) -> KeyUse:
        """Count what is under which key; this reads every document once."""
        shown = dict.fromkeys([*ALL_SEALED, *MACS, *CLEAR, "phase", "operation.open"], 1)
        secrets, macs = Counter[str](), Counter[str]()
        without = clear = 0
        for document in self._store.collection.find(RESOURCES, shown):
            flat = _flat(document)
            secrets.update(key_id_of(str(flat[name])) for name in ALL_SEALED if flat.get(name))
            clear += in_clear(document)
            if flat.get("phase") == Phase.GONE and not flat.get("operation.open"):
                continue  # its MACs are not checked any more
            macs.update(key_id_of(str(flat[name])) for name in MACS if flat.get(name))
            needed = MACS if flat.get("operation.open") else (REQUEST, SETTLED)
            without += not all(flat.get(name) for name in needed)
        for document in self._housekeeping.collection.find(WITH_MACS, {"mac": 1}):
            macs.update([key_id_of(str(document["mac"]))] if document.get("mac") else [])
            without += not document.get("mac")
        tokens = self._housekeeping.collection.find({"_id": {"$regex": f"^{TOKENS}"}}, {"sealed": 1})
        of_workers = Counter(key_id_of(str(token["sealed"])) for token in tokens if token.get("sealed"))
        sealed = self._check.canary() or ""
        required = self._vault.opens(sealed, CANARY_PLACE) and self._vault.open(sealed, CANARY_PLACE) == MACS_REQUIRED
        canary = self._vault.fernet_id(sealed) or (NOT_HERE if sealed else FERNET)
        return KeyUse(secrets, macs, of_workers, without, clear, required, canary)

    def rotate(self, batch: int) -> Iterator[RotationProgress]:
        """Rotate, and yield the progress after each batch.

        When no document lacks MACs at the end, documents without them are refused from then on.

        Args:
            batch: How many documents are read and written at a time.
        """
        progress = RotationProgress()
        for _ in range(PASSES):
            progress.busy = 0
            progress.left.clear()
            yield from self._pass(self._store.collection, RESOURCES, batch, progress)
            yield from self._pass(self._housekeeping.collection, WITH_MACS, batch, progress)
            if not progress.busy:
                break
        self._renew_canary(all_have_macs=not progress.busy and not progress.left)

    def _pass(
        self, collection: Collection[Document], query: JsonObject, batch: int, progress: RotationProgress
    ) -> Iterator[RotationProgress]:
        """Look at every document once, in the order of their keys."""
        for documents in in_batches(collection, query, batch):
            writes = [write for document in documents if (write := self._write_of(document, progress))]
            written = self._write(collection, writes) if writes else 0
            progress.looked_at += len(documents)
            progress.rewritten += written
            progress.busy += len(writes) - written
            yield progress
            time.sleep(BATCH_PAUSE_SECONDS)

    @storage_errors("rotate keys")
    def _write(self, collection: Collection[Document], writes: list[UpdateOne]) -> int:
        return collection.bulk_write(writes, ordered=False).modified_count

    def _write_of(self, document: Document, progress: RotationProgress) -> UpdateOne | None:
        """Return the write that brings a document under the first key, if it is not; note why it cannot be done."""
        key, before = str(document["_id"]), _flat(document)
        try:
            renewed = self._macs_of(document) | {
                name: self._vault.seal(self._vault.open(before[name], Place(key, name)), Place(key, name))
                for name in ALL_SEALED
                if before.get(name) and key_id_of(before[name]) != self._vault.ids[0]
            }
            renewed |= self._sealed_of(document) if in_clear(document) else {}
        except BrokerError as error:
            progress.left[key] = str(error)
            return None
        changed = {name: value for name, value in renewed.items() if value != before.get(name)}
        if not changed:
            return None
        names = [*changed, *(["operation.id"] if any(name.startswith("operation.") for name in changed) else [])]
        # $eq, since the parameters of a converted document are an object, whose keys may be operators.
        unchanged = {"_id": key, **{name: {"$eq": before.get(name)} for name in names}}
        return UpdateOne(unchanged, {"$set": changed})

    def _macs_of(self, document: Document) -> dict[str, str]:
        """Return the MACs of a document by the first key, after a check of those that it has.

        Raises:
            TamperedError: It is not as the broker wrote it, or lacks a MAC although all have them.
            MissingKeyError: The key of a MAC is not known.
        """
        key = str(document["_id"])
        if key == BROKER:
            return {"mac": self._macs.of_value(checked_broker_id(document, self._macs), BROKER_PLACE) or ""}
        if key.startswith(RESERVATIONS):
            kept_values = checked(document, self._macs).kept_values
            return {"mac": self._macs.of_value(kept_values, Place(key, "mac")) or ""}
        found = record(document)
        if not found.readable:
            raise TamperedError(key, "it cannot be read")
        return self._macs.renewed(found)

    def _sealed_of(self, document: Document) -> JsonObject:
        """Return the fields of a document of an earlier release that are encrypted now, as they are stored."""
        whole, vault = opened(self._vault, record(document)), self._vault
        fields = sealed(vault, whole.key, {"parameters": whole.parameters, "context": whole.context})
        request = sealed_request(vault, whole.key, whole.operation)
        values = fields | {f"operation.{name}": value for name, value in request.items()}
        if not isinstance(document.get("parameters"), dict):  # atlasbroker 2.0.0 may need them as an object
            values["parameters"] = canonical(values["parameters"])
        return values | {"context": canonical(values["context"])}

    @storage_errors("rotate keys")
    def _renew_canary(self, *, all_have_macs: bool) -> None:
        sealed = self._check.canary()
        if sealed is None:
            return
        text = MACS_REQUIRED if all_have_macs else self._vault.open(sealed, CANARY_PLACE)
        is_same = self._vault.open(sealed, CANARY_PLACE) == text
        if not is_same or not self._vault.opens(sealed, CANARY_PLACE, first_key_only=True):
            self._check.replace(sealed, text)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with the fields of its operation by their paths."""
    operation = document.get("operation")
    fields = operation if isinstance(operation, Mapping) else {}
    return {**document, **{f"operation.{name}": value for name, value in fields.items()}}
