"""The endpoints that the broker calls: path, rate limit, X-Java-Method of each version, and what each does.

The Java methods of the root, the status, the limits and a process's databases were never recorded; they are made up.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from werkzeug import Request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from tests.emulator import bodies
from tests.emulator.atlas import Atlas
from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import Change, Cluster, Credential, Json, Project, User
from tests.emulator.user_rules import changed_user, new_user, parse

ROOT = "/api/atlas/v2"


@dataclass
class Asked:
    """One authenticated call: what it names, the state that it is about, and what it has changed of users."""

    atlas: Atlas
    request: Request
    group: Project
    caller: Credential
    names: dict[str, str]
    changes: list[Change] = field(default_factory=list)

    @property
    def root(self) -> str:
        return self.request.host_url.rstrip("/") + ROOT

    def page(self, results: list[Json], extra: str = "") -> Json:
        """Return the page that the query asks for; `extra` is what the links repeat of other query parameters."""
        args = {"pageNum": "1", "itemsPerPage": "100", "includeCount": "true", **self.request.args}
        for name, most in (("pageNum", 1_000_000), ("itemsPerPage", 500)):
            wrong = not args[name].isdecimal() or not 1 <= int(args[name]) <= most
            refuse_if(wrong, "INVALID_QUERY_PARAMETER", name)
        number, size, counted = int(args["pageNum"]), int(args["itemsPerPage"]), args["includeCount"] == "true"
        start, end = (number - 1) * size, number * size
        pages = {"self": number, "previous": number - 1, "next": number + 1 if end < len(results) else 0}
        query = f"{self.request.base_url}?includeCount={str(counted).lower()}{extra}"
        links = [bodies.link(f"{query}&pageNum={n}&itemsPerPage={size}", rel) for rel, n in pages.items() if n]
        total = {"totalCount": len(results)} if counted else {}
        return {"links": links, "results": results[start:end], **total}


Answer = Callable[[Asked], object]


@dataclass(frozen=True, eq=False)
class Route:
    """`versions` are the resource's, date to X-Java-Method, oldest first; the newest alone is not deprecated.

    `answer` is called with the lock held if it is `locked`.
    """

    template: str
    bucket: str
    versions: dict[str, str]
    answer: Answer
    success: int
    locked: bool

    def version(self, accept: str, headers: dict[str, str]) -> str:
        """Return the newest version that is not later than the date asked for, and say so in the headers.

        Raise ApiError (406) when there is none.
        """
        newest = list(self.versions)[-1]
        headers["X-Java-Method"] = self.versions[newest]
        asked = re.search(r"application/vnd\.atlas\.(\d{4}-\d{2}-\d{2})\+json", accept)
        fitting = [date for date in self.versions if asked and date <= asked[1]]
        refuse_if(not fitting, "INVALID_VERSION_DATE")
        headers["X-Java-Method"] = self.versions[fitting[-1]]
        if fitting[-1] != newest:
            headers |= {"Deprecation": "Mon, 5 Aug 2024 00:00:00 GMT", "Sunset": "Thu, 1 Jul 2027 00:00:00 GMT"}
        return fitting[-1]


_ROUTES = Map(merge_slashes=False)


def route(
    call: str, bucket: str, java: str | dict[str, str], *, success: int = 200, locked: bool = True
) -> Callable[[Answer], Answer]:
    """Add `GET /path/{name}` with its rate limit and X-Java-Method, for the first version or for each."""
    method, _, template = call.partition(" ")
    versions = {"2023-01-01": java} if isinstance(java, str) else java

    def add(answer: Answer) -> Answer:
        path = ROOT + template.replace("{", "<string(minlength=0):").replace("}", ">")
        endpoint = Route(template, bucket, versions, answer, success, locked)
        _ROUTES.add(Rule(path, methods=[method], endpoint=endpoint))
        return answer

    return add


def find(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the endpoint and the names in the path as sent, since a user's name may hold an encoded slash."""
    try:
        found, names = _ROUTES.bind("").match(path, method)
    except HTTPException:
        return None, {}
    return found, {name: unquote(value) for name, value in names.items()}


_GROUP = "/groups/{groupId}"
_USERS = _GROUP + "/databaseUsers"
_CLUSTER = _GROUP + "/clusters/{clusterName}"
_FLEX_CLUSTERS = _GROUP + "/flexClusters"
_FLEX_JAVA = "ApiAtlasFlexClusterResource::"
_PROCESSES = _GROUP + "/processes"
_PROCESSES_JAVA = "ApiAtlasProcessesResource::"
_ONE_USER = _USERS + "/{databaseName}/{username}"
_USERS_JAVA = "ApiAtlasV2DatabaseUsersResource::"


