"""``atlas.provision``: the cluster exists and can be used, the database's name is settled and claimed.

The name is kept with the instance before it is claimed, so that whatever ends the operation finds the claim to undo.
"""

from dataclasses import replace

from broker_api.errors import ErrClusterNotFound
from broker_api.naming import MAX_DATABASE_BYTES, MAX_SHARED_TIER_DATABASE_BYTES, database_problem
from broker_api.state.records import Instance, Phase
from workers import databases
from workers.atlas.client import AtlasClient, AtlasError, Cluster, Refused
from workers.connections import strings, trouble
from workers.hooks import called
from workers.job import Job, instance_view
from workers.outcome import Done, FailedError, HeldBackError, Later, Next, Outcome, Steps

CREATING_SECONDS = 15.0
SHARED_SECONDS = 2.0


def find_cluster(job: Job[Instance]) -> Outcome:
    """Find the cluster in the projects that may hold it, and settle which database on it is meant."""
    client, cluster = _cluster(job)
    if wait := _usable(cluster):
        return wait
    strings(cluster, job.way_to_connect(job.record))
    job.parts.connections.keep(client.project_id, cluster)
    settled = {"project": client.project_id, "cluster": cluster.name, "database": _database(job, cluster)}
    instance = job.record.model_copy(update=settled)
    owned = databases.examine(job, client, cluster, instance)
    if _being_dropped(job, instance):
        return _wait_for_drop(instance)
    return Next("claim", {**settled, "owned": owned})


def claim(job: Job[Instance]) -> Outcome:
    """Claim the database, and be done. What others did meanwhile is seen here, and examined again."""
    instance = job.record
    known = job.parts.connections.known(job.atlas, job.cluster, job.way_to_connect(instance))
    claimed = job.parts.databases.claim(databases.wanted(job))
    if databases.is_dropping(job, claimed):
        return _wait_for_drop(instance)
    if instance.instance_id not in claimed.users:
        return Next("")
    owned = claimed.owned and claimed.owner == instance.owner
    sentence = f"The database {instance.database} is ready on {instance.cluster}."
    return Done(Phase.READY, sentence, {"connection": known, "owned": owned})


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
    """Ask the hook, which sees the parameters and how long a name may be."""
    limit = MAX_DATABASE_BYTES if cluster.kind == "dedicated" else MAX_SHARED_TIER_DATABASE_BYTES
    instance = job.record.model_copy(update={"cluster": cluster.name, "database": None})
    view = replace(instance_view(job.config, instance), database_limit=limit)
    name = called("generate_instance_dbname", lambda: job.config.generate_instance_dbname(view))
    if problem := database_problem(name):
        raise FailedError(problem, refused=True)
    if len(name.encode()) > limit:
        raise FailedError(
            f"The database name {name} is too long for the {cluster.kind} cluster {cluster.name}: Atlas allows {limit} "
            "bytes there. Choose a shorter name.",
            refused=True,
        )
    return name


def _being_dropped(job: Job[Instance], instance: Instance) -> bool:
    """Say whether another instance is about to drop the very database: what is written now would be lost."""
    return any(
        other.phase is Phase.DELETING and other.parameters.get("policy-on-delete") == "drop" and other.owns_database
        for other in job.parts.store.sharing(instance)
    )


def _wait_for_drop(instance: Instance) -> Later:
    why = f"Waiting until the database {instance.database} has been dropped."
    return Later(SHARED_SECONDS, why, operation={"step": ""})


def give_up(job: Job[Instance]) -> Outcome:
    """Nothing was made in Atlas; give the database's name back."""
    if job.record.database:
        job.parts.databases.withdraw(job.record)
    return Done(Phase.FAILED, "")


STEPS: Steps = {"": find_cluster, "claim": claim}
UNDO: Steps = {"": give_up}
