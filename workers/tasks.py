"""The Celery tasks: one for each job name. Their arguments are ids; MongoDB holds what is to be done."""

import structlog
from celery import current_task
from structlog.contextvars import bound_contextvars

from broker_api.errors import ErrStorageMongoConnection
from broker_api.jobs.queue import JOBS, RECONCILE
from broker_api.state.records import binding_key, instance_key
from workers.app import app, context
from workers.job_states import JobError, Sentence, to_celery
from workers.maintenance.reconcile import ReconcileError
from workers.maintenance.reconcile import reconcile as compare
from workers.operations import compose_runner

log = structlog.get_logger(__name__)


def run_operation(instance_id: str, binding_id: str | None, operation_id: str) -> Sentence:
    """Run an operation of a binding, or of an instance when ``binding_id`` is None.

    Raises:
        JobError, Ignore: As in ``to_celery``.
    """
    key = instance_key(instance_id) if binding_id is None else binding_key(instance_id, binding_id)
    ids = {"instance_id": instance_id, "binding_id": binding_id, "operation": operation_id}
    ids["job"] = current_task.request.id  # not the operation's id if another client than the broker has sent it
    with bound_contextvars(**{name: value for name, value in ids.items() if value}):
        return to_celery(compose_runner(context()).work(key, operation_id))


for job in JOBS.values():
    app.task(name=job, throws=(JobError,), Request="workers.job_states:Request")(run_operation)


@app.task(name=RECONCILE, throws=(JobError,), Request="workers.job_states:Request")
def reconcile(run: str) -> Sentence:
    """Compare the users and clusters in Atlas with the records in MongoDB, if MongoDB has a request for this run.

    Raises:
        JobError: A project could not be compared, or MongoDB cannot be used.
    """
    sentence, failure = "Nothing to do: this run is not requested.", None
    try:
        if requested := context().housekeeping.take_reconciliation(run):
            sentence = compare(context(), repair=requested["repair"] is True, run=run)
    except ReconcileError as error:
        failure = str(error)
    except ErrStorageMongoConnection as error:
        failure = f"MongoDB cannot be used: {error.reason}."
    log.info("job_finished", job=current_task.request.id, outcome="failed" if failure else "succeeded")
    if failure:
        raise JobError(failure)
    return Sentence(sentence)
