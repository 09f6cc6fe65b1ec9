"""Starts operations: first one atomic write, then one message to the workers.

A lost message delays the operation by seconds: the sweeper sends the jobs of operations that were written but not sent.
"""

from dataclasses import dataclass

from broker_api import tracing
from broker_api.catalog.catalog import Plan
from broker_api.catalog.cluster_plans import SECONDS as NEW_CLUSTER_SECONDS
from broker_api.jobs.queue import JOBS, Queue
from broker_api.json_types import JsonObject
from broker_api.service.schemas import Accepted, Caller
from broker_api.state.fields import BindingFields, InstanceFields
from broker_api.state.new_operation import OPERATION_SECONDS, NewOperation
from broker_api.state.records import Binding, Instance, Kind, Phase
from broker_api.state.store import Store


@dataclass(frozen=True)
class OperationStarter:
    """Starts operations.

    Each method returns None when another request has changed the document meanwhile: read it and decide again then.
    """

    store: Store
    queue: Queue

    def create(
        self,
        fields: InstanceFields | BindingFields,
        kind: Kind,
        caller: Caller,
        replaced: Instance | Binding | None,
        *,
        plan: Plan,
        body: JsonObject | None = None,
    ) -> Accepted | None:
        """Start a provision or bind.

        Args:
            fields: the fields of the new document.
            kind: the operation.
            caller: the platform and user.
            replaced: a gone or failed instance or binding of the same id, if there is one.
            plan: the plan of the instance.
            body: fields of the answer beside the operation.
        """
        new_operation = _new_operation(kind, caller, plan.new_cluster)
        operation_id = self.store.create(fields, new_operation, replaced.operation if replaced else None)
        if operation_id is None:
            return None
        binding_id = fields.get("binding_id")
        self.queue.send(JOBS[kind], [fields["instance_id"], str(binding_id) if binding_id else None, operation_id])
        return Accepted(operation_id, body or {})

    def start(
        self,
        found: Instance | Binding,
        kind: Kind,
        caller: Caller,
        request: str = "{}",
        body: JsonObject | None = None,
    ) -> Accepted | None:
        """Start an update or delete.

        Args:
            found: the instance or binding as it was when this was decided.
            kind: the operation.
            caller: the platform and user.
            request: the wanted state after an update, as canonical JSON.
            body: fields of the answer beside the operation.
        """
        new_cluster = found.plan.get("new_cluster") if isinstance(found, Instance) else None
        new_operation = _new_operation(kind, caller, new_cluster, request)
        phase = Phase.READY if kind is Kind.UPDATE else Phase.DELETING
        operation_id = self.store.start(found.key, found.operation, new_operation, phase)
        if operation_id is None:
            return None
        binding_id = found.binding_id if isinstance(found, Binding) else None
        self.queue.send(JOBS[kind], [found.instance_id, binding_id, operation_id])
        return Accepted(operation_id, body or {})


def _new_operation(kind: Kind, caller: Caller, new_cluster: object, request: str = "{}") -> NewOperation:
    """Return an operation, which has more time where it may wait for a cluster that the plan makes."""
    seconds = NEW_CLUSTER_SECONDS if new_cluster else OPERATION_SECONDS
    return NewOperation(kind, request, caller.identity, caller.request_id, tracing.traceparent(), seconds)
