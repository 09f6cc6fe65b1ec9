"""Beginning operations: one atomic write, then one message to the workers, in this order.

A message that is lost costs seconds: the sweeper sends what was written and not sent.
"""

from broker_api.jobs.queue import JOBS, Queue
from broker_api.json_types import JsonObject
from broker_api.service.schemas import Accepted, Caller
from broker_api.state.fields import BindingFields, InstanceFields
from broker_api.state.records import Binding, Instance, Kind, Phase
from broker_api.state.store import Start, Store


class Operations:
    """Begins operations. Its methods return None when another request has changed the document: decide again then."""

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store = store
        self._queue = queue

    def create(
        self,
        fields: InstanceFields | BindingFields,
        kind: Kind,
        caller: Caller,
        replaced: Instance | Binding | None,
        body: JsonObject | None = None,
    ) -> Accepted | None:
        """Begin a provision or bind.

        Args:
            fields: what the new document holds.
            kind: the operation.
            caller: the platform and user.
            replaced: a gone or failed instance or binding of the same id, if there is one.
            body: what the answer holds beside the operation.
        """
        start = Start(kind, identity=caller.identity, request_id=caller.request_id)
        begun = self._store.create(fields, start, replaced.operation if replaced else None)
        if begun is None:
            return None
        binding_id = fields.get("binding_id")
        self._queue.send(JOBS[kind], [fields["instance_id"], str(binding_id) if binding_id else None, begun.id])
        return Accepted(begun.id, body or {})

    def start(
        self,
        found: Instance | Binding,
        kind: Kind,
        caller: Caller,
        request: str = "{}",
        body: JsonObject | None = None,
    ) -> Accepted | None:
        """Begin an update or delete of what exists.

        Args:
            found: the instance or binding as it was when this was decided.
            kind: the operation.
            caller: the platform and user.
            request: what an update asks for, as canonical JSON.
            body: what the answer holds beside the operation.
        """
        start = Start(kind, request, caller.identity, caller.request_id)
        phase = Phase.READY if kind is Kind.UPDATE else Phase.DELETING
        begun = self._store.start(found.key, found.operation, start, phase)
        if begun is None:
            return None
        binding_id = found.binding_id if isinstance(found, Binding) else None
        self._queue.send(JOBS[kind], [found.instance_id, binding_id, begun.id])
        return Accepted(begun.id, body or {})
