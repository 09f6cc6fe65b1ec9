"""The processes of dedicated clusters, and the databases that monitoring has seen in each."""

from tests.emulator.bodies import VERSION, connection_strings, link
from tests.emulator.errors import ApiError
from tests.emulator.model import Cluster, Json, Project, wire_time
from tests.emulator.paging import page
from tests.emulator.routes import Asked

MONGOD_PORT = 27017


def list_processes(asked: Asked) -> Json:
    """Clusters that share a mongod share its process."""
    with asked.atlas.lock:
        found = {_id(process): process for cluster in _monitored(asked.group) for process in _processes(cluster)}
        return page(asked, list(found.values()), lambda process: _body(asked, process))


def list_databases(asked: Asked) -> Json:
    """Of all clusters that the process belongs to, since there may be several here."""
    asked_for = asked.names["processId"]
    with asked.atlas.lock:
        owners = [
            (cluster, process)
            for cluster in asked.group.clusters.values()
            for process in _processes(cluster)
            if _id(process) == asked_for
        ]
        hidden = asked.atlas.hidden_databases
    if not owners:
        raise ApiError("RESOURCE_NOT_FOUND", asked.request.path)
    told = [(cluster, process) for cluster, process in owners if cluster.kind == "dedicated"]
    if not told or any(process["typeName"] == "SHARD_MONGOS" for _, process in told):
        raise ApiError("CLUSTER_HAS_NO_DATABASES_TO_TELL")
    names = {name for cluster, process in told for name in _databases(asked, cluster, process)}
    home = f"{_home(asked)}/{asked_for}/databases"
    return page(asked, sorted(names - hidden), lambda name: {"databaseName": name, "links": [link(f"{home}/{name}")]})


def _databases(asked: Asked, cluster: Cluster, process: Json) -> list[str]:
    given: list[str] | None = process.get("databases")
    return asked.deployment.databases(cluster) if given is None else given


def _monitored(project: Project) -> list[Cluster]:
    return [cluster for cluster in project.clusters.values() if cluster.kind == "dedicated"]


def _processes(cluster: Cluster) -> list[Json]:
    """Those set, or one for each host of the standard connection string, the first of which is the primary."""
    if cluster.processes is not None:
        return cluster.processes
    hosts = connection_strings(cluster).get("standard", "").partition("://")[2].partition("/")[0]
    return [
        {
            "hostname": host.rpartition(":")[0] or host,
            "port": int(host.rpartition(":")[2]) if ":" in host else MONGOD_PORT,
            "typeName": "REPLICA_SECONDARY" if number else "REPLICA_PRIMARY",
            "replicaSetName": f"atlas-{cluster.name}-shard-0",
        }
        for number, host in enumerate(hosts.split(",") if hosts else ())
    ]


def _id(process: Json) -> str:
    return f"{process['hostname']}:{process['port']}"


def _home(asked: Asked) -> str:
    return f"{asked.root}/groups/{asked.group.id}/processes"


def _body(asked: Asked, process: Json) -> Json:
    created = wire_time(asked.group.created)
    own = {name: value for name, value in process.items() if name != "databases"}
    return {
        "created": created,
        "groupId": asked.group.id,
        "id": _id(process),
        "lastPing": created,
        "links": [link(f"{_home(asked)}/{_id(process)}")],
        "userAlias": process["hostname"],
        "version": VERSION,
        **own,
    }
