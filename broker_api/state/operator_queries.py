"""What operators ask the state for: lists with filters, and an operation, instance or binding by the start of its id.

Each query uses an index and returns a limited number of records, however many documents there are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from broker_api.state.mongo import Document
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import (
    EPOCH,
    Binding,
    Instance,
    Kind,
    Phase,
    State,
    binding_key,
    instance_key,
    record,
)
from broker_api.state.store import Store

CANDIDATES = 4
"""How many records an ambiguous start of an id returns at most."""


@dataclass(frozen=True)
class OperationFilter:
    """Which of the latest operations of all instances and bindings to list; a field of None does not restrict them.

    Attributes:
        state: The state.
        kind: The kind.
        older_than: The operation was accepted at least so long ago.
        instance_id: It concerns this instance, or a binding of it.
        waits_on: It waits on this event: its whole name, or the part after the last slash, as a cluster's name.
    """

    state: State | None = None
    kind: str | None = None
    older_than: timedelta | None = None
    instance_id: str | None = None
    waits_on: str | None = None


CURSOR = r"([0-9]{1,14})\.((?:instance|binding)/[^\x00]{1,2000})"
"""The form of a cursor, as the parameter ``after``."""


@dataclass(frozen=True)
class Cursor:
    """The place in the list of operations after which the next page begins: the last operation before it.

    Attributes:
        accepted: When that operation was accepted.
        key: The ``_id`` of its document.
    """

    accepted: datetime
    key: str

    def __str__(self) -> str:
        return f"{round((self.accepted - EPOCH) / timedelta(milliseconds=1))}.{self.key}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor of a text that ``str`` has made; None for another text."""
        found = re.fullmatch(CURSOR, text)
        return cls(EPOCH + timedelta(milliseconds=int(found[1])), found[2]) if found else None


@dataclass(frozen=True)
class OperationPage:
    """Some of the operations in a list; ``following`` is None when there are no more after them."""

    records: list[Instance | Binding]
    following: Cursor | None


@dataclass(frozen=True)
class OperatorQueries:
    """The queries. Each method raises ErrStorageMongoConnection when MongoDB cannot be used."""

    store: Store

    @storage_errors("list operations")
    def operations(self, wanted: OperationFilter, limit: int, after: Cursor | None = None) -> OperationPage:
        """Return the instances and bindings with the operations that were accepted last, at most ``limit``.

        Without ``instance_id`` and ``waits_on`` the query reads little more than ``limit`` documents, from an index of
        exactly this order. With ``instance_id`` it reads those of the instance, with ``waits_on`` those that wait.

        Args:
            wanted: Which ones.
            limit: How many at most.
            after: Only those after this place in the list.
        """
        # All fields of the index are named, so that MongoDB merges its parts in their order instead of sorting.
        query: Document = {
            "operation.state": {"$in": [wanted.state] if wanted.state else [*State]},
            "operation.kind": {"$in": [wanted.kind] if wanted.kind else [*Kind]},
        }
        before: list[datetime] = []
        if wanted.older_than:
            now = self.store.now()
            before.append(now - min(wanted.older_than, now - EPOCH))
        if after:
            before.append(after.accepted)
            earlier = {"$lt": ["$operation.accepted", after.accepted]}
            query["$expr"] = {"$or": [earlier, {"$lt": ["$_id", {"$literal": after.key}]}]}
        if before:
            query["operation.accepted"] = {"$lte": min(before)}
        if wanted.instance_id:
            query["instance_id"] = wanted.instance_id
        if wanted.waits_on:
            ending = {"$regex": rf"(^|/){re.escape(wanted.waits_on)}$"}
            query |= {"operation.open": True, "operation.waits_on": ending}
        order = [("operation.accepted", -1), ("_id", -1)]
        documents = list(self.store.collection.find(query, sort=order, limit=limit + 1))
        return OperationPage(
            [*map(record, documents[:limit])], _place(documents[limit - 1]) if documents[limit:] else None
        )

    @storage_errors("list instances")
    def instances(self, project: str | None, limit: int, *, gone: bool = False) -> list[Instance]:
        """Return at most ``limit`` instances.

        Args:
            project: Only those of this Atlas project.
            limit: How many at most.
            gone: Also those that are gone.
        """
        query = {"_id": _beginning("instance/"), **_not_gone(gone=gone)}
        return [each for each in self._list(query, project, limit) if isinstance(each, Instance)]

    @storage_errors("list bindings")
    def bindings(
        self, project: str | None, instance_id: str | None, limit: int, *, gone: bool = False
    ) -> list[Binding]:
        """Return at most ``limit`` bindings.

        Args:
            project: Only those of this Atlas project.
            instance_id: Only those of this instance.
            limit: How many at most.
            gone: Also those that are gone.
        """
        of_instance = f"{instance_key(instance_id).replace('instance/', 'binding/', 1)}/" if instance_id else "binding/"
        query = {"_id": _beginning(of_instance), **_not_gone(gone=gone)}
        return [each for each in self._list(query, project, limit) if isinstance(each, Binding)]

    def _list(self, query: Document, project: str | None, limit: int) -> list[Instance | Binding]:
        if project is None:
            return self._find(query, [("_id", 1)], limit)
        return self._find({"project": project, **query}, [("cluster", 1), ("database", 1)], limit)

    @storage_errors("find an operation")
    def by_operation(self, start: str) -> list[Instance | Binding]:
        """Return the instance or binding with an operation of this id, else those with one whose id begins so.

        It may also be an earlier operation, if it is remembered.
        """
        for wanted in (start, _beginning(start)):
            if found := self._find({"$or": [{"operation.id": wanted}, {"past.id": wanted}]}, None, CANDIDATES):
                return found
        return []

    @storage_errors("find an instance")
    def by_instance(self, start: str) -> list[Instance]:
        """Return the instance of this id, also one of atlasbroker 2.0.0, else those whose id begins so."""
        if found := self.store.instance(start, any_release=True):
            return [found]
        listed = self._find({"_id": _beginning(instance_key(start))}, [("_id", 1)], CANDIDATES)
        return [each for each in listed if isinstance(each, Instance)]

    @storage_errors("find a binding")
    def by_binding(self, start: str, instance_id: str | None) -> list[Binding]:
        """Return the bindings of this id, else those whose id begins so; with ``instance_id`` only of that instance."""
        if instance_id is not None:
            if found := self.store.binding(instance_id, start, any_release=True):
                return [found]
            listed = self._find({"_id": _beginning(binding_key(instance_id, start))}, [("_id", 1)], CANDIDATES)
        else:
            listed = self._find({"binding_id": start}, None, CANDIDATES) or self._find(
                {"binding_id": _beginning(start)}, None, CANDIDATES
            )
        return [each for each in listed if isinstance(each, Binding)]

    def _find(self, query: Document, order: Sequence[tuple[str, int]] | None, limit: int) -> list[Instance | Binding]:
        found = self.store.collection.find(query, sort=order, limit=limit)
        return [record(document) for document in found]


def _place(document: Document) -> Cursor | None:
    """Return the place of a document in the list; None for a broken one, which ends the list."""
    accepted, key = document["operation"].get("accepted"), document["_id"]
    return Cursor.parse(str(Cursor(accepted, key))) if isinstance(accepted, datetime) else None


def _beginning(start: str) -> Document:
    """Return the query for texts that begin with ``start``, for which MongoDB reads a range of an index."""
    return {"$regex": f"^{re.escape(start)}"}


def _not_gone(*, gone: bool) -> Document:
    return {} if gone else {"phase": {"$ne": Phase.GONE}}
