"""What accepting a bind needs to know, read at once: the instance, the binding if it exists, and the room for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pymongo.collection import Collection

from broker_api.state.combiner import Combiner
from broker_api.state.legacy import OLD_FORM
from broker_api.state.mongo import Document, timeout_of

SLOTS = {"instance_id": 1, "slot": 1}
"""The index by which each binding of an instance has a slot of its own."""
TAKEN = {"$gte": 0}
UNLIMITED = 2**48
"""All slots are below this number, also those of plans without a quota."""

ROOM = "room/"
"""How the names of the documents begin that hold the limit of users of an Atlas project."""
DEFAULT_LIMIT = 100
"""How many database users Atlas allows in a project unless its support has raised the limit."""
_SLOTS = "slots/"
"""How the names begin of what is read for the slots of an instance."""


@dataclass(frozen=True)
class Room:
    """What a new binding has to fit into.

    Attributes:
        slots: The slots of the instance's bindings.
        limits: The limits of users of Atlas projects, as far as Atlas has told them.
    """

    slots: frozenset[int]
    limits: Mapping[str, int]


class Bind(NamedTuple):
    """A bind that is to be accepted.

    Attributes:
        instance_id: The id of the instance.
        binding_id: The id of the binding.
        keys: The ``_id`` of both documents.
    """

    instance_id: str
    binding_id: str
    keys: tuple[str, str]


@dataclass
class BindRead:
    """What was read for some binds.

    Attributes:
        documents: The instances and bindings, by their ``_id``.
        has_old: Whether there is a document of atlasbroker 2.0.0 of one of the bindings.
        slots: The slots that are taken, by instance.
        limits: The limits of users of Atlas projects, as far as Atlas has told them.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    has_old: bool = False
    slots: dict[str, frozenset[int]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)


def bind_reads(collection: Collection[Document], housekeeping: Collection[Document]) -> Combiner[Bind, BindRead]:
    """Return what reads for binds: for those of several threads at the same time by one command.

    Args:
        collection: The instances and bindings.
        housekeeping: The limits of projects.
    """

    def read(binds: Sequence[Bind]) -> list[BindRead]:
        keys = {key for bind in binds for key in bind.keys}
        old = [{**OLD_FORM, "instance_id": bind.instance_id, "binding_id": bind.binding_id} for bind in binds]
        instances = [*{bind.instance_id for bind in binds}]
        slots: list[Document] = [
            {"$match": {"instance_id": {"$in": instances}, "slot": TAKEN}},
            {"$group": {"_id": {"$concat": [_SLOTS, "$instance_id"]}, "slots": {"$push": "$slot"}}},
        ]
        rooms: list[Document] = [{"$match": {"_id": {"$regex": f"^{ROOM}"}}}, {"$project": {"limit": 1}}]
        stages: list[Document] = [
            {"$match": {"$or": [{"_id": {"$in": [*keys]}}, *old]}},
            {"$unionWith": {"coll": collection.name, "pipeline": slots}},
            {"$unionWith": {"coll": housekeeping.name, "pipeline": rooms}},
        ]
        found = BindRead()
        for document in collection.aggregate(stages):
            name = str(document["_id"])
            if name in keys:
                found.documents[name] = document
            elif name.startswith(_SLOTS):
                found.slots[name.removeprefix(_SLOTS)] = frozenset(document["slots"])
            elif name.startswith(ROOM):
                if limit := document.get("limit"):
                    found.limits[name.removeprefix(ROOM)] = int(limit)
            else:
                found.has_old = True
        return [found] * len(binds)

    return Combiner(read, timeout_of(collection))
