"""The endpoints that the broker calls. Each reads or changes the state under its lock and gives the body."""

import time
from collections.abc import Sequence

from tests.emulator.bodies import cluster_body, flex_body, identifier, link, project_body, user_body
from tests.emulator.errors import ApiError
from tests.emulator.model import Cluster, Json, Project, User, advance
from tests.emulator.paging import page
from tests.emulator.routes import Asked
from tests.emulator.user_rules import changed_user, new_user, parse

USERS_LIMIT = "atlas.project.security.databaseAccess.users"


def get_root(asked: Asked) -> Json:
    """An API key is told of its roles, a service account is not."""
    about = {"appName": "MongoDB Atlas", "build": "emulator", "links": [link(asked.root)], "throttling": False}
    given = asked.request.authorization
    if given is None or given.type != "digest":
        return about
    role = "GROUP_READ_ONLY" if asked.caller.read_only else "GROUP_OWNER"
    roles = [{"groupId": project, "roleName": role} for project in sorted(asked.caller.projects)]
    return {**about, "apiKey": {"id": identifier("key", asked.caller.name), "accessList": [], "roles": roles}}


def list_groups(asked: Asked) -> Json:
    with asked.atlas.lock:
        groups = [project for project in asked.atlas.projects.values() if project.id in asked.caller.projects]
        return page(asked, groups, lambda project: project_body(project, asked.root))


def get_group(asked: Asked) -> Json:
    with asked.atlas.lock:
        return project_body(asked.group, asked.root)


def list_clusters(asked: Asked) -> Json:
    with asked.atlas.lock:
        clusters = _advanced(asked, flex=False)
        extra = "&includeDeletedWithRetainedBackups=false"
        return page(asked, clusters, lambda one: cluster_body(asked.group, one, asked.root), extra)


def list_flex_clusters(asked: Asked) -> Json:
    with asked.atlas.lock:
        return page(asked, _advanced(asked, flex=True), lambda one: flex_body(asked.group, one))


def get_cluster(asked: Asked) -> Json:
    with asked.atlas.lock:
        advance(asked.group, time.time())
        cluster = _cluster(asked)
        if cluster.kind == "flex":
            raise ApiError("CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API", cluster.name)
        return cluster_body(asked.group, cluster, asked.root)


def get_flex_cluster(asked: Asked) -> Json:
    with asked.atlas.lock:
        advance(asked.group, time.time())
        cluster = _cluster(asked)
        if cluster.kind != "flex":
            raise ApiError("CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API", cluster.name)
        return flex_body(asked.group, cluster)


def get_status(asked: Asked) -> Json:
    """Of any kind of cluster: Atlas's Kubernetes operator asks it for flex ones too."""
    with asked.atlas.lock:
        cluster = _cluster(asked)
    return {"changeStatus": asked.deployment.status(asked.group, cluster)}


def list_users(asked: Asked) -> Json:
    with asked.atlas.lock:
        users = list(asked.group.users.values())
        return page(asked, users, lambda user: user_body(asked.group, user, asked.root))


def get_user(asked: Asked) -> Json:
    with asked.atlas.lock:
        return user_body(asked.group, _user(asked), asked.root)


def create_user(asked: Asked) -> Json:
    body = _body(asked)
    with asked.atlas.lock:
        attributes = new_user(asked.group, body)
        _check_room(asked, attributes)
        user = User(attributes, body.get("password"), next(asked.atlas.versions))
        asked.group.users[attributes["databaseName"], user.name] = user
        work = asked.deployment.queue(asked.group, user.name, None, user)
        answer = user_body(asked.group, user, asked.root)
    asked.deployment.settle(work)
    return answer


def update_user(asked: Asked) -> Json:
    body = _body(asked)
    with asked.atlas.lock:
        old = _user(asked)
        attributes = changed_user(asked.group, old.attributes, body)
        user = User(attributes, body.get("password") or old.password, next(asked.atlas.versions))
        asked.group.users[attributes["databaseName"], user.name] = user
        work = asked.deployment.queue(asked.group, user.name, old, user)
        answer = user_body(asked.group, user, asked.root)
    asked.deployment.settle(work)
    return answer


