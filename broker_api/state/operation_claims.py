"""Claims of operations: the lease and the fence of the worker that runs an operation, and when it is due again.

The fence is a number that grows with each claim, and the filter of each write of a worker contains the fence of its
claim. When another worker has claimed the operation, or another operation has replaced it, the filter matches no
document and the write raises ``LeaseLostError``.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic
from uuid import uuid4

from broker_api.state.fields import Fields, Moment, OperationFields, ResourceFields, StepFields, StepsFields
from broker_api.state.group_commit import Update
from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.new_operation import UNSURE_UNTIL
from broker_api.state.private_values import sealed
from broker_api.state.records import (
    CREATES,
    DELETES,
    EPOCH,
    HOLDS_NOTHING,
    UNDERSTOOD,
    UNREADABLE,
    AnyResource,
    Binding,
    Instance,
    Kind,
    Phase,
    State,
    StepLife,
    StepResult,
    canonical,
)
from broker_api.state.store import Store

Fences = Mapping[str, int]
"""Operations by the ``_id`` of their document, with the number of the last claim, which another claim changes."""

LEASE_SECONDS = 20
RESEND_SECONDS = 3
"""The pause before an operation is sent again that no worker has claimed; it doubles up to ``RESEND_MOST``."""
RESEND_MOST = 15
MOST_BATCHES = 10
"""How many batches the sweep reads at most, each without the events that it has already found."""
KEPT = {Phase.GONE: In(48 * 3600), Phase.FAILED: In(7 * 24 * 3600)}
"""How long a document in this phase is kept after its operation; documents in other phases are kept without a limit.

A platform may poll a deleted instance or binding for a while. A failed create leaves nothing in Atlas, and some
platforms never delete it.
"""


class LeaseLostError(Exception):
    """Another worker holds the lease, it ends too soon for a call, or another operation has replaced this one.

    The worker stops without a write.
    """


def phase_fields(phase: Phase) -> ResourceFields:
    """Return the fields of an instance or binding whose operation has ended in this phase."""
    fields = ResourceFields(phase=phase, expire_at=KEPT.get(phase))
    if phase in HOLDS_NOTHING:
        fields["slot"] = None
    return fields


@dataclass(frozen=True)
class Claim(Generic[AnyResource]):
    """The right to run an operation.

    Attributes:
        record: The instance or binding as it was last read or written.
        fence: The number of this claim, which each write checks.
        token: The id of the lease, unique to this claim.
        at: When it was taken, by MongoDB's clock.
        asked_at: The moment before it was requested from MongoDB, in monotonic seconds.
    """

    record: AnyResource
    fence: int
    token: str
    at: datetime
    asked_at: float

    @property
    def operation_id(self) -> str:
        """The id of the claimed operation."""
        return self.record.operation.id

    @property
    def now(self) -> datetime:
        """The time by MongoDB's clock, whatever the clock of this machine shows."""
        return self.at + timedelta(seconds=time.monotonic() - self.asked_at)


@dataclass(frozen=True)
class Due:
    """An operation for which a job is to be sent.

    Attributes:
        key: The ``_id`` of its document.
        kind: What it does, which names the job.
        instance_id: An argument of the job.
        binding_id: An argument of the job; None for operations of instances.
        operation_id: An argument of the job.
        waits_on: The name of the event on which it waits, if any.
    """

    key: str
    kind: str
    instance_id: str
    binding_id: str | None
    operation_id: str
    waits_on: str | None = None


DUE_AND_UNHELD: Document = {"$and": [{"$lte": ["$operation.due", NOW]}, {"$lte": ["$operation.lease_until", NOW]}]}
"""Whether an operation waits for a worker."""
# The token is removed too, so that a concurrent renewal does not take the lease again.
_RELEASED: OperationFields = {"lease_until": In(0), "lease_token": None}
ENDED: OperationFields = {
    "open": False,
    "step": "",
    "error": None,
    "waits_on": None,
    "in_flight": False,
    **_RELEASED,
}


