"""How to connect to each cluster: read from Atlas when an instance is provisioned, and again when that is long ago."""

import json
from urllib.parse import urlsplit

from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, In, assignments, expression, reaching
from broker_api.state.records import EPOCH
from workers.atlas.client import AtlasClient, AtlasError, Cluster
from workers.outcome import FailedError

REFRESH_SECONDS = 300
"""Connection strings older than this are read again, by one bind for all."""

STANDARD, PRIVATE, PRIVATE_ENDPOINT = "standard", "private", "private-endpoint"
DEFAULT_PORT = 27017

Strings = dict[str, str]
"""``standard`` and ``srv``, as far as the cluster has them."""


class Connections:
    """The documents ``connection/<project>/<cluster>`` beside the instances, one for each way to connect."""

    def __init__(self, housekeeping: Housekeeping) -> None:
        self._housekeeping = housekeeping
        self._documents = housekeeping.collection

    def keep(self, project: str, cluster: Cluster) -> None:
        """Remember how to connect to a cluster, in all ways that it has."""
        ways = {way: _strings(cluster, way) for way in (STANDARD, PRIVATE, PRIVATE_ENDPOINT)}
        self._housekeeping.write(_name(project, cluster.name), {"ways": ways, "read_again": In(REFRESH_SECONDS)})

    def known(self, client: AtlasClient, cluster: str, way: str) -> Strings:
        """Give a cluster's strings, after reading them again where they are old and Atlas answers."""
        name = _name(client.project_id, cluster)
        held = self._housekeeping.read(name).get("ways")
        if held is None or self._take_refresh(name):
            try:
                self.keep(client.project_id, client.cluster(cluster))
            except AtlasError:
                if held is None:
                    raise
        ways = json.loads(self._housekeeping.read(name).get("ways") or "{}")
        return _some(ways.get(way) or {}, cluster, way)

    @reaching("refresh a connection")
    def _take_refresh(self, name: str) -> bool:
        old = {"_id": name, "$expr": {"$lte": [{"$ifNull": ["$read_again", expression(EPOCH)]}, NOW]}}
        taken = [{"$set": assignments({"read_again": In(REFRESH_SECONDS)})}]
        return self._documents.update_one(old, taken).modified_count == 1


def strings(cluster: Cluster, way: str) -> Strings:
    """Give a cluster's strings for one way to connect.

    Raises:
        FailedError: the cluster has none of this kind.
    """
    return _some(_strings(cluster, way), cluster.name, way)


def _some(found: Strings, cluster: str, way: str) -> Strings:
    if not found:
        raise FailedError(f"The cluster {cluster} has no {way} connection string.", refused=True)
    return found


def _strings(cluster: Cluster, way: str) -> Strings:
    held = cluster.connection_strings
    endpoint = held.private_endpoints[0] if held.private_endpoints else None
    pairs = {
        STANDARD: (held.standard, held.srv),
        PRIVATE: (held.private, held.private_srv),
        PRIVATE_ENDPOINT: (endpoint and endpoint.standard, endpoint and endpoint.srv),
    }
    standard, srv = pairs[way]
    return {name: value for name, value in (("standard", standard), ("srv", srv)) if value}


def endpoints(known: Strings) -> list[dict[str, object]]:
    """Give the hosts of a connection string as OSB endpoints; ports are strings there (spec: Endpoint Object)."""
    if "standard" not in known:
        host = urlsplit(known["srv"]).hostname or ""
        return [{"host": host, "ports": [str(DEFAULT_PORT)], "protocol": "tcp"}]
    try:
        nodes = parse_uri(known["standard"], validate=False, warn=False)["nodelist"]
    except (InvalidURI, ConfigurationError, ValueError):
        return []
    return [{"host": host, "ports": [str(port or DEFAULT_PORT)], "protocol": "tcp"} for host, port in nodes]


def _name(project: str, cluster: str) -> str:
    return f"connection/{project}/{cluster}"
