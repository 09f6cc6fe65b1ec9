"""``atlas.deprovision`` of an instance with a cluster of its own: terminates the cluster, or retains it."""

from enum import StrEnum

from broker_api.catalog.cluster_plans import policy_on_delete
from broker_api.state.fields import InstanceFields
from broker_api.state.records import Instance, Phase
from workers.atlas.client import AtlasError
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, HeldBackError, Next, Result
from workers.operations.access import withdraw_access
from workers.operations.atlas_job import AtlasJob
from workers.operations.deprovision import remove_bindings
from workers.operations.own_cluster import is_own_cluster, look, not_own, protected, terminate


class Step(StrEnum):
    """check → unbind → (terminate cluster →) finish; undo: give up."""

    CHECK = "check"
    UNBIND = "unbind"
    TERMINATE_CLUSTER = "terminate cluster"
    FINISH = "finish"
    GIVE_UP = "give up"


def check(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Refuse at once what Atlas would refuse at the end: a cluster with termination protection."""
    if job.record.was_ready and not _retains(job) and (cluster := look(job)):
        if not is_own_cluster(job, cluster):
            raise not_own(job)
        if cluster.termination_protection:
            raise protected(job)
    return Next(Step.UNBIND)


def unbind(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the bindings of the instance first."""
    return remove_bindings(job) or Next(Step.FINISH if _retains(job) else Step.TERMINATE_CLUSTER)


def terminate_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Terminate the cluster, also one that is still being created, and wait until it is gone."""
    return terminate(job, was_ready=job.record.was_ready) or Next(Step.FINISH)


def finish(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the access, end the reservation of the database, and end the operation."""
    if wait := withdraw_access(job):
        return wait
    retained, record = _retains(job), job.record
    if record.database and retained:
        job.context.reservations.leave(record)
    elif record.database:
        job.context.reservations.withdraw(record)
    if record.cluster:
        job.context.cluster_polls.forget(job.project, job.cluster)
    sentence = f"The instance is gone; its cluster {job.cluster} was retained." if retained else "The instance is gone."
    return Done(Phase.GONE, sentence, {"unsure_until": None})


def give_up(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Keep the instance; the platform can ask for its removal again. Bindings that are gone do not come back."""
    if not job.record.was_ready:
        return Done(Phase.DELETING if job.record.cluster_operation else Phase.FAILED, "")
    phase, lives = Phase.READY, [job.operation.steps, *(past.steps for past in job.record.past)]
    if any(Step.TERMINATE_CLUSTER in steps for steps in lives):
        try:
            cluster = look(job)
        except (AtlasError, HeldBackError, FailedError):  # it may be going
            cluster = None
        phase = Phase.DELETING if cluster is None or cluster.state == "DELETING" else phase
    return Done(phase, "")


def _retains(job: AtlasJob[Instance]) -> bool:
    """Return whether the cluster stays. The policy is for a cluster that was ready; a creation is always stopped."""
    record = job.record
    return record.was_ready and policy_on_delete(record.new_cluster or {}, record.parameters) == "retain"


DEPROVISION_CLUSTER = Definition[Instance](
    steps={
        Step.CHECK: check,
        Step.UNBIND: unbind,
        Step.TERMINATE_CLUSTER: terminate_cluster,
        Step.FINISH: finish,
    },
    undo={Step.GIVE_UP: give_up},
)
