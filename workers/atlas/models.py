"""Clusters and database users as Atlas describes them, as far as the broker needs it.

Parsing ignores what it does not know and raises `Malformed` when something needed is missing or of another type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, Unpack

Json = dict[str, Any]


class Malformed(Exception):
    """The answer is JSON, but not of the shape that this call needs; the client turns it into `UnreadableAnswer`."""


@dataclass(frozen=True, slots=True)
class AtlasRole:
    """A built-in role on a database, or a custom role by name (database `admin`, the user's only role)."""

    name: str
    database: str
    collection: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseUser:
    """A SCRAM user of a project. `scopes` are cluster names; none means every cluster.

    Atlas never returns `password`; users of `$external` appear in lists with that `database`.
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
    """Connection strings of their own, with ids and regions of the cloud's endpoints that they go through."""

    standard: str | None
    srv: str | None
    srv_shard_optimized: str | None
    type: str | None
    endpoint_ids: tuple[str, ...]
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionStrings:
    """All None while a dedicated cluster is being created; `standard` of free and flex ones comes after `srv`."""

    standard: str | None = None
    srv: str | None = None
    private: str | None = None
    private_srv: str | None = None
    private_endpoints: tuple[PrivateEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """`state` is Atlas's stateName: IDLE, CREATING, UPDATING, DELETING, REPAIRING, or one that came later.

    A `sharded` cluster's standard connection string leads to its mongos.
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
    """A mongod or mongos; `alias` is the host's name in connection strings, `kind` Atlas's typeName."""

    host: str
    port: int
    alias: str | None
    replica_set: str | None
    kind: str | None


class UserChanges(TypedDict, total=False):
    """What may be changed of a user. None is like what is absent; lists replace what Atlas has."""

    password: str | None
    roles: tuple[AtlasRole, ...] | None
    labels: dict[str, str] | None
    scopes: tuple[str, ...] | None
    delete_after: datetime | None
    description: str | None


def user_fields(**changes: Unpack[UserChanges]) -> Json:
    """Return the fields of a user as Atlas takes them."""
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
    """Return a user from Atlas's JSON; the password is never in it."""
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
    """Return a cluster of the clusters API: dedicated, or free when its provider is TENANT."""
    regions = [region for spec in objects(body, "replicationSpecs") for region in objects(spec, "regionConfigs")]
    return _cluster(body, "free" if any(each.get("providerName") == "TENANT" for each in regions) else "dedicated")


def parse_flex(body: Json) -> Cluster:
    """Return a cluster of the flexClusters API, which has no `paused`."""
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
    """Return one of the project's processes, of whichever cluster."""
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
    """Return a string that must be there and not empty."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{key} is missing or no text")
    return value


def optional_text(body: Json, key: str) -> str | None:
    """Return a string; None when it is absent, null or empty."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is no text")
    return value or None


def object_of(body: Json, key: str) -> Json:
    """Return an object; an empty one when it is absent or null."""
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{key} is no object")
    return value or {}


def objects(body: Json, key: str) -> list[Json]:
    """Return a list of objects; an empty one when it is absent or null."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{key} is no list of objects")
    return value