@dataclass(frozen=True)
class Claims:
    """Claims operations, writes the results of workers, and finds the operations that are due.

    Attributes:
        store: The instances and bindings.
        worker: The name of this worker, which each claim leaves on its operation.
    """

    store: Store
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")

    @storage_errors("claim")
    def claim(self, key: str, operation_id: str) -> Claim[Any] | None:
        """Claim an operation for ``LEASE_SECONDS``.

        Args:
            key: The ``_id`` of the document of the instance or binding.
            operation_id: The operation.

        Returns:
            The claim; None when the operation is not due, has ended, or another worker holds it.
        """
        token, asked_at = uuid4().hex, time.monotonic()
        free = {
            **UNDERSTOOD,
            "_id": key,
            "operation.id": operation_id,
            "operation.open": True,
            "$expr": DUE_AND_UNHELD,
        }
        lease: OperationFields = {"lease_until": In(LEASE_SECONDS), "lease_token": token, "sends": 0}
        taken = assignments({**lease, "worker": self.worker, "claimed": In(0)}, "operation.")
        taken["operation.fence"] = {"$add": ["$operation.fence", 1]}
        taken["operation.first_claimed"] = {"$ifNull": ["$operation.first_claimed", NOW]}
        # Each release of a lease removes the token.
        taken["operation.taken_over"] = {"$gt": ["$operation.lease_token", None]}
        taken["unsure_until"] = UNSURE_UNTIL
        update = Update(free, [{"$set": taken}], mark={"lease_token": token}, reads=True)
        document = self.store.commits.ask(update)
        if document is None:
            return None
        found = (Binding if "binding_id" in document else Instance).read(document)
        if found.phase == UNREADABLE:
            return None
        at = found.operation.lease_until - timedelta(seconds=LEASE_SECONDS)
        claim = Claim[Any](found, found.operation.fence, token, at, asked_at)
        if found.operation.id == operation_id:
            return claim
        self.release(claim, found.unsure_until)  # another operation has replaced it since, and waits for the lease
        return None

    @storage_errors("renew")
    def renew(self, claim: Claim[Any]) -> None:
        """Extend the lease to ``LEASE_SECONDS`` from now.

        Raises:
            LeaseLostError: Another worker holds the operation.
        """
        self._write(claim, {"lease_until": In(LEASE_SECONDS)})

    @storage_errors("advance")
    def advance(
        self,
        claim: Claim[AnyResource],
        changes: Fields | None,
        operation: OperationFields,
        *,
        steps: StepsFields | None = None,
    ) -> Claim[AnyResource]:
        """Write the results of a step, with the name of the next step; extend the lease.

        Args:
            claim: The claim.
            changes: Fields of the instance or binding.
            operation: Fields of the operation.
            steps: Fields of the steps that have run.

        Returns:
            The claim with the record as the write has changed it. It is not read again, so what the next steps use is
            what has been checked at the claim, and what this worker has written.

        Raises:
            LeaseLostError: Another worker holds the operation.
        """
        lease: OperationFields = {**operation, "lease_until": In(LEASE_SECONDS)}
        written = self._write(claim, lease, changes, steps=steps)
        return replace(claim, record=_changed(claim.record, claim.now, written, lease, steps or {}))

    @storage_errors("reschedule")
    def reschedule(
        self,
        claim: Claim[Any],
        seconds: float,
        changes: Fields | None,
        operation: OperationFields,
        *,
        steps: StepsFields | None = None,
    ) -> None:
        """Release the claim; the operation is due again in ``seconds``.

        Args:
            claim: The claim.
            seconds: The pause.
            changes: Fields of the instance or binding to write.
            operation: Fields of the operation to write.
            steps: Fields of the steps that have run.

        Raises:
            LeaseLostError: Another worker holds the operation.
        """
        self._write(claim, {"due": In(seconds), **_RELEASED, **operation}, changes, steps=steps)

    @storage_errors("finish")
    def finish(
        self,
        claim: Claim[Any],
        state: State,
        phase: Phase,
        changes: Fields | None,
        description: str,
        *,
        steps: StepsFields | None = None,
    ) -> None:
        """End the operation and release the claim.

        An operation that has failed at its deadline keeps its state and description.

        Args:
            claim: The claim.
            state: The state that the platform reads.
            phase: The new phase of the instance or binding.
            changes: Fields of the instance or binding to write.
            description: The description that the platform reads.
            steps: Fields of the steps that have run.

        Raises:
            LeaseLostError: Another worker holds the operation.
        """
        if phase is Phase.GONE and claim.record.legacy:
            self.store.legacy.forget(claim.record)
        operation, in_progress = OperationFields(**ENDED), claim.record.operation.state is State.IN_PROGRESS
        if in_progress:
            operation |= {"state": state, "description": description, "finished": In(0)}
        self._write(claim, operation, changes, phase_fields(phase), steps=steps)
        if in_progress:
            self.store.report.ended(claim.record.operation.kind, state)

    def _write(
        self,
        claim: Claim[Any],
        operation: OperationFields,
        *changes: Fields | ResourceFields | None,
        steps: StepsFields | None = None,
    ) -> dict[str, Any]:
        """Write under a claim; return the fields of the instance or binding that were written, with their MACs."""
        held = {
            "_id": claim.record.key,
            "operation.id": claim.record.operation.id,
            "operation.fence": claim.fence,
            "operation.lease_token": claim.token,
        }
        written: dict[str, Any] = {}
        for fields in filter(None, changes):
            written |= fields
        vault, macs = self.store.macs.vault, self.store.macs.of_changed(claim.record, written)
        stored = {**sealed(vault, claim.record.key, written), **macs}
        pipeline: list[Document] = [{"$set": assignments(_paths(operation, steps) | stored)}]
        # The fence has grown if the claim was lost before the write.
        mark = {"id": claim.record.operation.id, "fence": claim.fence}
        if self.store.commits.ask(Update(held, pipeline, mark)) is None:
            raise LeaseLostError
        return written | macs

    @storage_errors("release")
    def release(self, claim: Claim[Any], unsure_until: Moment | None) -> None:
        """Release a lease after ``LeaseLostError``, when the running step has ended.

        The operation that has replaced this one waits for the lease, so the filter contains the token of the lease and
        not the operation.

        Args:
            claim: The claim.
            unsure_until: Until when a request of this operation may still take effect in Atlas.
        """
        values = assignments({**_paths({**_RELEASED, "due": In(0)}), "unsure_until": unsure_until})
        mine = {"_id": claim.record.key, "operation.lease_token": claim.token}
        self.store.collection.update_one(mine, [{"$set": values}])

    # --- the sweep ----------------------------------------------------------------------------------------------------

    @storage_errors("sweep")
    def due(self, limit: int) -> list[Due]:
        """Return operations that are due, that no worker holds, and that were not sent a moment ago.

        The query uses an index.

        Args:
            limit: How many to read. If there are more, those that wait for another event than these are read as well,
                up to ``MOST_BATCHES`` times: one operation is sent for each event, so that many which wait for one
                would hold up all others.
        """
        pause = {"$multiply": [RESEND_SECONDS * 1000, {"$pow": [2, _SENDS]}]}
        sent_long_ago = {"$lte": ["$operation.dispatched", {"$subtract": [NOW, {"$min": [RESEND_MOST * 1000, pause]}]}]}
        due_since_sent = {"$lt": ["$operation.dispatched", {"$max": ["$operation.due", "$operation.lease_until"]}]}
        query = {
            **UNDERSTOOD,
            "operation.open": True,
            "operation.kind": {"$in": [*Kind]},
            "$expr": {"$and": [DUE_AND_UNHELD, {"$or": [due_since_sent, sent_long_ago]}]},
        }
        found: dict[str, Due] = {}
        events: set[str] = set()
        for _ in range(MOST_BATCHES):
            query["operation.waits_on"] = {"$nin": [*events]}
            documents = [*self.store.collection.find(query, _DUE_FIELDS).sort("operation.due", 1).limit(limit)]
            dues = [due for document in documents if (due := _due(document))]
            found |= {due.key: due for due in dues}
            new = {due.waits_on for due in dues if due.waits_on} - events
            if len(documents) < limit or not new:
                break
            events |= new
        return [*found.values()]

    @storage_errors("sweep")
    def mark_sent(self, sent: Iterable[Due]) -> None:
        """Record that operations were sent, so that the next sweep does not send them again at once."""
        query = {"_id": {"$in": [each.key for each in sent]}, "operation.open": True}
        values = {"operation.dispatched": NOW, "operation.sends": {"$min": [{"$add": [_SENDS, 1]}, 8]}}
        self.store.collection.update_many(query, [{"$set": values}])

    @storage_errors("sweep")
    def expire(self) -> list[Document]:
        """Fail all operations whose deadline has passed, also those that a worker holds.

        Such an operation stays open until the undo steps have removed what it created in Atlas.

        Returns:
            The ids of the operations, as fields of log lines.
        """
        creates = {"$in": ["$operation.kind", [*CREATES]]}
        deletes = {"$in": ["$operation.kind", [*DELETES]]}
        begun = {"$gt": ["$operation.first_claimed", None]}
        nothing_said = {"$cond": [begun, "A worker had begun it.", "No worker has worked on it."]}
        last_words = _of_type("string", "$operation.description", nothing_said)
        reason = _of_type("string", "$operation.error", last_words)
        failed: Document = {
            "phase": {"$cond": [creates, Phase.FAILED, "$phase"]},
            "slot": {"$cond": [creates, None, "$slot"]},
            "unsure_until": UNSURE_UNTIL,
            "operation.state": State.FAILED,
            "operation.finished": NOW,
            "operation.description": {"$concat": ["The operation was not done before its deadline. ", reason]},
            "operation.fence": {"$add": [_of_type("number", "$operation.fence", 0), 1]},
            "operation.undo": {"$or": [{"$eq": ["$operation.undo", True]}, {"$not": [deletes]}]},
            "operation.step": {"$cond": [deletes, "$operation.step", ""]},
            "operation.waits_on": None,
            "operation.in_flight": False,
            "operation.due": NOW,
            "operation.attempts": 0,
            "operation.refusals": 0,
        }
        is_kind = {"$eq": [{"$type": "$operation.kind"}, "string"]}  # not so in a broken document
        late: Document = {
            "operation.open": True,
            "operation.due": {"$gte": EPOCH},  # always true, but needed for the use of the index of open operations
            "operation.state": State.IN_PROGRESS,
            "$expr": {"$and": [{"$lte": ["$operation.deadline", NOW]}, is_kind]},
        }
        found = list(self.store.collection.find(late, _DUE_FIELDS))
        for kind in {document["operation"]["kind"] for document in found}:
            keys = [document["_id"] for document in found if document["operation"]["kind"] == kind]
            query = {**late, "_id": {"$in": keys}, "operation.kind": kind}
            number = self.store.collection.update_many(query, [{"$set": failed}]).modified_count
            self.store.report.ended(kind, State.FAILED, number)
        return [
            {
                "instance_id": document.get("instance_id"),
                "binding_id": document.get("binding_id"),
                "operation": document["operation"].get("id"),
            }
            for document in found
        ]

    # --- operations that wait for Atlas -------------------------------------------------------------------------------

    @storage_errors("finish")
    def finish_waiting(
        self,
        waiting: Fences,
        name: str,
        phase: Phase,
        changes: Fields | None,
        description: str,
        *,
        kind: str,
        step: str,
    ) -> int:
        """End operations of one kind that wait on ``name``, all with the same result, in one write.

        No claim is needed: each operation has one step left, which would only write this result, and no worker has
        claimed it since it waits.

        Args:
            waiting: The operations.
            name: What they wait on.
            phase: The new phase of the instances or bindings.
            changes: Fields of the instances or bindings to write.
            description: The description that platforms read.
            kind: Their kind.
            step: The step that they all have left.

        Returns:
            The number of operations that have ended now; the others have changed meanwhile.
        """
        ended: OperationFields = {**ENDED, "state": State.SUCCEEDED, "description": description, "finished": In(0)}
        done: StepFields = {"last": In(0), "result": StepResult.DONE}
        values = assignments({**_paths(ended, {step: done}), **(changes or {}), **phase_fields(phase)})
        query = {**_unchanged(waiting, name), "operation.state": State.IN_PROGRESS}
        number = self.store.collection.update_many(query, [{"$set": values}]).modified_count
        self.store.report.ended(kind, State.SUCCEEDED, number)
        return number

    @storage_errors("wake")
    def make_due(self, waiting: Fences, name: str) -> None:
        """Make those of the operations due that still wait on ``name``; the caller sends them."""
        woken = assignments(_paths({"due": In(0), "waits_on": None, "dispatched": In(0), "sends": 0}))
        self.store.collection.update_many(_unchanged(waiting, name), [{"$set": woken}])

    @storage_errors("wait")
    def watch_again(
        self,
        waiting: Fences,
        name: str,
        seconds: float,
        operation: OperationFields,
        *,
        steps: StepsFields | None = None,
    ) -> None:
        """Let operations that wait on ``name`` be due only in ``seconds``, since a worker watches what they wait on.

        Args:
            waiting: The operations.
            name: What they wait on.
            seconds: The pause.
            operation: Fields of the operations to write.
            steps: Fields of the step that they all have left.
        """
        values = assignments(_paths({"due": In(seconds), **operation}, steps))
        query = {**_unchanged(waiting, name), "operation.state": State.IN_PROGRESS}
        self.store.collection.update_many(query, [{"$set": values}])

    @storage_errors("wake")
    def make_all_due(self, name: str, *, unwatched: bool = False) -> None:
        """Make all operations due that wait on ``name``; the sweeper sends them.

        Args:
            name: What they wait on.
            unwatched: Only those that no worker watches (see ``watch_again``).
        """
        query: Document = {"operation.open": True, "operation.waits_on": name}
        if unwatched:
            query["$expr"] = {"$lte": ["$operation.due", NOW]}
        woken = assignments(_paths({"due": In(0), "waits_on": None}))
        self.store.collection.update_many(query, [{"$set": woken}])


