"""Claims of operations: the lease and fence under which one worker carries an operation on, and when it is due again.

Every write of a worker names the fence that its claim drew. Once another worker has claimed the operation, or another
operation has replaced it, the write matches no document and raises ``LeaseLostError``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, NamedTuple
from uuid import uuid4

from pymongo import ReturnDocument

from broker_api.state import legacy
from broker_api.state.fields import Fields, OperationFields, ResourceFields
from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import CREATES, DELETES, EPOCH, UNDERSTOOD, AnyResource, Phase, State, record
from broker_api.state.store import Store

LEASE_SECONDS = 20
RESEND_SECONDS = 3
"""A message that no worker has acted on is sent again after this, then after twice as long, up to ``RESEND_MOST``."""
RESEND_MOST = 15
KEPT = {Phase.GONE: In(48 * 3600), Phase.FAILED: In(7 * 24 * 3600)}
"""How long a document is kept whose operation ended in this phase; the others are kept without end.

A platform may ask about a deleted instance or binding for a while. Of a failed create nothing is left in Atlas, and
some platforms never delete it.
"""


class LeaseLostError(Exception):
    """The lease was lost or the operation superseded; stop without writing."""


@dataclass(frozen=True)
class Claim(Generic[AnyResource]):
    """The right to work on an operation. ``record`` is what was read or written last; ``fence`` guards each write."""

    record: AnyResource
    fence: int
    token: str

    @property
    def operation_id(self) -> str:
        """The id of the operation that is held."""
        return self.record.operation.id


@dataclass(frozen=True)
class Due:
    """An operation that a worker should look at: what a job is sent with."""

    key: str
    kind: str
    instance_id: str
    binding_id: str | None
    operation_id: str
    waits_on: str | None = None


class Waiting(NamedTuple):
    """An operation that waits for a change, the moment of that change, and whether another was under way then."""

    due: Due
    changed: datetime
    overlapped: bool


_UNHELD: Document = {"$lte": ["$operation.lease_until", NOW]}
_DUE_AND_UNHELD: Document = {"$and": [{"$lte": ["$operation.due", NOW]}, _UNHELD]}
# Without its token, so that a renewal that is under way does not take the lease again.
_RELEASED: OperationFields = {"lease_until": In(0), "lease_token": None}


@dataclass(frozen=True)
class Claims:
    """Claims operations, writes the results of workers, and finds the operations that are due."""

    store: Store

    @storage_errors("claim")
    def claim(self, key: str, operation_id: str) -> Claim[Any] | None:
        """Claim an operation that is due; return None when another worker holds it, or there is nothing to do."""
        token = uuid4().hex
        free = {
            **UNDERSTOOD,
            "_id": key,
            "operation.id": operation_id,
            "operation.open": True,
            "$expr": _DUE_AND_UNHELD,
        }
        taken = assignments({"lease_until": In(LEASE_SECONDS), "lease_token": token, "sends": 0}, "operation.")
        taken["operation.fence"] = {"$add": ["$operation.fence", 1]}
        document = self.store.collection.find_one_and_update(
            free, [{"$set": taken}], return_document=ReturnDocument.AFTER
        )
        if document is None:
            return None
        found = record(document)
        return Claim(found, found.operation.fence, token) if found.readable else None

    @storage_errors("renew")
    def renew(self, claim: Claim[Any]) -> None:
        """Lengthen the lease.

        Raises:
            LeaseLostError: another worker holds it.
        """
        self._write(claim, {"lease_until": In(LEASE_SECONDS)})

    @storage_errors("advance")
    def advance(
        self, claim: Claim[AnyResource], step: str, changes: Fields | None, operation: OperationFields
    ) -> Claim[AnyResource]:
        """Write a step's results and go on with the next step under the same claim.

        Raises:
            LeaseLostError: another worker holds it.
        """
        fields: OperationFields = {
            "step": step,
            "attempts": 0,
            "error": None,
            "waits_on": None,
            "lease_until": In(LEASE_SECONDS),
        }
        return self._write(claim, {**fields, **operation}, changes)

    @storage_errors("reschedule")
    def reschedule(self, claim: Claim[Any], seconds: float, changes: Fields | None, operation: OperationFields) -> None:
        """Release the claim until ``seconds`` from now.

        Raises:
            LeaseLostError: another worker holds it.
        """
        self._write(claim, {"due": In(seconds), **_RELEASED, **operation}, changes)

    @storage_errors("finish")
    def finish(self, claim: Claim[Any], state: State, phase: Phase, changes: Fields | None, description: str) -> None:
        """End the operation, with the state and the description that the platform reads.

        An operation whose deadline has passed stays failed, also when what it made has been removed.

        Raises:
            LeaseLostError: another worker holds it.
        """
        if phase is Phase.GONE and claim.record.legacy:
            legacy.forget(self.store.collection, claim.record)
        operation: OperationFields = {"open": False, "step": "", "error": None, "waits_on": None, **_RELEASED}
        if claim.record.operation.state is State.IN_PROGRESS:
            operation |= {"state": state, "description": description, "finished": In(0)}
        self._write(claim, operation, changes, ResourceFields(phase=phase, expire_at=KEPT.get(phase)))

    def _write(
        self, claim: Claim[AnyResource], operation: OperationFields, *changes: Fields | ResourceFields | None
    ) -> Claim[AnyResource]:
        held = {
            "_id": claim.record.key,
            "operation.id": claim.record.operation.id,
            "operation.fence": claim.fence,
            "operation.lease_token": claim.token,
        }
        values = assignments(operation, "operation.")
        for fields in filter(None, changes):
            values |= assignments(fields)
        document = self.store.collection.find_one_and_update(
            held, [{"$set": values}], return_document=ReturnDocument.AFTER
        )
        if document is None:
            raise LeaseLostError
        return replace(claim, record=type(claim.record).read(document))

    @storage_errors("release")
    def release(self, claim: Claim[Any], *, sure: bool) -> None:
        """Release a lease that this worker has lost, once its step is over.

        An operation that replaced this one waits for the lease, so the filter is the lease's token and not the
        operation.

        Args:
            claim: What was held.
            sure: No request of this worker is under way to Atlas any more.
        """
        values = {"operation.lease_until": In(0), "operation.due": In(0)} | ({"unsure_until": None} if sure else {})
        mine = {"_id": claim.record.key, "operation.lease_token": claim.token}
        self.store.collection.update_one(mine, [{"$set": assignments(values)}])

    # --- the sweep ----------------------------------------------------------------------------------------------------

    @storage_errors("sweep")
    def due(self, limit: int) -> list[Due]:
        """Return operations that are due, held by no worker, and not sent just now. One query with an index."""
        pause = {"$multiply": [RESEND_SECONDS * 1000, {"$pow": [2, _SENDS]}]}
        sent_long_ago = {"$lte": ["$operation.dispatched", {"$subtract": [NOW, {"$min": [RESEND_MOST * 1000, pause]}]}]}
        due_since_sent = {"$lt": ["$operation.dispatched", {"$max": ["$operation.due", "$operation.lease_until"]}]}
        query = {
            **UNDERSTOOD,
            "operation.open": True,
            "$expr": {"$and": [_DUE_AND_UNHELD, {"$or": [due_since_sent, sent_long_ago]}]},
        }
        found = self.store.collection.find(query, _DUE_FIELDS).sort("operation.due", 1).limit(limit)
        return [due for document in found if (due := _due(document))]

    @storage_errors("sweep")
    def mark_sent(self, sent: Iterable[Due]) -> None:
        """Remember that these were sent, so that the next sweep does not send them again at once."""
        query = {"_id": {"$in": [each.key for each in sent]}, "operation.open": True}
        values = {"operation.dispatched": NOW, "operation.sends": {"$min": [{"$add": [_SENDS, 1]}, 8]}}
        self.store.collection.update_many(query, [{"$set": values}])

    @storage_errors("sweep")
    def expire(self) -> int:
        """Fail the operations whose deadline has passed, held or not, and return their number.

        What such an operation made in Atlas is removed all the same, under the same operation.
        """
        creates = {"$in": ["$operation.kind", [*CREATES]]}
        deletes = {"$in": ["$operation.kind", [*DELETES]]}
        last_words = _of_type("string", "$operation.description", "No worker has worked on it.")
        reason = _of_type("string", "$operation.error", last_words)
        failed: Document = {
            "phase": {"$cond": [creates, Phase.FAILED, "$phase"]},
            "operation.state": State.FAILED,
            "operation.finished": NOW,
            "operation.description": {"$concat": ["The operation was not done before its deadline. ", reason]},
            "operation.fence": {"$add": [_of_type("number", "$operation.fence", 0), 1]},
            "operation.undo": {"$not": [deletes]},
            "operation.step": {"$cond": [deletes, "$operation.step", ""]},
            "operation.waits_on": None,
            "operation.due": NOW,
            "operation.attempts": 0,
        }
        late = {
            "operation.open": True,
            "operation.due": {"$gte": EPOCH},  # always so; without it the index of open operations is not used
            "operation.state": State.IN_PROGRESS,
            "$expr": {"$lte": ["$operation.deadline", NOW]},
        }
        return self.store.collection.update_many(late, [{"$set": failed}]).modified_count

    # --- operations that wait for Atlas -------------------------------------------------------------------------------

    @storage_errors("wake")
    def waiting_on(self, name: str) -> list[Waiting]:
        """Return the operations that wait on ``name`` and are held by no worker."""
        waiting = []
        for document in self.store.collection.find(_waits_unheld(name), _DUE_FIELDS):
            operation, due = document["operation"], _due(document)
            if due and isinstance(operation.get("changed"), datetime):
                waiting.append(Waiting(due, operation["changed"], bool(operation.get("overlapped"))))
        return waiting

    @storage_errors("wake")
    def make_due(self, waiting: Iterable[Due], name: str) -> None:
        """Make operations due that still wait on ``name``; the caller sends them."""
        query = {"_id": {"$in": [each.key for each in waiting]}} | _waits_unheld(name)
        woken = assignments({"due": In(0), "waits_on": None, "dispatched": In(0), "sends": 0}, "operation.")
        self.store.collection.update_many(query, [{"$set": woken}])

    @storage_errors("wake")
    def make_all_due(self, name: str) -> None:
        """Make everything due that waits on ``name``; the sweeper sends it."""
        query = {"operation.open": True, "operation.waits_on": name}
        self.store.collection.update_many(
            query, [{"$set": assignments({"due": In(0), "waits_on": None}, "operation.")}]
        )


def _waits_unheld(name: str) -> Document:
    """Return the query for what waits on ``name``; a worker that holds an operation looks for itself."""
    return {**UNDERSTOOD, "operation.open": True, "operation.waits_on": name, "$expr": _UNHELD}


def _of_type(bson_type: str, field: str, otherwise: object) -> Document:
    """Return the expression of a field that may have the wrong type in a broken document, which would end a query."""
    matches = {"$isNumber": field} if bson_type == "number" else {"$eq": [{"$type": field}, bson_type]}
    return {"$cond": [matches, field, otherwise]}


_SENDS = _of_type("number", "$operation.sends", 0)

_OPERATION_FIELDS = ("id", "kind", "waits_on", "changed", "overlapped")
_DUE_FIELDS = dict.fromkeys(["instance_id", "binding_id", *(f"operation.{name}" for name in _OPERATION_FIELDS)], 1)


def _due(document: Mapping[str, Any]) -> Due | None:
    """Return what a job is sent with; None when the document is broken, which must not stop the others."""
    operation, binding_id = document["operation"], document.get("binding_id")
    if not isinstance(operation, Mapping) or not isinstance(binding_id, str | None):
        return None
    waits_on = operation.get("waits_on")
    return Due(
        key=document["_id"],
        kind=operation["kind"],
        instance_id=document["instance_id"],
        binding_id=binding_id,
        operation_id=operation["id"],
        waits_on=waits_on if isinstance(waits_on, str) else None,
    )