def delete_user(asked: Asked) -> None:
    with asked.atlas.lock:
        key = (asked.names["databaseName"], asked.names["username"])
        user = asked.group.users.pop(key, None)
        if user is None:
            raise ApiError("USER_NOT_FOUND", key[1])
        work = asked.deployment.queue(asked.group, user.name, user, None)
    asked.deployment.settle(work)


def list_access(asked: Asked) -> Json:
    with asked.atlas.lock:
        return page(asked, asked.group.access_list, lambda entry: _access_body(asked, entry))


def list_roles(asked: Asked) -> Sequence[Json]:
    with asked.atlas.lock:
        return list(asked.group.roles.values())


def list_limits(asked: Asked) -> Sequence[Json]:
    with asked.atlas.lock:
        return _limits(asked.group)


def get_limit(asked: Asked) -> Json:
    for limit in list_limits(asked):
        if limit["name"] == asked.names["limitName"]:
            return limit
    raise ApiError("RESOURCE_NOT_FOUND", asked.request.path)


def _limits(project: Project) -> Sequence[Json]:
    usage = {
        USERS_LIMIT: (len(project.users), 100, 100, project.user_limit),
        "atlas.project.deployment.clusters": (len(project.clusters), 25, 90, 25),
        "atlas.project.security.databaseAccess.customRoles": (len(project.roles), 100, 1400, 100),
    }
    return [
        {"currentUsage": used, "defaultLimit": default, "maximumLimit": maximum, "name": name, "value": value}
        for name, (used, default, maximum, value) in usage.items()
    ]


def _access_body(asked: Asked, entry: str) -> Json:
    address, _, bits = entry.partition("/")
    block = f"{address}/{bits or 32}"
    single = {"ipAddress": address} if bits in ("", "32") else {}
    href = f"{asked.root}/groups/{asked.group.id}/accessList/{block.replace('/', '%2F')}"
    return {"cidrBlock": block, "comment": "", "groupId": asked.group.id, **single, "links": [link(href)]}


def _advanced(asked: Asked, *, flex: bool) -> list[Cluster]:
    advance(asked.group, time.time())
    return [cluster for cluster in asked.group.clusters.values() if (cluster.kind == "flex") == flex]


def _cluster(asked: Asked) -> Cluster:
    name = asked.names["clusterName"]
    if name not in asked.group.clusters:
        raise ApiError("CLUSTER_NOT_FOUND", name, asked.group.id)
    return asked.group.clusters[name]


def _user(asked: Asked) -> User:
    name = asked.names["username"]
    user = asked.group.users.get((asked.names["databaseName"], name))
    if user is None:
        raise ApiError("USERNAME_NOT_FOUND", name)
    return user


def _body(asked: Asked) -> Json:
    """415 is this emulator's strictness; what Atlas does was never seen."""
    kind = asked.request.mimetype
    if kind != "application/json" and not kind.startswith("application/vnd.atlas."):
        raise ApiError("UNSUPPORTED_MEDIA_TYPE")
    return parse(asked.request.get_data())


def _check_room(asked: Asked, attributes: Json) -> None:
    key = (attributes["databaseName"], attributes["username"])
    if key in asked.group.users:
        raise ApiError("USER_ALREADY_EXISTS", key[1])
    if len(asked.group.users) >= asked.group.user_limit:
        raise ApiError("GROUP_USERS_LIMIT_EXCEEDED", asked.group.user_limit)
    mongods = {cluster.mongo for cluster in asked.group.clusters.values()}
    for project in asked.atlas.projects.values():
        if key in project.users and mongods & {cluster.mongo for cluster in project.clusters.values()}:
            raise ApiError("UNEXPECTED_ERROR", detail="Emulator: two projects share a mongod, and so user names.")
