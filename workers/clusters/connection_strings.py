"""Connection strings of clusters: read from Atlas at the provision of an instance, and again when they are old."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import structlog
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from broker_api.errors import MissingKeyError
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import In
from broker_api.state.records import EPOCH, Place, canonical
from workers.atlas.client import AtlasClient, AtlasError, Cluster, ClusterNotFound, ConnectionStrings
from workers.engine.results import FailedError

REFRESH_SECONDS = 60
"""The age at which stored connection strings are read again; one bind does it for all."""

NAME = "connection/{}/{}"
"""The names of the documents, by project and cluster."""
MAC, MAC_FIELDS = "mac", ("ways", "endpoints", "trouble")
"""The field with the MAC of the strings, and the fields that it is of."""
STANDARD, PRIVATE, PRIVATE_ENDPOINT = "standard", "private", "private-endpoint"
DEFAULT_PORT = 27017
_PRIVATE_NETWORKS = [ip_network(each) for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]

Strings = dict[str, str]
"""Connection strings by name: ``standard`` and ``srv``; one may be absent."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Choice:
    """Which connection strings of a cluster to use. ``endpoint`` is the id or the region of a private endpoint."""

    kind: str = STANDARD
    endpoint: str | None = None


class ClusterGoneError(FailedError):
    """The record's cluster does not exist any more."""

    def __init__(self, cluster: str) -> None:
        super().__init__(f"The cluster {cluster} does not exist any more.")


@dataclass(frozen=True)
class ConnectionStringCache:
    """The documents ``connection/<project>/<cluster>`` beside the instances, shared by all workers."""

    housekeeping: Housekeeping

    def store(self, project: str, cluster: Cluster) -> Mapping[str, Any]:
        """Store all connection strings of a cluster and, if the cluster cannot be used, the reason.

        Returns:
            The stored document.
        """
        problem = why_unusable(cluster)
        # A cluster that cannot be used is read again at each bind, since it may have been resumed.
        read_again = In(0 if problem else REFRESH_SECONDS)
        name = NAME.format(project, cluster.name)
        held = {"ways": canonical(_by_kind(cluster)), "endpoints": canonical(_private(cluster)), "trouble": problem}
        mac = self.housekeeping.store.macs.of_value([held[field] for field in MAC_FIELDS], Place(name, MAC))
        self.housekeeping.write(name, {**held, MAC: mac, "read_again": read_again})
        return held

    def strings(self, client: AtlasClient, cluster: str, choice: Choice) -> Strings:
        """Return the chosen connection strings of a cluster; old ones are first read again from Atlas.

        If Atlas does not answer, the stored ones are returned.

        Raises:
            FailedError: The cluster has none of this kind, no such private endpoint, or cannot be used now.
            ClusterGoneError: The cluster does not exist any more.
            AtlasError: None are stored, and Atlas does not answer.
            HeldBackError: Atlas may not be asked now: the circuit is open or the rate limit is reached.
        """
        name = NAME.format(client.project_id, cluster)
        held = self.housekeeping.recent(name)
        if held.get("ways") and not self._is_authentic(name, held):
            log.warning("connection_strings_read_again", cluster=cluster, reason="their MAC does not fit")
            held = {}
        missing = "ways" not in held or (choice.endpoint is not None and "endpoints" not in held)
        old = not missing and held["read_at"] >= (held.get("read_again") or EPOCH)
        if missing or (old and self.housekeeping.take_turn(name, "read_again", REFRESH_SECONDS)):
            try:
                held = self.store(client.project_id, client.cluster(cluster))
            except ClusterNotFound:
                self.housekeeping.write(name, {"read_again": In(0)})
                raise ClusterGoneError(cluster) from None
            except AtlasError:
                if missing:
                    raise
        if problem := held.get("trouble"):
            raise FailedError(problem)
        by_kind, private = json.loads(held.get("ways") or "{}"), json.loads(held.get("endpoints") or "[]")
        return _choose(by_kind, private, cluster, choice)

    def _is_authentic(self, name: str, held: Mapping[str, Any]) -> bool:
        """Return whether the broker has written the strings: others would send applications to another host.

        Strings of an earlier release, without a MAC, are read again like those that something else has changed.
        """
        mac, values = held.get(MAC), [held.get(field) for field in MAC_FIELDS]
        try:
            return bool(mac) and self.housekeeping.store.macs.fits(values, mac, Place(name, MAC))
        except MissingKeyError:
            return False


def why_unusable(cluster: Cluster) -> str | None:
    """Return why a cluster cannot be used, as a sentence for users; None when it can be used or is being created."""
    if cluster.state == "DELETING":
        return f"The cluster {cluster.name} is being deleted."
    if cluster.paused:
        return f"The cluster {cluster.name} is paused; resume it first."
    domain = own_domain(cluster.connection_strings)
    if foreign := [host for host in _hosts(cluster.connection_strings) if not _belongs(host, domain)]:
        return (
            f"The connection strings that Atlas gives for the cluster {cluster.name} lead to {foreign[0]}, which is "
            f"not under the cluster's own domain {domain}; no application is sent there."
        )
    return None


