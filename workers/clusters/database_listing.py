"""Which databases Atlas lists on a cluster. It lists none of free and Flex clusters, and keys may lack the role."""

import re
from collections import defaultdict
from http import HTTPStatus

import structlog
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from workers.atlas.client import AtlasClient, AtlasError, Cluster, Process, Refused, UnreadableAnswer

MONGOS = "SHARD_MONGOS"
NO_DATA = "NO_DATA"
DEFAULT_PORT = 27017
_NODE = re.compile(r"-(shard|config)-\d+-\d+(?=\.)")

log = structlog.get_logger(__name__)
_logged: set[tuple[str, str]] = set()
"""The clusters, with their projects, that ``databases_not_listed`` was logged of."""


def list_databases(client: AtlasClient, cluster: Cluster) -> frozenset[str] | None:
    """Return the databases that Atlas lists on a cluster; None where it lists none, as on free and Flex clusters."""
    if cluster.kind != "dedicated":
        return None
    try:
        hosts = parse_uri(cluster.connection_strings.standard or "", validate=False, warn=False)["nodelist"]
    except (InvalidURI, ConfigurationError, ValueError):
        hosts = []
    hosts = [(host, port or DEFAULT_PORT) for host, port in hosts]
    if not hosts:
        return _not_listed(client, cluster, "it has no standard connection string")
    try:
        listed = None if cluster.sharded else _of_process(client, *hosts[0])
        return _of_cluster(client, cluster, hosts) if listed is None else listed
    except AtlasError as error:
        if not _is_final(error):
            raise
        return _not_listed(client, cluster, str(error))


def _of_process(client: AtlasClient, host: str, port: int) -> frozenset[str] | None:
    """None when Atlas says no: it may know the process by another name than the connection string has."""
    try:
        return frozenset(client.databases(host, port))
    except AtlasError as error:
        if not _is_final(error):
            raise
        return None


def _of_cluster(client: AtlasClient, cluster: Cluster, hosts: list[tuple[str, int]]) -> frozenset[str] | None:
    """Ask one mongod of each shard: an unsharded database is on one of them only. Config servers may hold some, too."""
    shards: dict[str | None, list[Process]] = defaultdict(list)
    for process in client.processes():
        if process.kind not in (MONGOS, NO_DATA) and _belongs_to(process, cluster, hosts):
            shards[process.replica_set].append(process)
    if not shards:
        return _not_listed(client, cluster, "no process of the cluster is listed")
    found: set[str] = set()
    for processes in shards.values():
        primary = next((each for each in processes if (each.kind or "").endswith("PRIMARY")), processes[0])
        listed = _of_process(client, primary.host, primary.port)
        if listed is None and "CONFIG" not in (primary.kind or ""):
            return _not_listed(client, cluster, f"the databases of {primary.host} are not listed")
        found.update(listed or ())
    return frozenset(found)


def _belongs_to(process: Process, cluster: Cluster, hosts: list[tuple[str, int]]) -> bool:
    """Return whether a process is the cluster's. The connection string of a sharded one has the ports of its mongos."""
    names = {name for name in (process.host, process.alias) if name}
    if not cluster.sharded:
        return any((name, process.port) in hosts for name in names)
    return not {_NODE.sub("", name) for name in names}.isdisjoint(_NODE.sub("", host) for host, _ in hosts)


def _is_final(error: AtlasError) -> bool:
    """Return whether a retry cannot help: Atlas refuses, and neither is it in trouble nor is the key refused."""
    if isinstance(error, Refused) and error.retryable:
        return False
    status = error.status if isinstance(error, Refused | UnreadableAnswer) else 0
    return status in range(400, 500) and status != HTTPStatus.TOO_MANY_REQUESTS


def _not_listed(client: AtlasClient, cluster: Cluster, reason: str) -> frozenset[str] | None:
    """Return None, after logging once for each cluster that its databases are not known."""
    if (client.project_id, cluster.name) not in _logged:
        _logged.add((client.project_id, cluster.name))
        log.warning("databases_not_listed", project=client.project_id, cluster=cluster.name, reason=reason)
    return None
