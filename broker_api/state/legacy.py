"""Documents that the old broker (atlasbroker 2.0.0) wrote, turned into ours at the first touch.

Instances are ``{instance_id, database, cluster, parameters}`` and bindings ``{binding_id, instance_id, parameters}``.
The old broker could write the same id several times: one is taken, all are removed.
"""

import re
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError

from broker_api.config import Config
from broker_api.errors import ErrStorageRemoveBinding, ErrStorageRemoveInstance
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
)

Document = dict[str, Any]
_SEEDS = {"operation": {"$exists": False}}


def adopt_instance(collection: Collection[Document], instance_id: str) -> Document | None:
    """Turn the old broker's document of an instance into ours and return that; None when there is none."""
    query = {"instance_id": instance_id, "binding_id": {"$exists": False}, **_SEEDS}
    return _adopt(collection, query, instance_key(instance_id), Kind.PROVISION)


def adopt_binding(collection: Collection[Document], instance_id: str, binding_id: str) -> Document | None:
    """Turn the old broker's document of a binding into ours and return that; None when there is none."""
    query = {"instance_id": instance_id, "binding_id": binding_id, **_SEEDS}
    return _adopt(collection, query, binding_key(instance_id, binding_id), Kind.BIND)


def adopt_bindings(collection: Collection[Document], instance_id: str) -> None:
    """Turn all bindings of an instance that the old broker wrote into ours."""
    query = {"instance_id": instance_id, "binding_id": {"$exists": True}, **_SEEDS}
    for binding_id in collection.distinct("binding_id", query):
        adopt_binding(collection, instance_id, binding_id)


def forget(collection: Collection[Document], found: Instance | Binding) -> None:
    """Remove what is left of the old broker's documents of something that is about to be gone.

    Raises:
        ErrStorageRemoveInstance, ErrStorageRemoveBinding: MongoDB did not do it; it is to be tried again.
    """
    binding = found.binding_id if isinstance(found, Binding) else {"$exists": False}
    try:
        collection.delete_many({"instance_id": found.instance_id, "binding_id": binding, **_SEEDS})
    except PyMongoError as error:
        if isinstance(found, Binding):
            raise ErrStorageRemoveBinding(found.binding_id) from error
        raise ErrStorageRemoveInstance(found.instance_id) from error


def sharing(collection: Collection[Document], instance: Instance) -> list[Instance]:
    """Return the old broker's instances, not touched yet, that use the same database."""
    database = in_any_case(instance.database or "")
    where = {"project": None, "cluster": instance.cluster, "database": database}
    query = {**where, "binding_id": {"$exists": False}, **_SEEDS}
    others = {"instance_id": {"$ne": instance.instance_id}}
    return [Instance.read(_ours(document, "", Kind.PROVISION)) for document in collection.find(query | others)]


def in_any_case(name: str) -> Document:
    """Return the query for a name in any spelling that differs only in case."""
    return {"$regex": rf"^{re.escape(name)}\z", "$options": "i"}


def _adopt(collection: Collection[Document], query: Document, key: str, kind: Kind) -> Document | None:
    found = collection.find_one(query, sort=[("_id", 1)])
    if found is None:
        return None
    try:
        collection.insert_one(_ours(found, key, kind))
    except DuplicateKeyError:  # another process adopts it at this moment
        pass
    else:
        collection.delete_many(query)
    return collection.find_one({"_id": key})


def _ours(found: Document, key: str, kind: Kind) -> Document:
    """Return our document: ready, under an operation that has long succeeded. The old broker knew one plan."""
    done = Operation(id=f"{kind}-seed", kind=kind, state=State.SUCCEEDED, open=False).model_dump(mode="python")
    ours = {
        name: value for name, value in found.items() if name in ("instance_id", "binding_id", "database", "cluster")
    }
    return ours | {
        "_id": key,
        "service_id": Config.UUID_SERVICES_CLUSTER,
        "plan_id": Config.UUID_PLANS_EXISTING_CLUSTER,
        "parameters": canonical(found.get("parameters") or {}),
        "phase": Phase.READY.value,
        "legacy": True,
        "operation": done | {"kind": kind.value, "state": State.SUCCEEDED.value},
    }
