"""``atlas.provision`` of an instance with a cluster of its own: creates the cluster, and waits until Atlas has made it.

The name and the tag of the cluster are stored before Atlas is asked. If the worker crashes, or an answer is lost, the
next attempt finds the cluster by them, so that no cluster is created twice and none is forgotten.
"""

from dataclasses import replace
from enum import StrEnum

import structlog

from broker_api.errors import ErrStorageMongoConnection, ErrStorageUnreadable, TamperedError, UndecryptableError
from broker_api.naming import cluster_problem
from broker_api.state.database_reservations import ReservationRequest
from broker_api.state.fields import InstanceFields
from broker_api.state.mongo import In
from broker_api.state.records import Instance, Phase
from workers.atlas.client import AtlasError, ClusterNameTaken
from workers.clusters.connection_strings import STANDARD, strings_of, why_unusable
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, HeldBackError, Later, Next, Result
from workers.operations.access import allow_access, wait_for_access, withdraw_access
from workers.operations.atlas_job import AtlasJob
from workers.operations.config_hooks import call_hook, instance_view
from workers.operations.database_ownership import chosen_database
from workers.operations.own_cluster import (
    NO_ROOM,
    SEEN,
    is_own_cluster,
    kind_of,
    look,
    look_again,
    may_appear,
    new_cluster,
    no_room,
    not_own,
    terminate,
    wait_for_turn,
)

NAME_TAKEN_ATTEMPTS = 5
UNSEEN_SECONDS = 30
"""For how long Atlas may not show a cluster yet whose creation it has accepted."""
_REASONS = (
    AtlasError,
    HeldBackError,
    FailedError,
    ErrStorageMongoConnection,
    ErrStorageUnreadable,
    TamperedError,
    UndecryptableError,
)
"""Why a late cluster cannot be terminated at once; the next reconciliation reports it."""

log = structlog.get_logger(__name__)


class Step(StrEnum):
    """settle → (allow access → wait for access →) create → wait → reserve; undo: terminate → withdraw access."""

    SETTLE_CLUSTER = "settle cluster"
    ALLOW_ACCESS = "allow access"
    WAIT_FOR_ACCESS = "wait for access"
    CREATE_CLUSTER = "create cluster"
    WAIT_FOR_CLUSTER = "wait for cluster"
    RESERVE_DATABASE = "claim"
    TERMINATE_CLUSTER = "terminate cluster"
    WITHDRAW = "withdraw"


def settle_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Choose and store the project, the names of the cluster and the database, and the operation to tag it with."""
    record, plan = job.record, job.plan_of(job.record)
    project = plan.project or record.parameters.get("project") or next(iter(job.context.projects))
    job.client(project)
    view = replace(instance_view(job.config, record), cluster="")
    name = call_hook("generate_instance_clustername", job.config.generate_instance_clustername, view)
    if problem := cluster_problem(name):
        raise FailedError(problem)
    settled = InstanceFields(
        project=project,
        cluster=name,
        database=chosen_database(job, name, kind_of(record)),
        owned=True,
        cluster_operation=job.operation.id,
    )
    return Next(Step.ALLOW_ACCESS if plan.access_list else Step.CREATE_CLUSTER, settled)


def add_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Add the entries of the plan to the access list of the project; a refusal costs nothing before the cluster."""
    allow_access(job, job.plan_of(job.record).access_list)
    return Next(Step.WAIT_FOR_ACCESS)


def await_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until the entries are active."""
    wait = wait_for_access(job, job.plan_of(job.record).access_list, Step.ALLOW_ACCESS)
    return wait or Next(Step.CREATE_CLUSTER)


def create_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Request the creation, unless an earlier attempt has; a cluster of others with this name is not touched."""
    cluster, unseen = look(job), None
    if cluster is None:
        try:
            job.atlas.create_cluster(new_cluster(job))
        except NO_ROOM as error:
            raise no_room(job, error) from None
        except ClusterNameTaken as error:
            return _look_for_taken_name(job, error)
        log.info("cluster_requested", cluster=job.cluster, project=job.project)
        unseen = InstanceFields(unseen_until=In(UNSEEN_SECONDS))
    elif not is_own_cluster(job, cluster):
        raise not_own(job)
    job.context.cluster_polls.take(job.project, job.cluster, kind_of(job.record))  # so that the first look comes later
    return replace(look_again(job, "CREATING"), step=Step.WAIT_FOR_CLUSTER, changes=unseen)


