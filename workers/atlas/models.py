"""Clusters, processes, database users and IP access lists, with the fields of Atlas that the broker needs.

Parsing ignores unknown fields, and raises `Malformed` when a needed field is missing or has another type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, TypedDict, Unpack

Json = dict[str, Any]


class Malformed(Exception):
    """The JSON of an answer does not have the expected shape; `interpret` turns this into `UnreadableAnswer`."""


@dataclass(frozen=True, slots=True)
class AtlasRole:
    """A built-in role on a database, or a custom role (database `admin`; then it is the only role of the user)."""

    name: str
    database: str
    collection: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseUser:
    """A database user of a project.

    Attributes:
        scopes: The names of the clusters that the user may log in to; empty for all clusters.
        password: Only sent, never returned by Atlas.
        delete_after: The end of the user's lifetime, at which Atlas deletes it.
        database: `admin` for SCRAM users, `$external` for others.
        aws_iam: `ROLE` or `USER` if the user name is the ARN of one, which logs in with AWS's credentials.
        x509: `MANAGED` if Atlas creates the user's certificates, `CUSTOMER` if the project's own CA does.
    """

    username: str
    roles: tuple[AtlasRole, ...]
    scopes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    password: str | None = field(default=None, repr=False)
    description: str | None = None
    delete_after: datetime | None = None
    database: str = "admin"
    aws_iam: str = "NONE"
    x509: str = "NONE"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of an X.509 user and its private key, both as PEM."""

    certificate: str
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """An entry of the IP access list. `cidr` is None for a security group of AWS."""

    cidr: str | None
    comment: str = ""

    @property
    def network(self) -> IPv4Network | IPv6Network | None:
        """The addresses, which Atlas may also name by one of them; None for an entry without any."""
        try:
            return ip_network(self.cidr or "", strict=False)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class PrivateEndpoint:
    """The connection strings of a private endpoint, with the ids and regions of its endpoints in the cloud."""

    standard: str | None
    srv: str | None
    srv_shard_optimized: str | None
    type: str | None
    endpoint_ids: tuple[str, ...]
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionStrings:
    """Connection strings. All are None while a dedicated cluster is created; free and flex clusters get `srv` first."""

    standard: str | None = None
    srv: str | None = None
    private: str | None = None
    private_srv: str | None = None
    private_endpoints: tuple[PrivateEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster.

    Attributes:
        state: Atlas's `stateName`: IDLE, CREATING, UPDATING, DELETING, REPAIRING, or a newer one.
        sharded: The standard connection string names the mongos processes.
        major_version: The version that the cluster is kept at, such as `8.0`; None for flex clusters.
        tier: The size of the nodes that hold the data, such as `M10`; None for flex clusters.
        replication_specs: Atlas's `replicationSpecs`, from which `cluster_changes` makes the new ones.
    """

    name: str
    state: str
    paused: bool
    kind: Literal["dedicated", "flex", "free"]
    connection_strings: ConnectionStrings
    version: str | None
    sharded: bool = False
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    termination_protection: bool = False
    provider: str | None = None
    region: str | None = None
    tier: str | None = None
    disk_size_gb: float | None = None
    major_version: str | None = None
    backup: bool | None = None
    replication_specs: list[Json] = field(default_factory=list, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class NewCluster:
    """A cluster to create. What is None is left to Atlas; a flex cluster has none of the last four fields."""

    name: str
    kind: Literal["dedicated", "flex"]
    provider: str
    region: str
    tags: dict[str, str] = field(default_factory=dict, hash=False)
    termination_protection: bool = False
    tier: str | None = None
    disk_size_gb: int | None = None
    major_version: str | None = None
    backup: bool | None = None


class ClusterChanges(TypedDict, total=False):
    """The fields of a cluster that can change. None means no change; tags replace all tags in Atlas."""

    tags: dict[str, str] | None
    termination_protection: bool | None
    tier: str | None
    disk_size_gb: int | None
    major_version: str | None
    backup: bool | None


@dataclass(frozen=True, slots=True)
class Process:
    """A mongod or mongos. `alias` is the host name in connection strings, `kind` is Atlas's `typeName`."""

    host: str
    port: int
    alias: str | None
    replica_set: str | None
    kind: str | None


class UserChanges(TypedDict, total=False):
    """The fields of a user that can change. None means no change; a list replaces the whole list in Atlas."""

    password: str | None
    roles: tuple[AtlasRole, ...] | None
    labels: dict[str, str] | None
    scopes: tuple[str, ...] | None
    delete_after: datetime | None
    description: str | None


def user_fields(**changes: Unpack[UserChanges]) -> Json:
    """Return the JSON fields of a user for a request to Atlas; fields that are absent or None are left out."""
    body: Json = {}
    if (password := changes.get("password")) is not None:
        body["password"] = password
    if (description := changes.get("description")) is not None:
        body["description"] = description
    if (roles := changes.get("roles")) is not None:
        body["roles"] = [
            {"roleName": role.name, "databaseName": role.database}
            | ({} if role.collection is None else {"collectionName": role.collection})
            for role in roles
        ]
    if (labels := changes.get("labels")) is not None:
        body["labels"] = [{"key": key, "value": value} for key, value in labels.items()]
    if (scopes := changes.get("scopes")) is not None:
        body["scopes"] = [{"name": name, "type": "CLUSTER"} for name in scopes]
    if (delete_after := changes.get("delete_after")) is not None:
        body["deleteAfterDate"] = delete_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return body


def cluster_fields(new: NewCluster) -> Json:
    """Return the JSON fields of a cluster to create; a dedicated one is a replica set of three nodes."""
    common: Json = {
        "name": new.name,
        "tags": _tags(new.tags),
        "terminationProtectionEnabled": new.termination_protection,
    }
    if new.kind == "flex":
        return common | {"providerSettings": {"backingProviderName": new.provider, "regionName": new.region}}
    nodes = _given({"instanceSize": new.tier, "nodeCount": 3, "diskSizeGB": new.disk_size_gb})
    region = {"providerName": new.provider, "regionName": new.region, "priority": 7, "electableSpecs": nodes}
    return _given(
        common
        | {
            "clusterType": "REPLICASET",
            "replicationSpecs": [{"regionConfigs": [region]}],
            "mongoDBMajorVersion": new.major_version,
            "backupEnabled": new.backup,
        }
    )


def cluster_changes(cluster: Cluster, **changes: Unpack[ClusterChanges]) -> Json:
    """Return the JSON fields of a change of a cluster; fields that are absent or None are left out.

    Tier and disk stand in each region, which Atlas replaces as a whole, so the other settings of the regions are sent
    again.
    """
    tier, disk = changes.get("tier"), changes.get("disk_size_gb")
    tags = changes.get("tags")
    specs = [
        {key: value for key, value in spec.items() if key in ("id", "zoneName")}
        | {"regionConfigs": [_changed_region(region, tier, disk) for region in objects(spec, "regionConfigs")]}
        for spec in cluster.replication_specs
    ]
    return _given(
        {
            "tags": None if tags is None else _tags(tags),
            "terminationProtectionEnabled": changes.get("termination_protection"),
            "mongoDBMajorVersion": changes.get("major_version"),
            "backupEnabled": changes.get("backup"),
            "replicationSpecs": None if tier is None and disk is None else specs,
        }
    )


def _changed_region(region: Json, tier: str | None, disk_size_gb: int | None) -> Json:
    """Return a region with another tier or disk, without what Atlas only answers and without groups of no nodes."""
    changed = {key: value for key, value in region.items() if not key.startswith("effective")}
    for group in ("electableSpecs", "readOnlySpecs", "analyticsSpecs"):
        nodes = dict(object_of(changed, group))
        if not nodes.get("nodeCount"):
            changed.pop(group, None)
            continue
        if nodes.get("ebsVolumeType") != "PROVISIONED":  # else it follows from tier and disk
            nodes.pop("diskIOPS", None)
        own_tier = None if group == "analyticsSpecs" else tier
        changed[group] = nodes | _given({"instanceSize": own_tier, "diskSizeGB": disk_size_gb})
    return changed


def _tags(tags: dict[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _given(body: Json) -> Json:
    return {key: value for key, value in body.items() if value is not None}


def parse_user(body: Json) -> DatabaseUser:
    """Parse a user; Atlas never returns its password.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    delete_after = optional_text(body, "deleteAfterDate")
    try:
        moment = datetime.fromisoformat(delete_after) if delete_after else None
    except ValueError:
        raise Malformed("deleteAfterDate is not a date") from None
    return DatabaseUser(
        username=text(body, "username"),
        roles=tuple(
            AtlasRole(text(role, "roleName"), text(role, "databaseName"), optional_text(role, "collectionName"))
            for role in objects(body, "roles")
        ),
        scopes=tuple(text(scope, "name") for scope in objects(body, "scopes") if scope.get("type") == "CLUSTER"),
        labels={text(label, "key"): text(label, "value") for label in objects(body, "labels")},
        description=optional_text(body, "description"),
        delete_after=moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None,
        database=optional_text(body, "databaseName") or "admin",
        aws_iam=optional_text(body, "awsIAMType") or "NONE",
        x509=optional_text(body, "x509Type") or "NONE",
    )


def parse_certificate(body: Json) -> Certificate:
    """Parse the PEM text with a certificate, perhaps those of its issuers after it, and the private key.

    Raises:
        Malformed: There is no certificate, or not exactly one private key.
    """
    pem = body["text"].replace("\r\n", "\n")
    blocks = [f"{found[0]}\n" for found in re.finditer(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", pem, re.DOTALL)]
    keys = [block for block in blocks if "PRIVATE KEY-----" in block]
    certificates = [block for block in blocks if block.startswith("-----BEGIN CERTIFICATE-----")]
    if len(keys) != 1 or not certificates:
        raise Malformed("it is not a certificate with its private key")
    return Certificate("".join(certificates), keys[0])


def parse_access_entry(body: Json) -> AccessEntry:
    """Parse an entry of the IP access list.

    Raises:
        Malformed: A field has another type.
    """
    cidr = optional_text(body, "cidrBlock") or optional_text(body, "ipAddress")
    return AccessEntry(cidr, optional_text(body, "comment") or "")


def parse_cluster(body: Json) -> Cluster:
    """Parse a cluster of the clusters API; it is free when its provider is TENANT, else dedicated.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    regions = [region for spec in objects(body, "replicationSpecs") for region in objects(spec, "regionConfigs")]
    free = any(each.get("providerName") == "TENANT" for each in regions)
    first = regions[0] if regions else {}
    nodes = object_of(first, "electableSpecs")
    size = nodes.get("diskSizeGB")
    return replace(
        _cluster(body, "free" if free else "dedicated"),
        provider=optional_text(first, "backingProviderName" if free else "providerName"),
        region=optional_text(first, "regionName"),
        tier=optional_text(nodes, "instanceSize"),
        disk_size_gb=size if isinstance(size, int | float) else None,
        major_version=optional_text(body, "mongoDBMajorVersion"),
        backup=body.get("backupEnabled") is True,
        replication_specs=objects(body, "replicationSpecs"),
    )


def parse_flex(body: Json) -> Cluster:
    """Parse a cluster of the flexClusters API, which has no `paused`.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    settings = object_of(body, "providerSettings")
    return replace(
        _cluster(body, "flex"),
        provider=optional_text(settings, "backingProviderName"),
        region=optional_text(settings, "regionName"),
    )


def _cluster(body: Json, kind: Literal["dedicated", "flex", "free"]) -> Cluster:
    strings = object_of(body, "connectionStrings")
    return Cluster(
        name=text(body, "name"),
        state=text(body, "stateName"),
        paused=body.get("paused") is True,
        kind=kind,
        connection_strings=ConnectionStrings(
            standard=optional_text(strings, "standard"),
            srv=optional_text(strings, "standardSrv"),
            private=optional_text(strings, "private"),
            private_srv=optional_text(strings, "privateSrv"),
            private_endpoints=tuple(_private_endpoint(each) for each in objects(strings, "privateEndpoint")),
        ),
        version=optional_text(body, "mongoDBVersion") or optional_text(body, "mongoDBMajorVersion"),
        sharded=optional_text(body, "clusterType") in ("SHARDED", "GEOSHARDED"),
        tags={optional_text(tag, "key") or "": optional_text(tag, "value") or "" for tag in objects(body, "tags")},
        termination_protection=body.get("terminationProtectionEnabled") is True,
    )


def _private_endpoint(body: Json) -> PrivateEndpoint:
    ids = (optional_text(endpoint, "endpointId") for endpoint in objects(body, "endpoints"))
    regions = (optional_text(endpoint, "region") for endpoint in objects(body, "endpoints"))
    return PrivateEndpoint(
        standard=optional_text(body, "connectionString"),
        srv=optional_text(body, "srvConnectionString"),
        srv_shard_optimized=optional_text(body, "srvShardOptimizedConnectionString"),
        type=optional_text(body, "type"),
        endpoint_ids=tuple(each for each in ids if each),
        regions=tuple(dict.fromkeys(each for each in regions if each)),
    )


def parse_process(body: Json) -> Process:
    """Parse a process of a cluster.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    port = body.get("port")
    if not isinstance(port, int):
        raise Malformed("port is missing or no number")
    return Process(
        host=text(body, "hostname"),
        port=port,
        alias=optional_text(body, "userAlias"),
        replica_set=optional_text(body, "replicaSetName"),
        kind=optional_text(body, "typeName"),
    )


def text(body: Json, key: str) -> str:
    """Return a string field; raise Malformed when it is missing, empty or no string."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{key} is missing or no text")
    return value


def optional_text(body: Json, key: str) -> str | None:
    """Return a string field, None when it is absent, null or empty; raise Malformed for another type."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is no text")
    return value or None


def object_of(body: Json, key: str) -> Json:
    """Return an object field, empty when it is absent or null; raise Malformed for another type."""
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{key} is no object")
    return value or {}


def objects(body: Json, key: str) -> list[Json]:
    """Return a field that is a list of objects, empty when absent or null; raise Malformed for another type."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{key} is no list of objects")
    return value
