"""The Celery tasks: one for each job name. Their arguments are ids; MongoDB holds the operation.

Further arguments, which a newer release may send, are ignored.
"""

from broker_api.jobs.queue import JOBS, RECONCILE
from broker_api.state.records import binding_key, instance_key
from workers.app import app, context
from workers.maintenance.reconcile import reconcile as compare
from workers.operations import compose_runner


def run_operation(instance_id: str, binding_id: str | None, operation_id: str, *_: object, **__: object) -> None:
    """Run an operation of a binding, or of an instance when ``binding_id`` is None."""
    key = instance_key(instance_id) if binding_id is None else binding_key(instance_id, binding_id)
    compose_runner(context()).work(key, operation_id)


for job in JOBS.values():
    app.task(name=job)(run_operation)


@app.task(name=RECONCILE)
def reconcile(*_: object, repair: bool = False, run: str = "", **__: object) -> None:
    """Compare the database users in Atlas with the bindings in MongoDB.

    Args:
        repair: Also remove the users without a binding, and create the users that are missing.
        run: The id by which a command finds the result.
    """
    compare(context(), repair=repair, run=run)
