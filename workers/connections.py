"""How to connect to each cluster: read from Atlas when an instance is provisioned, and again when that is long ago."""

import json
from urllib.parse import urlsplit

from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, In, assignments, expression, reaching
from broker_api.state.records import EPOCH
from workers.atlas.client import AtlasClient, AtlasError, Cluster
from workers.outcome import ClusterGoneError, FailedError

REFRESH_SECONDS = 60
"""What is known of a cluster is read again after this, by one bind for all."""

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
        # One that cannot be used now is looked at again at each bind: somebody may resume it.
        read_again = In(0 if trouble(cluster) else REFRESH_SECONDS)
        known = {"ways": ways, "trouble": trouble(cluster), "read_again": read_again}
        self._housekeeping.write(_name(project, cluster.name), known)

    def known(self, client: AtlasClient, cluster: str, way: str) -> Strings:
        """Give a cluster's strings, after reading them again where they are old and Atlas answers.

        Raises:
            FailedError: the cluster has none of this kind, or cannot be used now.
            ClusterGoneError: it is gone.
        """
        name = _name(client.project_id, cluster)
        held = self._housekeeping.read(name)
        if "ways" not in held or self._take_refresh(name):
            self._refresh(client, cluster, needed="ways" not in held)
            held = self._housekeeping.read(name)
        if problem := held.get("trouble"):
            raise FailedError(problem)
        return _some(json.loads(held.get("ways") or "{}").get(way) or {}, cluster, way)

    def _refresh(self, client: AtlasClient, cluster: str, *, needed: bool) -> None:
        """Read a cluster again. What is known already serves while Atlas cannot be asked."""
        try:
            self.keep(client.project_id, client.cluster(cluster))
        except AtlasError as error:
            if error.cluster_missing:
                self._housekeeping.write(_name(client.project_id, cluster), {"read_again": In(0)})
                raise ClusterGoneError(cluster) from None
            if needed:
                raise

    @reaching("refresh a connection")
    def _take_refresh(self, name: str) -> bool:
        old = {"_id": name, "$expr": {"$lte": [{"$ifNull": ["$read_again", expression(EPOCH)]}, NOW]}}
        taken = [{"$set": assignments({"read_again": In(REFRESH_SECONDS)})}]
        return self._documents.update_one(old, taken).modified_count == 1


def trouble(cluster: Cluster) -> str | None:
    """Say in a sentence why a cluster cannot be used; None when it can, or soon will."""
    if cluster.state == "DELETING":
        return f"The cluster {cluster.name} is being deleted."
    return f"The cluster {cluster.name} is paused; resume it first." if cluster.paused else None


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
