"""``atlas.provision``: the cluster exists and can be used, the database's name is settled, connection strings kept."""

from broker_api.errors import ErrClusterNotFound
from broker_api.naming import database_problem
from broker_api.state.records import Instance, Phase
from workers.atlas.client import AtlasClient, AtlasError, Cluster, Refused
from workers.connections import strings, trouble
from workers.hooks import called
from workers.job import Job, instance_view
from workers.outcome import Done, FailedError, HeldBackError, Later, Outcome, Steps

CREATING_SECONDS = 15.0
SHARED_SECONDS = 2.0


def find_cluster(job: Job[Instance]) -> Outcome:
    """Find the cluster in the projects that may hold it, settle the database's name, and be done."""
    client, cluster = _cluster(job)
    if wait := _usable(cluster):
        return wait
    known = strings(cluster, job.way_to_connect(job.record))
    job.parts.connections.keep(client.project_id, cluster)
    settled = {"project": client.project_id, "cluster": cluster.name, "database": _database(job, cluster)}
    if _being_dropped(job, settled):
        return Later(SHARED_SECONDS, f"Waiting until the database {settled['database']} has been dropped.", settled)
    return Done(
        Phase.READY, f"The database {settled['database']} is ready on {cluster.name}.", {**settled, "connection": known}
    )


def _cluster(job: Job[Instance]) -> tuple[AtlasClient, Cluster]:
    name = job.plan_of(job.record).cluster or job.record.parameters.get(job.config.PARAMETER_CLUSTER, "")
    found, troubles = _search(_candidates(job), name)
    if not found and troubles:
        raise troubles[0]
    if not found:
        raise FailedError(str(ErrClusterNotFound(name)), refused=True)
    if len(found) > 1:
        several = ", ".join(client.project_id for client, _ in found)
        raise FailedError(
            f"Several Atlas projects have a cluster {name}: {several}. Name one as project.", refused=True
        )
    return found[0]


def _candidates(job: Job[Instance]) -> list[AtlasClient]:
    wanted = job.plan_of(job.record).project or job.record.parameters.get("project")
    clients = job.parts.projects
    if wanted and wanted not in clients:
        raise FailedError(f"The broker has no credentials for the Atlas project {wanted}.", refused=True)
    return [clients[wanted]] if wanted else list(clients.values())


def _search(
    clients: list[AtlasClient], name: str
) -> tuple[list[tuple[AtlasClient, Cluster]], list[AtlasError | HeldBackError]]:
    """Look in all projects; one whose key is wrong does not hide the cluster of another."""
    found: list[tuple[AtlasClient, Cluster]] = []
    troubles: list[AtlasError | HeldBackError] = []
    for client in clients:
        try:
            found += [pair] if (pair := _look(client, name)) else []
        except (AtlasError, HeldBackError) as error:
            troubles.append(error)
    return found, troubles


def _look(client: AtlasClient, name: str) -> tuple[AtlasClient, Cluster] | None:
    try:
        return client, client.cluster(name)
    except Refused as error:
        if error.cluster_missing:
            return None
        raise


def _usable(cluster: Cluster) -> Later | None:
    if problem := trouble(cluster):
        raise FailedError(problem, refused=True)
    if cluster.state == "CREATING":
        return Later(CREATING_SECONDS, f"Waiting until the cluster {cluster.name} has been created.")
    return None


def _database(job: Job[Instance], cluster: Cluster) -> str:
    given = job.record.parameters.get(job.config.PARAMETER_DATABASE)
    view = instance_view(job.config, job.record.model_copy(update={"cluster": cluster.name}))
    name = given or called("generate_instance_dbname", lambda: job.config.generate_instance_dbname(view))
    if problem := database_problem(name):
        raise FailedError(problem, refused=True)
    return name


def _being_dropped(job: Job[Instance], settled: dict[str, str]) -> bool:
    """Say whether another instance is about to drop the very database: what is written now would be lost."""
    mine = job.record.model_copy(update=settled)
    return any(
        other.phase is Phase.DELETING and other.parameters.get("policy-on-delete") == "drop"
        for other in job.parts.store.sharing(mine)
    )


def give_up(_job: Job[Instance]) -> Outcome:
    """Nothing was made in Atlas."""
    return Done(Phase.FAILED, "")


STEPS: Steps = {"": find_cluster}
UNDO: Steps = {"": give_up}
