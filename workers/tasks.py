"""One thin function for each job name. Arguments are ids; what there is to do stands in MongoDB.

Further arguments, which a newer release may send, are ignored.
"""

from structlog.contextvars import bound_contextvars

from broker_api.queue import JOBS, RECONCILE
from broker_api.state.records import Kind, binding_key, instance_key
from workers.app import app, parts
from workers.reconcile import reconcile as compare
from workers.run import work


@app.task(name=JOBS[Kind.PROVISION])  # type: ignore[untyped-decorator]
def provision(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Go on with the provision of an instance."""
    _work(instance_key(instance_id), operation_id, instance_id)


@app.task(name=JOBS[Kind.UPDATE])  # type: ignore[untyped-decorator]
def update(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Go on with the update of an instance."""
    _work(instance_key(instance_id), operation_id, instance_id)


@app.task(name=JOBS[Kind.DEPROVISION])  # type: ignore[untyped-decorator]
def deprovision(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Go on with the deprovision of an instance."""
    _work(instance_key(instance_id), operation_id, instance_id)


@app.task(name=JOBS[Kind.BIND])  # type: ignore[untyped-decorator]
def bind(instance_id: str, binding_id: str, operation_id: str, *_: object, **__: object) -> None:
    """Go on with a bind."""
    _work(binding_key(instance_id, binding_id), operation_id, instance_id, binding_id)


@app.task(name=JOBS[Kind.UNBIND])  # type: ignore[untyped-decorator]
def unbind(instance_id: str, binding_id: str, operation_id: str, *_: object, **__: object) -> None:
    """Go on with an unbind."""
    _work(binding_key(instance_id, binding_id), operation_id, instance_id, binding_id)


@app.task(name=RECONCILE)  # type: ignore[untyped-decorator]
def reconcile(*_: object, repair: bool = False, **__: object) -> None:
    """Compare Atlas's users with the bindings; with ``repair`` put right what differs."""
    compare(parts(), repair=repair)


def _work(key: str, operation_id: str, instance_id: str, binding_id: str | None = None) -> None:
    about = {"instance_id": instance_id, "operation": operation_id}
    with bound_contextvars(**about, **({"binding_id": binding_id} if binding_id else {})):
        work(parts(), key, operation_id)