def _paths(operation: OperationFields, steps: StepsFields | None = None) -> dict[str, Any]:
    """Return fields of an operation, and of its steps, whose names no user has chosen, by their paths."""
    paths = {f"operation.{name}": value for name, value in operation.items()}
    for step, fields in (steps or {}).items():
        if step:  # a waiting operation of before may name no step
            paths |= {f"operation.steps.{step}.{name}": value for name, value in fields.items()}
    return paths


def _changed(
    record: AnyResource, now: datetime, changes: Mapping[str, Any], operation: OperationFields, steps: StepsFields
) -> AnyResource:
    """Return a record as MongoDB has it after a write at that moment: of the record, its operation and its steps."""
    of_record, of_operation, *of_steps = (
        {
            name: now + timedelta(seconds=value)
            if isinstance(value, In)
            else json.loads(canonical(value))
            if isinstance(value, dict | list | tuple)
            else value
            for name, value in fields.items()
        }
        for fields in (changes, operation, *steps.values())
    )
    lives = dict(record.operation.steps)
    for name, life in zip(steps, of_steps, strict=True):
        lives[name] = lives.get(name, StepLife()).model_copy(update=life)
    changed = record.operation.model_copy(update={**of_operation, "steps": lives})
    return record.model_copy(update={**of_record, "operation": changed})


