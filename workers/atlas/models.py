"""What Atlas tells about clusters and database users, as far as the broker needs it.

Parsing ignores what it does not know and raises `Malformed` when something needed is missing or of another type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Json = dict[str, Any]


class Malformed(Exception):
    """The answer is JSON, but not of the shape that this call needs; the client turns it into `UnreadableAnswer`."""


@dataclass(frozen=True, slots=True)
class Role:
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
    roles: tuple[Role, ...]
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


def user_body(user: DatabaseUser, project_id: str) -> Json:
    """Every SCRAM user authenticates against `admin`; another databaseName there would be answered with a 500."""
    return {"username": user.username, "databaseName": "admin", "groupId": project_id} | user_changes(
        password=user.password,
        roles=user.roles,
        labels=user.labels,
        scopes=user.scopes,
        delete_after=user.delete_after,
        description=user.description,
    )


def user_changes(
    *,
    password: str | None,
    roles: tuple[Role, ...] | None,
    labels: dict[str, str] | None,
    scopes: tuple[str, ...] | None,
    delete_after: datetime | None,
    description: str | None,
) -> Json:
    """Only what is not None; lists replace what Atlas has."""
    body: Json = {
        "password": password,
        "roles": None if roles is None else [_role_body(role) for role in roles],
        "labels": None if labels is None else [{"key": key, "value": value} for key, value in labels.items()],
        "scopes": None if scopes is None else [{"name": name, "type": "CLUSTER"} for name in scopes],
        "deleteAfterDate": None if delete_after is None else _date(delete_after),
        "description": description,
    }
    return {key: value for key, value in body.items() if value is not None}


def _role_body(role: Role) -> Json:
    body = {"roleName": role.name, "databaseName": role.database}
    return body if role.collection is None else body | {"collectionName": role.collection}


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_user(body: Json) -> DatabaseUser:
    """The password is always None."""
    return DatabaseUser(
        username=text(body, "username"),
        roles=tuple(_parse_role(role) for role in objects(body, "roles")),
        scopes=tuple(text(scope, "name") for scope in objects(body, "scopes") if scope.get("type") == "CLUSTER"),
        labels={text(label, "key"): text(label, "value") for label in objects(body, "labels")},
        description=optional_text(body, "description"),
        delete_after=_parse_date(body),
        database=optional_text(body, "databaseName") or "admin",
    )


def _parse_role(body: Json) -> Role:
    return Role(text(body, "roleName"), text(body, "databaseName"), optional_text(body, "collectionName"))


def _parse_date(body: Json) -> datetime | None:
    value = optional_text(body, "deleteAfterDate")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Malformed("deleteAfterDate is not a date") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_cluster(body: Json) -> Cluster:
    """A cluster of the clusters API: dedicated, or free when its provider is TENANT."""
    return _cluster(body, "free" if _is_tenant(body) else "dedicated")


def parse_flex(body: Json) -> Cluster:
    """A cluster of the flexClusters API, which has no `paused`."""
    return _cluster(body, "flex")


def _cluster(body: Json, kind: Literal["dedicated", "flex", "free"]) -> Cluster:
    return Cluster(
        name=text(body, "name"),
        state=text(body, "stateName"),
        paused=body.get("paused") is True,
        kind=kind,
        connection_strings=_parse_strings(object_of(body, "connectionStrings")),
        version=optional_text(body, "mongoDBVersion") or optional_text(body, "mongoDBMajorVersion"),
        sharded=optional_text(body, "clusterType") in ("SHARDED", "GEOSHARDED"),
    )


def _is_tenant(body: Json) -> bool:
    regions = [region for spec in objects(body, "replicationSpecs") for region in objects(spec, "regionConfigs")]
    return any(region.get("providerName") == "TENANT" for region in regions)


def _parse_strings(body: Json) -> ConnectionStrings:
    return ConnectionStrings(
        standard=optional_text(body, "standard"),
        srv=optional_text(body, "standardSrv"),
        private=optional_text(body, "private"),
        private_srv=optional_text(body, "privateSrv"),
        private_endpoints=tuple(_parse_endpoint(item) for item in objects(body, "privateEndpoint")),
    )


def _parse_endpoint(body: Json) -> PrivateEndpoint:
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
    """One of the project's processes, of whichever cluster."""
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
    """A string that must be there and not empty."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{key} is missing or no text")
    return value


def optional_text(body: Json, key: str) -> str | None:
    """None when absent, null or empty."""
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is no text")
    return value or None


def object_of(body: Json, key: str) -> Json:
    """Empty when absent or null."""
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{key} is no object")
    return value or {}


def objects(body: Json, key: str) -> list[Json]:
    """Empty when absent or null."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed(f"{key} is no list of objects")
    return value
