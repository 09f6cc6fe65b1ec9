"""The collection of instances and bindings: reading them, and beginning operations on them.

Each operation begins with one atomic update. Its filter contains the operation that the request has read before, so
that of two concurrent requests only one begins its operation. The other request reads again and decides again.

Each method raises ErrStorageMongoConnection when MongoDB cannot be used.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import pymongo
import structlog
from pymongo import IndexModel, MongoClient
from pymongo.errors import OperationFailure

from broker_api.errors import ErrStorageTypeUnsupported, ErrStorageUnreadable
from broker_api.state.bind_reads import SLOTS, TAKEN, Bind, Room, bind_reads
from broker_api.state.combiner import Combiner
from broker_api.state.encryption import Vault
from broker_api.state.fields import Fields, OperationFields, ResourceFields
from broker_api.state.group_commit import Update, group_commit
from broker_api.state.legacy import LegacyDocuments, in_any_case, written_before
from broker_api.state.mongo import Document, as_datetime, assignments, durable_collection, timeout_of
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.new_operation import PAST, UNSURE_UNTIL, NewOperation
from broker_api.state.private_values import NOTHING, sealed, sealed_request
from broker_api.state.process_report import ProcessReport
from broker_api.state.record_macs import OPERATION, RecordMacs
from broker_api.state.records import (
    DELETES,
    HOLDS_NOTHING,
    AnyResource,
    Binding,
    Instance,
    Operation,
    Phase,
    State,
    binding_key,
    instance_key,
    record,
)

log = structlog.get_logger(__name__)

INDEX_SECONDS = 60.0
"""How long MongoDB may take to create an index, for which it reads all documents."""

LISTED = {"operation.state": 1, "operation.kind": 1, "operation.accepted": -1, "_id": -1}
"""The index of the list of operations."""

_OTHER_INDEX = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict


class Store:
    """Instances and bindings in one MongoDB collection.

    Args:
        client: The connection.
        database: The name of the database.
        collection: The name of the collection.
        vault: The encryption keys. Without them nothing can be begun that workers accept.
    """

    def __init__(
        self, client: MongoClient[Document], database: str, collection: str, vault: Vault | None = None
    ) -> None:
        self._client = client
        self.macs = RecordMacs(vault or Vault(()))
        self.collection = durable_collection(client, database, collection)
        self.commits = group_commit(self.collection)
        self._documents = Combiner(self._read_documents, timeout_of(self.collection))
        self.housekeeping = durable_collection(client, database, f"{collection}_housekeeping")
        self._bind_reads = bind_reads(self.collection, self.housekeeping)
        self.legacy = LegacyDocuments(self.collection, self.macs)
        self.reports = durable_collection(client, database, f"{collection}_reports")
        """What the API and operators' commands may write too: counts, and sends that fail."""
        self.report = ProcessReport(self.reports)

    @storage_errors("prepare")
    def prepare(self) -> None:
        """Create the indexes that do not exist yet; an index of another release is not changed."""
        opened, made = {"operation.open": True}, {"made": True}
        forget = IndexModel([("expire_at", 1)], name="forget", expireAfterSeconds=0)
        indexes = [
            (self.collection, IndexModel([("operation.due", 1)], name="due", partialFilterExpression=opened)),
            (self.collection, IndexModel([("operation.waits_on", 1)], name="waits", partialFilterExpression=opened)),
            (self.collection, IndexModel([("instance_id", 1), ("binding_id", 1)], name="ids")),
            (self.collection, IndexModel([("project", 1), ("cluster", 1), ("database", 1)], name="database")),
            (
                self.collection,
                IndexModel([*SLOTS.items()], name="slots", unique=True, partialFilterExpression={"slot": TAKEN}),
            ),
            (self.collection, IndexModel([("project", 1), ("made", 1)], name="users", partialFilterExpression=made)),
            # for the operator's commands
            (self.collection, IndexModel([*LISTED.items()], name="listed")),
            (self.collection, IndexModel([("operation.id", 1)], name="operation")),
            (self.collection, IndexModel([("past.id", 1)], name="past", partialFilterExpression=_exists("past.id"))),
            (
                self.collection,
                IndexModel([("binding_id", 1)], name="binding", partialFilterExpression=_exists("binding_id")),
            ),
            (self.collection, forget),
            (self.housekeeping, forget),
            (self.reports, forget),
        ]
        self.now()  # fails soon when MongoDB does not answer; the indexes of a large collection take longer
        for collection, index in indexes:
            try:
                with pymongo.timeout(INDEX_SECONDS):
                    collection.create_indexes([index])
            except OperationFailure as error:
                if error.code not in _OTHER_INDEX:
                    raise
                log.warning("index_of_another_release", index=index.document["name"])

    @storage_errors("ask the time")
    def now(self) -> datetime:
        """Return MongoDB's time, with a time zone. /ready also uses it to check that MongoDB answers."""
        return as_datetime(self._client.admin.command("hello")["localTime"])

    # --- reading ----------------------------------------------------------------------------------------------

    @storage_errors("find instance")
    def instance(self, instance_id: str, *, any_release: bool = False, creating: bool = False) -> Instance | None:
        """Return an instance, also one of atlasbroker 2.0.0; None when there is none.

        Args:
            instance_id: The id of the instance.
            any_release: Also return an instance in a phase or state that only another release knows.
            creating: The request creates the instance if there is none, so a document of atlasbroker 2.0.0 is looked
                for in the same query.

        Raises:
            ErrStorageUnreadable: The document cannot be read, or only another release understands it.
            TamperedError, UndecryptableError: As in ``RecordMacs.checked``; not with ``any_release``, which also leaves
                encrypted what is encrypted.
        """
        key = instance_key(instance_id)
        if creating:
            found = list(self.collection.find({"$or": [{"_id": key}, written_before(instance_id, None)]}))
            document = next((each for each in found if each["_id"] == key), None)
            document = document or (self.legacy.adopt(instance_id) if found else None)
        else:
            document = self._documents.ask(key) or self.legacy.adopt(instance_id)
        if document is None:
            return None
        return self._understood(Instance, document, f"instance {instance_id}", any_release=any_release)

    @storage_errors("find binding")
    def binding(self, instance_id: str, binding_id: str, *, any_release: bool = False) -> Binding | None:
        """Return a binding of an instance, also one of atlasbroker 2.0.0; None when there is none.

        Raises:
            ErrStorageUnreadable, TamperedError, UndecryptableError: As in ``instance``.
        """
        document = self._documents.ask(binding_key(instance_id, binding_id))
        document = document or self.legacy.adopt(instance_id, binding_id)
        if document is None:
            return None
        return self._understood(Binding, document, f"binding {binding_id}", any_release=any_release)

    @storage_errors("find instance and binding")
    def instance_and_binding(
        self, instance_id: str, binding_id: str, key: str
    ) -> tuple[Instance | None, Binding | None, Room]:
        """Return an instance, the binding that a request creates on it unless it exists, and the room; in one read.

        Args:
            instance_id: The id of the instance.
            binding_id: The id of the binding.
            key: The ``_id`` of the binding's document.

        Raises:
            ErrStorageUnreadable, TamperedError, UndecryptableError: As in ``instance``.
        """
        own_key = instance_key(instance_id)
        found = self._bind_reads.ask(Bind(instance_id, binding_id, (own_key, key)))
        instance = found.documents.get(own_key) or self.legacy.adopt(instance_id)
        binding = found.documents.get(key)
        if binding is None and found.has_old:
            binding = self.legacy.adopt(instance_id, binding_id)
        return (
            self._understood(Instance, instance, f"instance {instance_id}") if instance else None,
            self._understood(Binding, binding, f"binding {binding_id}") if binding else None,
            Room(found.slots.get(instance_id, frozenset()), found.limits),
        )

    def _read_documents(self, keys: Sequence[str]) -> list[Document | None]:
        """Return the documents with these ``_id``, for each of them."""
        if len(keys) == 1:
            return [self.collection.find_one({"_id": keys[0]})]
        found = {document["_id"]: document for document in self.collection.find({"_id": {"$in": keys}})}
        return [found.get(key) for key in keys]

    @storage_errors("find bindings")
    def bindings(self, instance_id: str) -> list[Binding]:
        """Return all bindings of an instance that are not gone, as they are stored, also those that cannot be read."""
        self.legacy.adopt_bindings(instance_id)
        query = {"instance_id": instance_id, "binding_id": {"$exists": True}, "phase": {"$ne": Phase.GONE}}
        return [Binding.read(document) for document in self.collection.find(query)]

    @storage_errors("find bindings")
    def ready_bindings(self, project: str) -> list[Binding]:
        """Return the bindings of an Atlas project that are ready, so that platforms have their credentials."""
        query = {"project": project, "binding_id": {"$exists": True}, "phase": Phase.READY}
        return [Binding.read(document) for document in self.collection.find(query)]

    @storage_errors("find instances")
    def instances_of_project(self, project: str) -> list[Instance]:
        """Return the instances of an Atlas project as they are stored, also those that are not ready or gone."""
        query = {"project": project, "binding_id": {"$exists": False}}
        return [Instance.read(document) for document in self.collection.find(query)]

    @storage_errors("count users")
    def count_users(self, project: str, most: int = 2**31 - 1) -> int:
        """Return the number of bindings that have a user in an Atlas project, which are in an index of their own.

        Args:
            project: The id of the project.
            most: Count no further than to this number.
        """
        return self.collection.count_documents({"project": project, "made": True}, limit=most)

    @storage_errors("find instances")
    def of_same_database(self, instance: Instance) -> list[Instance]:
        """Return the other instances that have, or had, the same database on the same cluster.

        Names that differ only in case count as the same, since MongoDB does not allow both.
        """
        query = {
            "_id": {"$ne": instance.key, "$type": "string"},  # documents of atlasbroker 2.0.0 are added below
            "project": {"$in": [instance.project, None]},  # None: converted from atlasbroker 2.0.0
            "cluster": instance.cluster,
            "database": in_any_case(instance.database or ""),
            "binding_id": {"$exists": False},
        }
        found = [Instance.read(document) for document in self.collection.find(query)]
        # An instance that this release does not understand may use the database, so it counts.
        used = [other for other in found if other.was_ready or not other.understood]
        return used + self.legacy.sharing(instance)

    def sharing(self, instance: Instance) -> list[Instance]:
        """Return the other instances that have the same database on the same cluster now."""
        return [other for other in self.of_same_database(instance) if other.phase is not Phase.GONE]

    @storage_errors("find instances")
    def instance_of_cluster(self, project: str, cluster: str) -> str | None:
        """Return the id of the instance for which the broker has created a cluster; None if it manages it no more."""
        query = {
            "project": project,
            "cluster": cluster,
            "cluster_operation": {"$type": "string"},
            "$or": [{"phase": {"$nin": [*HOLDS_NOTHING]}}, {"operation.open": True}],
        }
        found = self.collection.find_one(query, {"instance_id": 1})
        return str(found["instance_id"]) if found else None

    @storage_errors("find")
    def get(self, key: str) -> Instance | Binding | None:
        """Return an instance or binding, as it is stored, by the ``_id`` of its document; None when there is none."""
        document = self.collection.find_one({"_id": key})
        return record(document) if document else None

    def _understood(
        self, kind: type[AnyResource], document: Document, what: str, *, any_release: bool = False
    ) -> AnyResource:
        found = kind.read(document)
        if not (found.understood or (any_release and found.readable)):
            raise ErrStorageUnreadable(what, readable=found.readable)
        return found if any_release else self.macs.checked(found)

    # --- beginning operations ---------------------------------------------------------------------------------

    @storage_errors("create")
    def create(self, fields: Fields, new_operation: NewOperation, replacing: Operation | None) -> str | None:
        """Write a new instance or binding with its first operation.

        Args:
            fields: ``instance_id``, for a binding also ``binding_id``, and the fields of the request.
            new_operation: The operation.
            replacing: The last operation of a gone or failed instance or binding with the same id, if there is one.

        Returns:
            The id of the operation; None when another request was faster.

        Raises:
            ErrStorageTypeUnsupported: ``fields`` has no ``instance_id``.
        """
        ids: Mapping[str, Any] = fields
        if "instance_id" not in ids:
            raise ErrStorageTypeUnsupported(type(fields))
        instance_id, binding_id = ids["instance_id"], ids.get("binding_id")
        key = instance_key(instance_id) if binding_id is None else binding_key(instance_id, binding_id)
        made = {"_id": key, **sealed(self.macs.vault, key, fields), "phase": Phase.CREATING}
        return self._begin(key, replacing, new_operation, made, fields)

    @storage_errors("start")
    def start(self, key: str, current: Operation, new_operation: NewOperation, phase: Phase) -> str | None:
        """Begin another operation on an instance or binding that exists.

        Args:
            key: The ``_id`` of its document.
            current: Its latest operation, as the request has read it.
            new_operation: The new operation.
            phase: The new phase of the instance or binding.

        Returns:
            The id of the new operation; None when ``current`` is not the latest one any more.
        """
        return self._begin(key, current, new_operation, ResourceFields(phase=phase, expire_at=None))

    def _begin(
        self,
        key: str,
        current: Operation | None,
        new_operation: NewOperation,
        values: Mapping[str, object],
        new: Fields | None = None,
    ) -> str | None:
        """Write an operation with other fields of its document; with ``new`` these are all fields of a new document."""
        unchanged: Document = {"_id": key, "operation.id": {"$exists": False}}
        if current:
            unchanged |= {"operation.id": current.id, "operation.state": str(current.state)}
        fresh = new_operation.fresh
        macs = self.macs.of_new(key, new, fresh)
        private = {} if fresh.request == NOTHING else sealed_request(self.macs.vault, key, fresh)
        operation = new_operation.fields(private, macs.pop(OPERATION, None))
        begun = assignments({**values, **macs}) | {"operation": operation, "past": PAST}
        if new is not None or new_operation.kind in DELETES:
            begun["unsure_until"] = UNSURE_UNTIL
        stage = "$set" if new is None else "$replaceWith"
        update = Update(unchanged, [{stage: begun}], mark={"id": fresh.id}, upsert=current is None)
        if self.commits.ask(update) is None:
            return None
        if current and current.state is State.IN_PROGRESS:  # a delete stops it (see PAST)
            self.report.ended(current.kind, State.FAILED)
        return fresh.id

    @storage_errors("store")
    def change(
        self, found: Instance | Binding, changes: Fields | None = None, operation: OperationFields | None = None
    ) -> bool:
        """Write fields without a new operation and without a claim.

        Args:
            found: The instance or binding, which has been checked (``RecordMacs.checked``).
            changes: Fields of the instance or binding.
            operation: Fields of its operation.

        Returns:
            False, and nothing is written, when it has another operation by now, or its operation another state.
        """
        current, fields = found.operation, changes or {}
        unchanged = {"_id": found.key, "operation.id": current.id, "operation.state": str(current.state)}
        values = assignments({**sealed(self.macs.vault, found.key, fields), **self.macs.of_changed(found, fields)})
        values |= assignments(operation or {}, "operation.")
        return self.collection.update_one(unchanged, [{"$set": values}]).matched_count == 1

    # --- watching operations ----------------------------------------------------------------------------------

    @storage_errors("wait")
    def ended(self, waiting: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return the operations (document key, operation id) that have ended or are not the latest any more.

        Args:
            waiting: The operations to look for, in the same form.
        """
        keys = [key for key, _ in waiting]
        query = {"_id": {"$in": keys}, "operation.state": State.IN_PROGRESS}
        running = self.collection.find(query, {"operation.id": 1})
        return set(waiting) - {(document["_id"], document["operation"].get("id")) for document in running}


def _exists(field: str) -> Document:
    return {field: {"$exists": True}}
