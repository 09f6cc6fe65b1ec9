"""Clusters, processes and database users, with the fields of Atlas that the broker needs.

Parsing ignores unknown fields, and raises `Malformed` when a needed field is missing or has another type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
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
        database: `admin` for SCRAM users, `$external` for others, which appear in lists.
    """

    username: str
    roles: tuple[AtlasRole, ...]
    scopes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    password: str | None = field(default=None, repr=False)
    description: str | None = None
    delete_after: datetime | None = None
    database: str = "admin"


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
    """

    name: str
    state: str
    paused: bool
    kind: Literal["dedicated", "flex", "free"]
    connection_strings: ConnectionStrings
    version: str | None
    sharded: bool = False


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
    body: Json = {"password": changes.get("password"), "description": changes.get("description")}
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
    )


def parse_cluster(body: Json) -> Cluster:
    """Parse a cluster of the clusters API; it is free when its provider is TENANT, else dedicated.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    regions = [region for spec in objects(body, "replicationSpecs") for region in objects(spec, "regionConfigs")]
    return _cluster(body, "free" if any(each.get("providerName") == "TENANT" for each in regions) else "dedicated")


def parse_flex(body: Json) -> Cluster:
    """Parse a cluster of the flexClusters API, which has no `paused`.

    Raises:
        Malformed: A needed field is missing or has another type.
    """
    return _cluster(body, "flex")


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
