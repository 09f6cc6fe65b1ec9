"""Documents of atlasbroker 2.0.0, converted into documents of this broker when they are first used.

Its instances are ``{instance_id, database, cluster, parameters}`` and its bindings ``{binding_id, instance_id,
parameters}``. It could write several documents with the same id: one is converted, all are removed.
"""

import contextlib
import re
import time

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError

from broker_api.config import Config
from broker_api.errors import ErrStorageRemoveBinding, ErrStorageRemoveInstance, SettingError
from broker_api.json_types import JsonObject
from broker_api.state.private_values import sealed
from broker_api.state.record_macs import RecordMacs
from broker_api.state.records import (
    Binding,
    Instance,
    Kind,
    Operation,
    Phase,
    State,
    binding_key,
    canonical,
    instance_key,
    record,
)

REMEMBERED_SECONDS = 5.0
NEEDS_KEYS = (
    "BROKER_ENCRYPTION_KEYS: must be set, since this converts a document of atlasbroker 2.0.0 and gives it MACs"
)

_OTHER_KEYS: JsonObject = {
    "$or": [
        {"_id": {"$lt": "binding/"}},
        {"_id": {"$gte": "binding0", "$lt": "instance/"}},  # 0 is the character after /
        {"_id": {"$gte": "instance0"}},
        # every type that an _id can have, except text; a negation would not use the index
        {"_id": {"$type": ["objectId", "object", "binData", "bool", "date", "null", "number", "timestamp"]}},
    ]
}
"""The query for documents whose ``_id`` is not one of this broker; MongoDB answers it with a few keys of its index."""


class LegacyDocuments:
    """The documents of atlasbroker 2.0.0 that are not converted yet.

    That broker may still run beside this one and write documents, until the platform has the new URL. Therefore it is
    never settled that there are none; it is only remembered for ``REMEMBERED_SECONDS``.

    Args:
        collection: The instances and bindings.
        macs: Makes the MACs of converted documents.
    """

    def __init__(self, collection: Collection[JsonObject], macs: RecordMacs) -> None:
        self._collection = collection
        self._macs = macs
        self._looked_at = -REMEMBERED_SECONDS
        self._exist = True

    def exist(self) -> bool:
        """Return whether there are any, for requests that create; deletes and shared databases are always looked up.

        This is one query in ``REMEMBERED_SECONDS``, however many documents there are.
        """
        now = time.monotonic()
        if now - self._looked_at >= REMEMBERED_SECONDS:
            self._exist = self._collection.find_one(_OTHER_KEYS, {"_id": 1}) is not None
            self._looked_at = now
        return self._exist

    def adopt(self, instance_id: str, binding_id: str | None = None) -> JsonObject | None:
        """Convert the document of an instance, or of a binding when ``binding_id`` is given.

        Returns:
            The converted document; None when there is no document of atlasbroker 2.0.0.

        Raises:
            SettingError: There is one, and there are no encryption keys for its MACs.
        """
        query = _written_before(instance_id, binding_id)
        found = self._collection.find_one(query, sort=[("_id", 1)])
        if found is None:
            return None
        if not self._macs.vault.has_keys:
            raise SettingError(NEEDS_KEYS)
        key = instance_key(instance_id) if binding_id is None else binding_key(instance_id, binding_id)
        converted = _converted(found, key)
        with contextlib.suppress(DuplicateKeyError):  # another process converts it at this moment
            made = record(converted)
            stored = sealed(self._macs.vault, key, {"parameters": made.parameters})
            stored["parameters"] = canonical(stored["parameters"])
            self._collection.insert_one(converted | stored | self._macs.of_record(made))
            self._collection.delete_many(query)
        return self._collection.find_one({"_id": key})

    def adopt_bindings(self, instance_id: str) -> None:
        """Convert the documents of all bindings of an instance."""
        query = {**_written_before(instance_id, None), "binding_id": {"$exists": True}}
        for binding_id in self._collection.distinct("binding_id", query):
            self.adopt(instance_id, binding_id)

    def sharing(self, instance: Instance) -> list[Instance]:
        """Return the other instances of atlasbroker 2.0.0 that use the same database."""
        query = {
            "instance_id": {"$ne": instance.instance_id},
            "binding_id": {"$exists": False},
            "operation": {"$exists": False},
            "project": None,
            "cluster": instance.cluster,
            "database": in_any_case(instance.database or ""),
        }
        return [Instance.read(_converted(document, "")) for document in self._collection.find(query)]

    def forget(self, found: Instance | Binding) -> None:
        """Remove the documents for an instance or binding that is being deleted.

        Raises:
            ErrStorageRemoveInstance, ErrStorageRemoveBinding: MongoDB failed; the caller tries again later.
        """
        binding_id = found.binding_id if isinstance(found, Binding) else None
        try:
            self._collection.delete_many(_written_before(found.instance_id, binding_id))
        except PyMongoError as error:
            if binding_id is not None:
                raise ErrStorageRemoveBinding(binding_id) from error
            raise ErrStorageRemoveInstance(found.instance_id) from error


def in_any_case(name: str) -> JsonObject:
    """Return the query for a name in upper or lower case."""
    return {"$regex": rf"^{re.escape(name)}\z", "$options": "i"}


def _written_before(instance_id: str, binding_id: str | None) -> JsonObject:
    binding = {"$exists": False} if binding_id is None else binding_id
    return {"instance_id": instance_id, "binding_id": binding, "operation": {"$exists": False}}


def _converted(found: JsonObject, key: str) -> JsonObject:
    """Return the document in the form of this broker: ready, with an operation that has succeeded."""
    kind = Kind.BIND if "binding_id" in found else Kind.PROVISION
    done = Operation(id=f"{kind}-legacy", kind=kind, state=State.SUCCEEDED, open=False)
    kept = {name: found[name] for name in ("instance_id", "binding_id", "database", "cluster") if name in found}
    return kept | {
        "_id": key,
        "service_id": Config.UUID_SERVICES_CLUSTER,
        "plan_id": Config.UUID_PLANS_EXISTING_CLUSTER,  # its only plan
        "parameters": canonical(found.get("parameters") or {}),
        "phase": Phase.READY.value,
        "legacy": True,
        "operation": done.model_dump(mode="python") | {"kind": kind.value, "state": State.SUCCEEDED.value},
    }
