"""The worker's side of the state: claims are leases with a fencing token, and waiting is a date on the operation.

Every write of a worker names the fence that its claim drew; once another worker has claimed, or the operation was
replaced, it matches nothing and ``LeaseLostError`` ends the worker's part in it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import uuid4

from pymongo import ReturnDocument

from broker_api.state import legacy
from broker_api.state.fields import Fields, OperationFields, ResourceFields
from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import EPOCH, Kind, Phase, Resource, State, record
from broker_api.state.store import Store

LEASE_SECONDS = 20
RESEND_SECONDS = 3
"""A message that no worker has acted on is sent again after this, then after twice as long, up to ``RESEND_MOST``."""
RESEND_MOST = 15
REMEMBERED_SECONDS = 48 * 3600
"""What is gone is remembered this long; section 0 of our reading of the specification asks for 24 hours at least."""
FAILED_CREATE_SECONDS = 7 * 24 * 3600
"""A failed create that no platform ever deletes is forgotten after this; nothing of it is left in Atlas."""

AnyResource = TypeVar("AnyResource", bound=Resource)


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
        """The operation that is held."""
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


class Claims:
    """Claiming, advancing, rescheduling and finishing operations."""

    def __init__(self, store: Store) -> None:
        self._collection = store.collection

    @storage_errors("claim")
    def claim(self, key: str, operation_id: str) -> Claim[Any] | None:
        """Take an operation that is due and held by no worker; None otherwise, which is no error."""
        token = uuid4().hex
        free = {
            **_UNDERSTOOD,
            "_id": key,
            "operation.id": operation_id,
            "operation.open": True,
            "$expr": {"$and": [{"$lte": ["$operation.due", NOW]}, {"$lte": ["$operation.lease_until", NOW]}]},
        }
        taken = assignments({"lease_until": In(LEASE_SECONDS), "lease_token": token, "sends": 0}, "operation.")
        taken["operation.fence"] = {"$add": ["$operation.fence", 1]}
        document = self._collection.find_one_and_update(free, [{"$set": taken}], return_document=ReturnDocument.AFTER)
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
        """Record a step's results and go on with the next one, under the same claim.

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
        """Release the claim until a later time; no worker is held while waiting.

        Raises:
            LeaseLostError: another worker holds it.
        """
        self._write(claim, {"due": In(seconds), **_GIVEN_BACK, **operation}, changes)

    @storage_errors("finish")
    def finish(self, claim: Claim[Any], state: State, phase: Phase, changes: Fields | None, description: str) -> None:
        """End the operation. What the platform gets is written in the same update as the state it polls for.

        An operation whose deadline has passed stays failed; its left-overs being removed does not change that.

        Raises:
            LeaseLostError: another worker holds it.
        """
        if phase is Phase.GONE and claim.record.legacy:
            legacy.forget(self._collection, claim.record)
        ended = claim.record.operation.state is not State.IN_PROGRESS
        operation: OperationFields = {"open": False, "step": "", "error": None, "waits_on": None, **_GIVEN_BACK}
        if not ended:
            operation |= {"state": state, "description": description, "finished": In(0)}
        self._write(claim, operation, changes, ResourceFields(phase=phase, expire_at=_forgotten(phase)))

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
        document = self._collection.find_one_and_update(held, [{"$set": values}], return_document=ReturnDocument.AFTER)
        if document is None:
            raise LeaseLostError
        return replace(claim, record=type(claim.record).read(document))

    @storage_errors("release")
    def release(self, claim: Claim[Any], *, sure: bool) -> None:
        """Record that a step whose lease was lost is over, so that the operation after it need not wait.

        The lease's own token is the filter: an operation that replaced ours waits for that lease. ``sure``: no request
        of ours is under way any more.
        """
        mine = {"_id": claim.record.key, "operation.lease_token": claim.token}
        values = {"operation.lease_until": In(0), "operation.due": In(0), **({"unsure_until": None} if sure else {})}
        self._collection.update_one(mine, [{"$set": assignments(values)}])

    # --- the sweep --------------------------------------------------------------------------------------------

    @storage_errors("sweep")
    def due(self, limit: int) -> list[Due]:
        """Return operations that are due, held by no worker, and not sent just now. One indexed query."""
        waited = {"$multiply": [RESEND_SECONDS * 1000, {"$pow": [2, _SENDS]}]}
        sent_before = {"$subtract": [NOW, {"$min": [RESEND_MOST * 1000, waited]}]}
        news = {"$max": ["$operation.due", "$operation.lease_until"]}
        query = {
            "operation.open": True,
            **_UNDERSTOOD,
            "$expr": {
                "$and": [
                    {"$lte": ["$operation.due", NOW]},
                    {"$lte": ["$operation.lease_until", NOW]},
                    {
                        "$or": [
                            {"$lt": ["$operation.dispatched", news]},
                            {"$lte": ["$operation.dispatched", sent_before]},
                        ]
                    },
                ]
            },
        }
        found = self._collection.find(query, _DUE_FIELDS).sort("operation.due", 1).limit(limit)
        return [due for document in found if (due := _due(document))]

    @storage_errors("sweep")
    def mark_sent(self, sent: Iterable[Due]) -> None:
        """Remember that these were sent, so that the next sweep does not send them again at once."""
        query = {"_id": {"$in": [each.key for each in sent]}, "operation.open": True}
        values = assignments({"dispatched": In(0)}, "operation.")
        values["operation.sends"] = {"$min": [{"$add": [_SENDS, 1]}, 8]}
        self._collection.update_many(query, [{"$set": values}])

    @storage_errors("sweep")
    def expire(self) -> int:
        """Fail what is past its deadline, whether held or not; what it made in Atlas is removed all the same."""
        late = {
            "operation.open": True,
            "operation.due": {"$gte": EPOCH},  # always so; without it the index of open operations is not used
            "operation.state": State.IN_PROGRESS.value,
            "$expr": {"$lte": ["$operation.deadline", NOW]},
        }
        return self._collection.update_many(late, [{"$set": _EXPIRED}]).modified_count

    @storage_errors("wake")
    def waiting_on(self, name: str) -> list[Waiting]:
        """Return the operations that wait on ``name`` and are held by no worker."""
        found = [
            (due, document["operation"])
            for document in self._collection.find(_waits_unheld(name), _DUE_FIELDS)
            if (due := _due(document))
        ]
        return [
            Waiting(due, operation["changed"], bool(operation.get("overlapped")))
            for due, operation in found
            if isinstance(operation.get("changed"), datetime)
        ]

    @storage_errors("wake")
    def make_due(self, waiting: Iterable[Due], name: str) -> None:
        """Make operations due that still wait on ``name``; the caller sends them."""
        query = {"_id": {"$in": [each.key for each in waiting]}} | _waits_unheld(name)
        woken = assignments({"due": In(0), "waits_on": None, "dispatched": In(0), "sends": 0}, "operation.")
        self._collection.update_many(query, [{"$set": woken}])

    @storage_errors("wake")
    def make_all_due(self, name: str) -> None:
        """Make everything due that waits on ``name``; the sweeper sends it."""
        query = {"operation.open": True, "operation.waits_on": name}
        self._collection.update_many(query, [{"$set": assignments({"due": In(0), "waits_on": None}, "operation.")}])


