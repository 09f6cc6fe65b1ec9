"""The databases that Atlas lists on a cluster. It lists none on free and Flex clusters, and keys may lack the role."""

import re
from collections import defaultdict
from http import HTTPStatus

import structlog
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from workers.atlas.client import AtlasClient, AtlasError, Cluster, Process, Refused, UnreadableAnswer
from workers.clusters.connection_strings import DEFAULT_PORT

MONGOS = "SHARD_MONGOS"
NO_DATA = "NO_DATA"
_NODE = re.compile(r"-(shard|config)-\d+-\d+(?=\.)")

log = structlog.get_logger(__name__)
_logged: set[tuple[str, str]] = set()
"""Project and name of the clusters for which ``databases_not_listed`` has been logged."""


def list_databases(client: AtlasClient, cluster: Cluster) -> frozenset[str] | None:
    """Return the names of the databases on a cluster.

    Returns:
        The names; None when Atlas does not list them, as on free and Flex clusters or when the key lacks the role.

    Raises:
        AtlasError: Atlas cannot be asked now.
    """
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
    """Return None when Atlas refuses: it may know the process by another name than the connection string does."""
    try:
        return frozenset(client.databases(host, port))
    except AtlasError as error:
        if not _is_final(error):
            raise
        return None


def _of_cluster(client: AtlasClient, cluster: Cluster, hosts: list[tuple[str, int]]) -> frozenset[str] | None:
    """Return the databases of all shards, since an unsharded database is on one shard only.

    One mongod of each shard is asked, and one of the config servers, which may hold databases too.
    """
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
    """Return whether a process belongs to a cluster.

    The connection string of a sharded cluster has the ports of its mongos, so its processes are known by host only.
    """
    names = {name for name in (process.host, process.alias) if name}
    if not cluster.sharded:
        return any((name, process.port) in hosts for name in names)
    return not {_NODE.sub("", name) for name in names}.isdisjoint(_NODE.sub("", host) for host, _ in hosts)


def _is_final(error: AtlasError) -> bool:
    """Return whether a retry cannot help: Atlas answers 4xx, not because of the credentials or a rate limit."""
    if isinstance(error, Refused) and error.retryable:
        return False
    status = error.status if isinstance(error, Refused | UnreadableAnswer) else 0
    return status in range(400, 500) and status != HTTPStatus.TOO_MANY_REQUESTS


def _not_listed(client: AtlasClient, cluster: Cluster, reason: str) -> frozenset[str] | None:
    """Return None; log once for each cluster that its databases are not known."""
    if (client.project_id, cluster.name) not in _logged:
        _logged.add((client.project_id, cluster.name))
        log.warning("databases_not_listed", project=client.project_id, cluster=cluster.name, reason=reason)
    return None