def _look_for_taken_name(job: AtlasJob[Instance], error: ClusterNameTaken) -> Later[InstanceFields]:
    """Return a delay until the next look for a cluster that Atlas has, and did not show a moment ago."""
    attempts = job.operation.attempts + 1
    # A creation whose answer was lost may have made this very cluster.
    if "PREFIX" in error.code or (attempts > NAME_TAKEN_ATTEMPTS and not job.wait_for_late_effect()):
        raise FailedError(
            f"The Atlas project {job.project} has another cluster with the name {job.cluster}, or with the same first "
            "23 characters, which was left as it is."
        )
    return Later(1.0, f"Looking for the cluster {job.cluster}.", operation={"attempts": attempts, "error": str(error)})


def wait_for_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until Atlas has created the cluster and tells its connection strings."""
    if wait := wait_for_turn(job):
        return wait
    cluster = look(job)
    if cluster is None and may_appear(job):
        return look_again(job, "CREATING")
    if cluster is None:
        raise FailedError(f"The cluster {job.cluster} does not exist any more: it was removed while it was created.")
    if not is_own_cluster(job, cluster):
        raise not_own(job)
    if problem := why_unusable(cluster):
        raise FailedError(problem)
    choice, strings = job.connection_choice(job.record), cluster.connection_strings
    if cluster.state != "IDLE" or (choice.kind == STANDARD and not strings.standard):
        return replace(look_again(job, cluster.state), changes=_seen(job))
    strings_of(cluster, choice)
    job.context.connection_strings.store(job.project, cluster)
    return Next(Step.RESERVE_DATABASE)


def _seen(job: AtlasJob[Instance]) -> InstanceFields:
    """Return the change once Atlas shows the cluster; entries of the access list may still be in doubt.

    How often that step has run does not tell: a run that its worker has lost is not counted.
    """
    return SEEN if Step.ALLOW_ACCESS in job.operation.steps else {**SEEN, "unsure_until": None}


def reserve_database(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Reserve the database, so that it stays this owner's also when the cluster is retained, and end the operation."""
    record = job.record
    job.context.reservations.reserve(ReservationRequest(record, record.owner, owned=True))
    job.context.cluster_polls.forget(job.project, job.cluster)
    sentence = f"The cluster {job.cluster} is ready, with the database {record.database}."
    return Done(Phase.READY, sentence, {"connection": job.connection_strings(record), "unsure_until": None})


def terminate_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Terminate the cluster, if one was created, and wait until it is gone."""
    return terminate(job, was_ready=False) or Next(Step.WITHDRAW)


def withdraw(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the entries of the access list and the reservation of the database."""
    if wait := withdraw_access(job):
        return wait
    if job.record.database:
        job.context.reservations.withdraw(job.record)
        job.context.cluster_polls.forget(job.project, job.cluster)
    return Done(Phase.FAILED, "", {"unsure_until": None})


def terminate_late_cluster(job: AtlasJob[Instance]) -> None:
    """Terminate the cluster that this worker has requested after it had lost its lease, unless it is still needed."""
    if job.operation.step != Step.CREATE_CLUSTER:
        return
    try:
        now = job.context.store.get(job.record.key)
        if now and now.operation.open:  # that operation looks for the cluster itself
            return
        if isinstance(now, Instance) and now.cluster_operation == job.operation.id and now.phase is Phase.READY:
            return
        atlas = job.context.projects[job.project].guarded()  # without the lease, which is lost
        cluster = atlas.cluster(job.cluster, kind_of(job.record))
        if is_own_cluster(job, cluster):
            atlas.delete_cluster(job.cluster, cluster.kind)
            log.warning("late_cluster_terminated", cluster=job.cluster)
    except _REASONS as error:
        log.info("late_cluster_not_terminated", reason=type(error).__name__)


PROVISION_CLUSTER = Definition[Instance](
    steps={
        Step.SETTLE_CLUSTER: settle_cluster,
        Step.ALLOW_ACCESS: add_access,
        Step.WAIT_FOR_ACCESS: await_access,
        Step.CREATE_CLUSTER: create_cluster,
        Step.WAIT_FOR_CLUSTER: wait_for_cluster,
        Step.RESERVE_DATABASE: reserve_database,
    },
    undo={Step.TERMINATE_CLUSTER: terminate_cluster, Step.WITHDRAW: withdraw},
    late_effects=frozenset({Step.ALLOW_ACCESS, Step.CREATE_CLUSTER}),
    on_lease_lost=terminate_late_cluster,
)
