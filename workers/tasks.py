"""The Celery tasks: one for each job name. Their arguments are ids; MongoDB holds what is to be done."""

import structlog
from celery import current_task
from structlog.contextvars import bound_contextvars

from broker_api.jobs.queue import JOBS, RECONCILE
from broker_api.state.records import binding_key, instance_key
from workers.app import app, context
from workers.job_states import JobError, Sentence, to_celery
from workers.maintenance.reconcile import reconcile as compare
from workers.operations import compose_runner

log = structlog.get_logger(__name__)


def run_operation(instance_id: str, binding_id: str | None, operation_id: str) -> Sentence:
    """Run an operation of a binding, or of an instance when ``binding_id`` is None.

    Raises:
        JobError, PutOff, Ignore: As in ``to_celery``.
    """
    key = instance_key(instance_id) if binding_id is None else binding_key(instance_id, binding_id)
    ids = {"instance_id": instance_id, "binding_id": binding_id, "operation": operation_id}
    with bound_contextvars(**{name: value for name, value in ids.items() if value}):
        return to_celery(compose_runner(context()).work(key, operation_id))


for job in JOBS.values():
    app.task(name=job, throws=(JobError,), Request="workers.job_states:Request")(run_operation)


@app.task(name=RECONCILE)
def reconcile(run: str) -> None:
    """Compare the database users in Atlas with the bindings in MongoDB, if that run is requested in MongoDB."""
    requested = context().housekeeping.take_reconciliation(run)
    if requested:
        compare(context(), repair=requested["repair"] is True, run=run)
    log.info("job_finished", job=current_task.request.id)
