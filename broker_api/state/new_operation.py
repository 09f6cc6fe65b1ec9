"""An operation that is to begin, and what its first write does with the operation before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import uuid4

from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.records import EPOCH, Kind, Operation, State

OPERATION_SECONDS = 1500
"""The deadline of an operation; shorter than maximum_polling_duration (1800), so that the platform reads its end."""
REMEMBERED_OPERATIONS = 20


@dataclass(frozen=True)
class NewOperation:
    """An operation that is to begin.

    Attributes:
        kind: What it does.
        request: The canonical JSON of the request, by which a repeated request is recognised.
        identity: The originating identity (spec: Originating Identity), if the platform sent one.
        request_id: The id of the request in the log: X-Broker-API-Request-Identity, or one that the API has made.
        traceparent: The span of the request, if it is traced.
        seconds: The time until its deadline.
    """

    kind: Kind
    request: str = "{}"
    identity: Mapping[str, Any] | None = None
    request_id: str | None = None
    traceparent: str | None = None
    seconds: float = OPERATION_SECONDS

    @cached_property
    def fresh(self) -> Operation:
        """The operation before any worker has seen it.

        Its id names its kind: a poll after the document is gone tells a delete by it.
        """
        new_id = f"{self.kind}-{uuid4().hex}"
        return Operation(id=new_id, kind=self.kind, request=self.request, traceparent=self.traceparent)

    def fields(self, private: Mapping[str, Any] | None = None, mac: str | None = None) -> Document:
        """Return all fields of the operation as update expressions; ``$set`` would keep a field that is left out.

        Args:
            private: The fields of the request as they are stored; an operation that no worker runs needs none.
            mac: The MAC of the operation; the same is true.
        """
        identity = self.identity and dict(self.identity)
        values = self.fresh.model_dump() | {
            **(private or {}),
            "mac": mac,
            "identity": identity,
            "request_id": self.request_id,
        }
        values |= {"due": In(0), "accepted": In(0), "deadline": In(self.seconds), "dispatched": In(0)}
        return assignments(values) | {
            # The lease is kept: a worker that still holds the previous operation ends its step first.
            "lease_until": {"$ifNull": ["$operation.lease_until", EPOCH]},
            "lease_token": {"$ifNull": ["$operation.lease_token", None]},
            "fence": {"$add": [{"$ifNull": ["$operation.fence", 0]}, 1]},
            "steps": {"$literal": {}},
            "actions": [],
        }


_MAY_HAVE_SENT: Document = {
    "$and": [
        "$operation.in_flight",
        {"$gt": ["$operation.lease_token", None]},  # each release of a lease removes the token
        # A range of moments, since a broken document may have another type in the field, and must not stop others.
        {"$gte": ["$operation.lease_until", EPOCH]},
        {"$lt": ["$operation.lease_until", {"$add": [NOW, 60_000]}]},
    ]
}
"""Whether a worker runs the step that sends such a request, or has died or lost MongoDB in it."""
UNSURE_UNTIL: Document = {
    "$cond": [_MAY_HAVE_SENT, {"$add": ["$operation.lease_until", 15_000]}, {"$ifNull": ["$unsure_until", None]}]
}
"""The expression of ``unsure_until`` when an operation is stopped, or taken over from another worker."""

_RUNNING = {"$eq": ["$operation.state", State.IN_PROGRESS]}
_LATEST: Document = {
    "id": "$operation.id",
    "kind": "$operation.kind",
    "state": {"$cond": [_RUNNING, State.FAILED, "$operation.state"]},
    "description": {"$cond": [_RUNNING, "Stopped by a later request to delete it.", "$operation.description"]},
    "accepted": "$operation.accepted",
    "finished": {"$cond": [_RUNNING, NOW, "$operation.finished"]},
    "steps": {"$ifNull": ["$operation.steps", {"$literal": {}}]},
    "actions": {"$ifNull": ["$operation.actions", []]},
}
_IS_FIRST = {"$eq": [{"$type": "$operation"}, "missing"]}
PAST: Document = {
    "$slice": [
        {"$concatArrays": [{"$cond": [_IS_FIRST, [], [_LATEST]]}, {"$ifNull": ["$past", []]}]},
        REMEMBERED_OPERATIONS,
    ]
}
"""The expression of the past operations (``records.PastOperation``), the latest first, when a new one begins."""
