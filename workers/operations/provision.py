"""``atlas.provision`` of a database on a cluster that exists: finds the cluster, reserves the database.

The plan's ``access_list`` is added to the project.
"""

from enum import StrEnum

from broker_api.errors import ErrClusterNotFound
from broker_api.state.fields import InstanceFields
from broker_api.state.records import Instance, Phase
from workers.atlas.client import AtlasClient, AtlasError, Cluster, ClusterNotFound
from workers.clusters.connection_strings import strings_of, why_unusable
from workers.clusters.user_limit import learn_limit
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, HeldBackError, Later, Next, Result
from workers.operations.access import allow_access, wait_for_access, withdraw_access
from workers.operations.atlas_job import AtlasJob
from workers.operations.database_drop import another_drops, another_will_drop
from workers.operations.database_ownership import check_database, chosen_database, reservation_request

CREATING_SECONDS = 15.0
DROP_LOOK_SECONDS = 2.0


class Step(StrEnum):
    """find cluster → reserve database → (allow access → wait for access); undo: withdraw access → reservation."""

    FIND_CLUSTER = "find cluster"
    RESERVE_DATABASE = "claim"
    ALLOW_ACCESS = "allow access"
    WAIT_FOR_ACCESS = "wait for access"
    WITHDRAW_ACCESS = "withdraw access"
    WITHDRAW_RESERVATION = "withdraw"


def find_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Find the cluster in the projects that may have it, and choose the name of the database.

    The name is stored with the instance before it is reserved, so that the undo step finds the reservation.
    """
    client, cluster = _cluster(job)
    if problem := why_unusable(cluster):
        raise FailedError(problem, refused=True)
    if job.context.store.instance_of_cluster(client.project_id, cluster.name):
        raise FailedError(
            f"The cluster {cluster.name} was made for another instance alone. Choose another one.", refused=True
        )
    if cluster.state == "CREATING":
        return Later(CREATING_SECONDS, f"Waiting until the cluster {cluster.name} has been created.")
    strings_of(cluster, job.connection_choice(job.record))
    job.context.connection_strings.store(client.project_id, cluster)
    learn_limit(job.context.housekeeping, client)
    database = chosen_database(job, cluster.name, cluster.kind)
    settled = InstanceFields(project=client.project_id, cluster=cluster.name, database=database)
    instance = job.record.model_copy(update=settled)
    settled["owned"] = check_database(job, client, cluster, instance)
    if another_will_drop(job, instance):
        return _wait_for_drop(instance)
    return Next(Step.RESERVE_DATABASE, settled)


def reserve_database(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Reserve the database; begin again if another instance was faster."""
    instance = job.record
    known = job.connection_strings(instance)
    reserved = job.context.reservations.reserve(reservation_request(job))
    if another_drops(job, reserved):
        return _wait_for_drop(instance)
    if instance.instance_id not in reserved.instance_ids:
        return Next(Step.FIND_CLUSTER)
    owned = reserved.owned and reserved.owner == instance.owner
    if job.plan_of(instance).access_list:
        return Next(Step.ALLOW_ACCESS, {"owned": owned})
    return _ready(instance, {"connection": known, "owned": owned})


def add_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Add the entries of the plan to the access list of the project."""
    allow_access(job, job.plan_of(job.record).access_list)
    return Next(Step.WAIT_FOR_ACCESS)


def await_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until the entries are active, and end the operation."""
    if wait := wait_for_access(job, job.plan_of(job.record).access_list, Step.ALLOW_ACCESS):
        return wait
    return _ready(job.record, {"connection": job.connection_strings(job.record)})


def _ready(instance: Instance, changes: InstanceFields) -> Done[InstanceFields]:
    return Done(Phase.READY, f"The database {instance.database} is ready on {instance.cluster}.", changes)


def _cluster(job: AtlasJob[Instance]) -> tuple[AtlasClient, Cluster]:
    """Return the client of the project that has the cluster, and the cluster.

    A project that cannot be asked is an error only if no other project has the cluster.

    Raises:
        FailedError: No project, or more than one, has a cluster of that name.
        AtlasError, HeldBackError: A project cannot be asked, and no other has the cluster.
    """
    record = job.record
    plan = job.plan_of(record)
    name = plan.cluster or record.parameters.get(job.config.PARAMETER_CLUSTER, "")
    wanted = plan.project or record.parameters.get("project")
    if wanted and wanted not in job.context.projects:
        raise FailedError(f"The broker has no credentials for the Atlas project {wanted}.", refused=True)
    found: list[tuple[AtlasClient, Cluster]] = []
    troubles: list[AtlasError | HeldBackError] = []
    for client in map(job.client, [wanted] if wanted else job.context.projects):
        try:
            found.append((client, client.cluster(name)))
        except ClusterNotFound:
            continue
        except (AtlasError, HeldBackError) as error:
            troubles.append(error)
    if not found and troubles:
        raise troubles[0]
    if not found:
        raise FailedError(str(ErrClusterNotFound(name)), refused=True)
    if len(found) > 1:
        several = ", ".join(client.project_id for client, _ in found)
        sentence = f"Several Atlas projects have a cluster {name}: {several}. Name one as project."
        raise FailedError(sentence, refused=True)
    return found[0]


def _wait_for_drop(instance: Instance) -> Later[InstanceFields]:
    sentence = f"Waiting until the database {instance.database} has been dropped."
    return Later(DROP_LOOK_SECONDS, sentence, step=Step.FIND_CLUSTER)


def remove_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the entries of the access list that this provision has added."""
    return withdraw_access(job) or Next(Step.WITHDRAW_RESERVATION)


def withdraw_reservation(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Withdraw the reservation of the database."""
    if job.record.database:
        job.context.reservations.withdraw(job.record)
    return Done(Phase.FAILED, "")


PROVISION = Definition[Instance](
    steps={
        Step.FIND_CLUSTER: find_cluster,
        Step.RESERVE_DATABASE: reserve_database,
        Step.ALLOW_ACCESS: add_access,
        Step.WAIT_FOR_ACCESS: await_access,
    },
    undo={Step.WITHDRAW_ACCESS: remove_access, Step.WITHDRAW_RESERVATION: withdraw_reservation},
    late_effects=frozenset({Step.ALLOW_ACCESS}),
)
