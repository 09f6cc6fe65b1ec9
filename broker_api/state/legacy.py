"""Documents of atlasbroker 2.0.0, converted into documents of this broker when they are first used.

Its instances are ``{instance_id, database, cluster, parameters}`` and its bindings ``{binding_id, instance_id,
parameters}``. It could write several documents with the same id: one is converted, all are removed.
"""

import re

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
    instance_key,
    record,
)

NEEDS_KEYS = (
    "BROKER_ENCRYPTION_KEYS: must be set, since this converts a document of atlasbroker 2.0.0 and gives it MACs"
)
OLD_FORM: JsonObject = {"instance_id": {"$exists": True}, "operation": {"$exists": False}}


class LegacyDocuments:
    """The documents of atlasbroker 2.0.0 that are not converted yet.

    That broker may still run beside this one and write documents, until the platform has the new URL. Therefore each
    request that does not find its instance or binding looks for such a document.

    Args:
        collection: The instances and bindings.
        macs: Makes the MACs of converted documents.
    """

    def __init__(self, collection: Collection[JsonObject], macs: RecordMacs) -> None:
        self._collection = collection
        self._macs = macs

    def adopt(self, instance_id: str, binding_id: str | None = None) -> JsonObject | None:
        """Convert the document of an instance, or of a binding when ``binding_id`` is given.

        Returns:
            The converted document; None when there is no document of atlasbroker 2.0.0.

        Raises:
            SettingError: There is one, and there are no encryption keys for its MACs.
        """
        found = self._collection.find_one(written_before(instance_id, binding_id), sort=[("_id", 1)])
        if found is None:
            return None
        self.convert(found)
        return self._collection.find_one({"_id": _key(found)})

    def convert(self, found: JsonObject) -> bool:
        """Convert a document, and remove all others with its ids.

        Returns:
            False, and nothing is changed, when there is a record of this broker with its ids.

        Raises:
            SettingError: There are no encryption keys for its MACs.
        """
        if not self._macs.vault.has_keys:
            raise SettingError(NEEDS_KEYS)
        converted = _converted(found, _key(found))
        made = record(converted)
        stored = sealed(self._macs.vault, made.key, {"parameters": made.parameters})
        try:
            self._collection.insert_one(converted | stored | self._macs.of_new(made.key, vars(made)))
        except DuplicateKeyError:
            return False
        self.remove(found)
        return True

    def remove(self, found: JsonObject) -> int:
        """Remove all documents of atlasbroker 2.0.0 with the ids of one of them, and return their number."""
        query = written_before(found["instance_id"], found.get("binding_id"))
        return self._collection.delete_many(query).deleted_count

    def adopt_bindings(self, instance_id: str) -> None:
        """Convert the documents of all bindings of an instance."""
        query = {**written_before(instance_id, None), "binding_id": {"$exists": True}}
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
            self._collection.delete_many(written_before(found.instance_id, binding_id))
        except PyMongoError as error:
            if binding_id is not None:
                raise ErrStorageRemoveBinding(binding_id) from error
            raise ErrStorageRemoveInstance(found.instance_id) from error


def in_any_case(name: str) -> JsonObject:
    """Return the query for a name in upper or lower case."""
    return {"$regex": rf"^{re.escape(name)}\z", "$options": "i"}


def written_before(instance_id: str, binding_id: str | None) -> JsonObject:
    """Return the query for the documents of atlasbroker 2.0.0 of an instance, or of a binding; an index answers it."""
    binding = {"$exists": False} if binding_id is None else binding_id
    return {"instance_id": instance_id, "binding_id": binding, "operation": {"$exists": False}}


def is_old(document: JsonObject) -> bool:
    """Return whether atlasbroker 2.0.0 has written a document; ``OLD_FORM`` is the same rule for queries."""
    return "instance_id" in document and "operation" not in document


def as_record(found: JsonObject) -> Instance | Binding | None:
    """Return the record that a document of atlasbroker 2.0.0 is converted into; None if it cannot be read."""
    ids = [found[name] for name in ("instance_id", "binding_id") if name in found]
    if not all(isinstance(each, str) for each in ids):
        return None
    made = record(_converted(found, _key(found)))
    return made if made.readable else None


def _key(found: JsonObject) -> str:
    instance_id: str = found["instance_id"]
    return binding_key(instance_id, found["binding_id"]) if "binding_id" in found else instance_key(instance_id)


def _converted(found: JsonObject, key: str) -> JsonObject:
    """Return the document in the form of this broker: ready, with an operation that has succeeded.

    The parameters stay an object, so that atlasbroker 2.0.0 can still use the document while it runs beside.
    """
    kind = Kind.BIND if "binding_id" in found else Kind.PROVISION
    done = Operation(id=f"{kind}-legacy", kind=kind, state=State.SUCCEEDED, open=False)
    kept = {name: found[name] for name in ("instance_id", "binding_id", "database", "cluster") if name in found}
    return kept | {
        "_id": key,
        "service_id": Config.UUID_SERVICES_CLUSTER,
        "plan_id": Config.UUID_PLANS_EXISTING_CLUSTER,  # its only plan
        "parameters": found.get("parameters") or {},
        "phase": Phase.READY.value,
        "legacy": True,
        "operation": done.model_dump(mode="python") | {"kind": kind.value, "state": State.SUCCEEDED.value},
    }