def _unchanged(waiting: Fences, name: str) -> Document:
    """Return the query for those of the operations that still wait on ``name`` and that no worker has claimed since."""
    return {
        **UNDERSTOOD,
        "$or": [{"_id": key, "operation.fence": fence} for key, fence in waiting.items()],
        "operation.open": True,
        "operation.waits_on": name,
    }


def _of_type(bson_type: str, field: str, otherwise: object) -> Document:
    """Return the expression for a field, or ``otherwise`` when a broken document has another type in it.

    A wrong type in an expression would end the whole query with an error.
    """
    matches = {"$isNumber": field} if bson_type == "number" else {"$eq": [{"$type": field}, bson_type]}
    return {"$cond": [matches, field, otherwise]}


_SENDS = _of_type("number", "$operation.sends", 0)

_OPERATION_FIELDS = ("id", "kind", "waits_on")
_DUE_FIELDS = dict.fromkeys(["instance_id", "binding_id", *(f"operation.{name}" for name in _OPERATION_FIELDS)], 1)


def _due(document: Mapping[str, Any]) -> Due | None:
    """Return the operation of a document; None for a broken document, which must not stop the others."""
    operation, binding_id = document["operation"], document.get("binding_id")
    if not isinstance(operation, Mapping) or not isinstance(binding_id, str | None):
        return None
    key, kind, instance_id, operation_id = document["_id"], operation["kind"], document["instance_id"], operation["id"]
    if not all(isinstance(each, str) for each in (key, kind, instance_id, operation_id)):  # UNDERSTOOD admits lists
        return None
    waits_on = operation.get("waits_on")
    return Due(
        key=key,
        kind=kind,
        instance_id=instance_id,
        binding_id=binding_id,
        operation_id=operation_id,
        waits_on=waits_on if isinstance(waits_on, str) else None,
    )