def _clusters_java(method: str) -> dict[str, str]:
    return {
        "2023-02-01": f"ApiAtlasClusterDescriptionV15Resource::{method}",
        "2024-08-05": f"ApiAtlasClusterDescriptionResource20240805::{method}",
    }


@route("GET ", "root", "ApiSystemResource::getSystem")
def get_root(asked: Asked) -> Json:
    """An API key is told of its roles, a service account is not."""
    about = {"appName": "MongoDB Atlas", "build": "emulator", "links": [bodies.link(asked.root)], "throttling": False}
    given = asked.request.authorization
    if given is None or given.type != "digest":
        return about
    role = "GROUP_READ_ONLY" if asked.caller.read_only else "GROUP_OWNER"
    roles = [{"groupId": project, "roleName": role} for project in sorted(asked.caller.projects)]
    return {**about, "apiKey": {"id": bodies.identifier("key", asked.caller.name), "accessList": [], "roles": roles}}


@route("GET /groups", "groups", "ApiAtlasGroupsResource::getAllGroups")
def list_groups(asked: Asked) -> Json:
    groups = [project for project in asked.atlas.projects.values() if project.id in asked.caller.projects]
    return asked.page([bodies.project_body(project, asked.root) for project in groups])


@route(f"GET {_GROUP}", "project", "ApiAtlasGroupsResource::getGroup")
def get_group(asked: Asked) -> Json:
    return bodies.project_body(asked.group, asked.root)


@route(f"GET {_GROUP}/clusters", "clusters", _clusters_java("getAllClusters"))
def list_clusters(asked: Asked) -> Json:
    clusters = [bodies.cluster_body(asked.group, cluster, asked.root) for cluster in _clusters(asked, flex=False)]
    return asked.page(clusters, "&includeDeletedWithRetainedBackups=false")


@route(f"GET {_FLEX_CLUSTERS}", "project", {"2024-11-13": _FLEX_JAVA + "getAllFlexClusters"})
def list_flex_clusters(asked: Asked) -> Json:
    return asked.page([bodies.flex_body(asked.group, cluster) for cluster in _clusters(asked, flex=True)])


def _clusters(asked: Asked, *, flex: bool) -> list[Cluster]:
    asked.group.advance(time.time())
    return [cluster for cluster in asked.group.clusters.values() if (cluster.kind == "flex") == flex]


@route(f"GET {_CLUSTER}", "clusters", _clusters_java("getCluster"))
def get_cluster(asked: Asked) -> Json:
    asked.group.advance(time.time())
    cluster = _cluster(asked)
    refuse_if(cluster.kind == "flex", "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API", cluster.name)
    return bodies.cluster_body(asked.group, cluster, asked.root)


@route(f"GET {_FLEX_CLUSTERS}/{{clusterName}}", "project", {"2024-11-13": _FLEX_JAVA + "getFlexCluster"})
def get_flex_cluster(asked: Asked) -> Json:
    asked.group.advance(time.time())
    cluster = _cluster(asked)
    refuse_if(cluster.kind != "flex", "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", cluster.name)
    return bodies.flex_body(asked.group, cluster)


@route(f"GET {_CLUSTER}/status", "clusters", "ApiAtlasClusterDescriptionResource::getStatus", locked=False)
def get_status(asked: Asked) -> Json:
    """Of any kind of cluster: Atlas's Kubernetes operator asks it for flex ones too."""
    with asked.atlas.lock:
        cluster = _cluster(asked)
    return {"changeStatus": asked.atlas.status(cluster)}


def _cluster(asked: Asked) -> Cluster:
    name = asked.names["clusterName"]
    refuse_if(name not in asked.group.clusters, "CLUSTER_NOT_FOUND", name, asked.group.id)
    return asked.group.clusters[name]


@route(f"GET {_PROCESSES}", "processes", _PROCESSES_JAVA + "getAllAtlasProcesses")
def list_processes(asked: Asked) -> Json:
    """Of dedicated clusters. Those that share a mongod share its process."""
    monitored = [cluster for cluster in asked.group.clusters.values() if cluster.kind == "dedicated"]
    found = {bodies.process_id(process): process for cluster in monitored for process in bodies.processes(cluster)}
    return asked.page([bodies.process_body(asked.group, process, asked.root) for process in found.values()])


