"""One function for each job name. The arguments are ids; MongoDB has the operation.

More arguments, which a newer release may send, are ignored.
"""

from broker_api.jobs.queue import JOBS, RECONCILE
from broker_api.state.records import Kind, binding_key, instance_key
from workers.app import app, context, runner
from workers.maintenance.reconcile import reconcile as compare


@app.task(name=JOBS[Kind.PROVISION])
def provision(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Run the provision of an instance."""
    runner().work(instance_key(instance_id), operation_id)


@app.task(name=JOBS[Kind.UPDATE])
def update(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Run the update of an instance."""
    runner().work(instance_key(instance_id), operation_id)


@app.task(name=JOBS[Kind.DEPROVISION])
def deprovision(instance_id: str, _binding_id: None, operation_id: str, *_: object, **__: object) -> None:
    """Run the deprovision of an instance."""
    runner().work(instance_key(instance_id), operation_id)


@app.task(name=JOBS[Kind.BIND])
def bind(instance_id: str, binding_id: str, operation_id: str, *_: object, **__: object) -> None:
    """Run a bind."""
    runner().work(binding_key(instance_id, binding_id), operation_id)


@app.task(name=JOBS[Kind.UNBIND])
def unbind(instance_id: str, binding_id: str, operation_id: str, *_: object, **__: object) -> None:
    """Run an unbind."""
    runner().work(binding_key(instance_id, binding_id), operation_id)


@app.task(name=RECONCILE)
def reconcile(*_: object, repair: bool = False, **__: object) -> None:
    """Compare Atlas's users with the bindings; with ``repair`` correct the differences."""
    compare(context(), repair=repair)