def _waits_unheld(name: str) -> Document:
    unheld = {"$lte": ["$operation.lease_until", NOW]}  # a worker that holds one looks for itself
    return {"operation.open": True, "operation.waits_on": name, "$expr": unheld, **_UNDERSTOOD}


def _of_type(bson_type: str, field: str, otherwise: Any) -> Document:  # noqa: ANN401 - a value or an expression
    """Return the expression of a field that may have the wrong type in a broken document: one ends a whole query."""
    return {"$cond": [{"$eq": [{"$type": field}, bson_type]}, field, otherwise]}


_SENDS: Document = {"$cond": [{"$isNumber": "$operation.sends"}, "$operation.sends", 0]}

_UNDERSTOOD: Document = {
    "phase": {"$in": [phase.value for phase in Phase]},
    "operation.state": {"$in": [state.value for state in State]},
    "operation.id": {"$type": "string"},
    "operation.kind": {"$type": "string"},
    "instance_id": {"$type": "string"},
}
"""What this release can work on; the rest is left to the release that knows it."""


_DUE_FIELDS = dict.fromkeys(
    [
        "instance_id",
        "binding_id",
        *(f"operation.{name}" for name in ("id", "kind", "waits_on", "changed", "overlapped")),
    ],
    1,
)


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


def _forgotten(phase: Phase) -> In | None:
    if phase is Phase.GONE:
        return In(REMEMBERED_SECONDS)
    return In(FAILED_CREATE_SECONDS) if phase is Phase.FAILED else None


# Without its token, so that a renewal that was under way at that moment does not take the lease again.
_GIVEN_BACK: OperationFields = {"lease_until": In(0), "lease_token": None}
_DELETING = {"$in": ["$operation.kind", [Kind.DEPROVISION.value, Kind.UNBIND.value]]}
_CREATING = {"$in": ["$operation.kind", [Kind.PROVISION.value, Kind.BIND.value]]}
_EXPIRED: Document = {
    "phase": {"$cond": [_CREATING, Phase.FAILED.value, "$phase"]},
    "operation.state": State.FAILED.value,
    "operation.finished": NOW,
    "operation.fence": {"$add": [{"$cond": [{"$isNumber": "$operation.fence"}, "$operation.fence", 0]}, 1]},
    "operation.undo": {"$not": [_DELETING]},
    "operation.step": {"$cond": [_DELETING, "$operation.step", ""]},
    "operation.waits_on": None,
    "operation.due": NOW,
    "operation.attempts": 0,
    "operation.description": {
        "$concat": [
            "The operation was not done before its deadline. ",
            _of_type(
                "string",
                "$operation.error",
                _of_type("string", "$operation.description", "No worker has worked on it."),
            ),
        ]
    },
}