@route(f"GET {_PROCESSES}/{{processId}}/databases", "processes", _PROCESSES_JAVA + "getDatabases", locked=False)
def list_databases(asked: Asked) -> Json:
    """What monitoring has seen, in all clusters that the process belongs to, since there may be several here."""
    wanted = asked.names["processId"]
    with asked.atlas.lock:
        clusters = asked.group.clusters.values()
        every = [(cluster, process) for cluster in clusters for process in bodies.processes(cluster)]
        owners = [(cluster, process) for cluster, process in every if bodies.process_id(process) == wanted]
        hidden = asked.atlas.hidden_databases
    refuse_if(not owners, "RESOURCE_NOT_FOUND", asked.request.path)
    told = [(cluster, process) for cluster, process in owners if cluster.kind == "dedicated"]
    router = any(process["typeName"] == "SHARD_MONGOS" for _, process in told)
    refuse_if(not told or router, "CLUSTER_HAS_NO_DATABASES_TO_TELL")
    names: set[str] = set()
    for cluster, process in told:
        given = process.get("databases")
        names.update(asked.atlas.mongod(cluster.mongo).databases() if given is None else given)
    home = f"{asked.root}/groups/{asked.group.id}/processes/{wanted}/databases"
    seen = sorted(names - hidden)
    return asked.page([{"databaseName": name, "links": [bodies.link(f"{home}/{name}")]} for name in seen])


@route(f"GET {_USERS}", "users", _USERS_JAVA + "getUsers")
def list_users(asked: Asked) -> Json:
    return asked.page([bodies.user_body(asked.group, user, asked.root) for user in asked.group.users.values()])


@route(f"GET {_ONE_USER}", "users", _USERS_JAVA + "getUserByName")
def get_user(asked: Asked) -> Json:
    return bodies.user_body(asked.group, _user(asked, "USERNAME_NOT_FOUND"), asked.root)


@route(f"POST {_USERS}", "users", _USERS_JAVA + "addUser", success=201)
def create_user(asked: Asked) -> Json:
    body = parse(asked.request)
    attributes = new_user(asked.group, body)
    key, limit = (attributes["databaseName"], attributes["username"]), asked.group.user_limit
    refuse_if(key in asked.group.users, "USER_ALREADY_EXISTS", key[1])
    refuse_if(len(asked.group.users) >= limit, "GROUP_USERS_LIMIT_EXCEEDED", limit)
    mongods = {cluster.mongo for cluster in asked.group.clusters.values()}
    for project in asked.atlas.projects.values():
        if key in project.users and mongods & {cluster.mongo for cluster in project.clusters.values()}:
            raise ApiError("UNEXPECTED_ERROR", detail="Emulator: two projects share a mongod, and so user names.")
    return _put_user(asked, None, attributes, body.get("password"))


@route(f"PATCH {_ONE_USER}", "users", _USERS_JAVA + "patchUser")
def update_user(asked: Asked) -> Json:
    body = parse(asked.request)
    old = _user(asked, "USERNAME_NOT_FOUND")
    return _put_user(asked, old, changed_user(asked.group, old.attributes, body), body.get("password") or old.password)


def _put_user(asked: Asked, old: User | None, attributes: Json, password: str | None) -> Json:
    user = User(attributes, password, next(asked.atlas.versions))
    asked.group.users[attributes["databaseName"], user.name] = user
    asked.changes = asked.atlas.queue(asked.group, user.name, old, user)
    return bodies.user_body(asked.group, user, asked.root)


@route(f"DELETE {_ONE_USER}", "users", _USERS_JAVA + "deleteUser", success=204)
def delete_user(asked: Asked) -> None:
    user = _user(asked, "USER_NOT_FOUND")
    del asked.group.users[asked.names["databaseName"], user.name]
    asked.changes = asked.atlas.queue(asked.group, user.name, user, None)


def _user(asked: Asked, code: str) -> User:
    key = asked.names["databaseName"], asked.names["username"]
    refuse_if(key not in asked.group.users, code, key[1])
    return asked.group.users[key]


@route(f"GET {_GROUP}/accessList", "project", "ApiAtlasNetworkAccessListResource::getAtlasWhitelist")
def list_access(asked: Asked) -> Json:
    return asked.page([bodies.access_body(asked.group, entry, asked.root) for entry in asked.group.access_list])


@route(f"GET {_GROUP}/customDBRoles/roles", "roles", "ApiAtlasCustomDBRoleResource::getCustomDBRoles")
def list_roles(asked: Asked) -> list[Json]:
    return list(asked.group.roles.values())


@route(f"GET {_GROUP}/limits", "project", "ApiAtlasGroupsResource::getLimits")
def list_limits(asked: Asked) -> list[Json]:
    return bodies.limit_bodies(asked.group)


@route(f"GET {_GROUP}/limits/{{limitName}}", "project", "ApiAtlasGroupsResource::getLimit")
def get_limit(asked: Asked) -> Json:
    for limit in bodies.limit_bodies(asked.group):
        if limit["name"] == asked.names["limitName"]:
            return limit
    raise ApiError("RESOURCE_NOT_FOUND", asked.request.path)