def own_domain(strings: ConnectionStrings) -> str | None:
    """Return the domain of a cluster, such as ``ab1cd.mongodb.net``: that of its SRV host or else of its first host.

    Returns:
        None if the cluster has no hosts with a domain.
    """
    named = [_hosts_of(strings.srv), _hosts_of(strings.standard)]
    domains = [host.partition(".")[2] for hosts in named for host in hosts if _address(host) is None]
    return next((domain for domain in domains if "." in domain), None)


def _belongs(host: str, domain: str | None) -> bool:
    """Return whether a host is one of a cluster with this domain; older private endpoints have a hyphen before it."""
    return domain is None or not _has_domain(host) or host.endswith((f".{domain}", f"-{domain}"))


def _has_domain(host: str) -> bool:
    """Return whether a host is in a domain; names without one and addresses of private networks are not."""
    address = _address(host)
    if address is None:
        return "." in host
    return not address.is_loopback and not any(address in network for network in _PRIVATE_NETWORKS)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _hosts(strings: ConnectionStrings) -> list[str]:
    """Return the hosts in all connection strings of a cluster."""
    own = [strings.standard, strings.srv, strings.private, strings.private_srv]
    private = [text for each in strings.private_endpoints for text in (each.standard, each.srv)]
    return [host for text in (*own, *private) for host in _hosts_of(text)]


def _hosts_of(text: str | None) -> list[str]:
    """Return the hosts in a connection string, in lower case and without ports."""
    location = (text or "").partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    return [(urlsplit(f"//{each}").hostname or "").rstrip(".") for each in location.split(",") if each]


def strings_of(cluster: Cluster, choice: Choice) -> Strings:
    """Return the chosen connection strings of a cluster.

    Raises:
        FailedError: The cluster has none of this kind, or no such private endpoint.
    """
    return _choose(_by_kind(cluster), _private(cluster), cluster.name, choice)


StoredEndpoint = Mapping[str, Any]
"""A private endpoint: its ``ids`` and ``regions`` in the cloud, and its connection ``strings``."""


def _choose(by_kind: Mapping[str, Strings], private: Sequence[StoredEndpoint], cluster: str, choice: Choice) -> Strings:
    found = by_kind.get(choice.kind) or {}
    if choice.kind == PRIVATE_ENDPOINT and private:
        if choice.endpoint is not None:
            found = _find_endpoint(private, cluster, choice.endpoint)["strings"]
        elif len(private) > 1:
            log.warning("private_endpoint_not_chosen", cluster=cluster, used=private[0]["ids"], all=_listed(private))
    if not found:
        raise FailedError(f"The cluster {cluster} has no {choice.kind} connection string.", refused=True)
    return found


def _find_endpoint(private: Sequence[StoredEndpoint], cluster: str, wanted: str) -> StoredEndpoint:
    """Return the private endpoint with this id or region; AWS and Atlas write regions differently."""

    def spelled_alike(region: str) -> str:
        return region.upper().replace("-", "_")

    by_id = [each for each in private if wanted.lower() in (one.lower() for one in each["ids"])]
    by_region = [each for each in private if spelled_alike(wanted) in map(spelled_alike, each["regions"])]
    found = by_id or by_region
    if not found:
        raise FailedError(
            f"The cluster {cluster} has no private endpoint {wanted}; it has {_listed(private)}.", refused=True
        )
    if len(found) > 1:
        raise FailedError(
            f"The cluster {cluster} has several private endpoints in {wanted}: {_listed(found)}. "
            "Name one by its id as endpoint.",
            refused=True,
        )
    return found[0]


def _listed(private: Sequence[StoredEndpoint]) -> str:
    """Return the ids and regions of private endpoints as a text for users."""
    shown = (each["ids"] + [f"({region})" for region in each["regions"]] for each in private)
    return ", ".join(" ".join(words) or "one without an id" for words in shown)


def _by_kind(cluster: Cluster) -> dict[str, Strings]:
    held = cluster.connection_strings
    first = held.private_endpoints[0] if held.private_endpoints else None
    return {
        STANDARD: _pair(held.standard, held.srv),
        PRIVATE: _pair(held.private, held.private_srv),
        PRIVATE_ENDPOINT: _pair(first.standard, first.srv) if first else {},
    }


def _private(cluster: Cluster) -> list[StoredEndpoint]:
    return [
        {"ids": list(each.endpoint_ids), "regions": list(each.regions), "strings": _pair(each.standard, each.srv)}
        for each in cluster.connection_strings.private_endpoints
    ]


def _pair(standard: str | None, srv: str | None) -> Strings:
    return {name: value for name, value in (("standard", standard), ("srv", srv)) if value}


def osb_endpoints(known: Strings) -> list[dict[str, object]]:
    """Return the hosts of a connection string as OSB endpoints; ports are strings (spec: Endpoint Object)."""
    if "standard" not in known:
        host = urlsplit(known["srv"]).hostname or ""
        return [{"host": host, "ports": [str(DEFAULT_PORT)], "protocol": "tcp"}]
    try:
        nodes = parse_uri(known["standard"], validate=False, warn=False)["nodelist"]
    except (InvalidURI, ConfigurationError, ValueError):
        return []
    return [{"host": host, "ports": [str(port or DEFAULT_PORT)], "protocol": "tcp"} for host, port in nodes]
