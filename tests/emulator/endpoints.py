"""The endpoints about projects, users, roles, limits and processes, and what each does.

The Java methods of the root, the status, the limits and a process's databases were never recorded; they are made up.
"""

from tests.emulator import bodies
from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import Json, User, wire_time
from tests.emulator.request_bodies import parse
from tests.emulator.routing import GROUP, Asked, route
from tests.emulator.user_rules import USER_ATTRIBUTES, changed_user, new_user

_USERS = GROUP + "/databaseUsers"
_PROCESSES = GROUP + "/processes"
_PROCESSES_JAVA = "ApiAtlasProcessesResource::"
_ONE_USER = _USERS + "/{databaseName}/{username}"
_USERS_JAVA = "ApiAtlasV2DatabaseUsersResource::"
_CERTIFICATES = _USERS + "/{username}/certs"
DEFAULT_MONTHS, MOST_MONTHS = 3, 24
_USER_ADMIN = "GROUP_DATABASE_ACCESS_ADMIN"


@route("GET ", "root", "ApiSystemResource::getSystem")
def get_root(asked: Asked) -> Json:
    """An API key is told of its roles, a service account is not."""
    about = {"appName": "MongoDB Atlas", "build": "emulator", "links": [bodies.link(asked.root)], "throttling": False}
    given = asked.request.authorization
    if given is None or given.type != "digest":
        return about
    roles = [
        {"groupId": project, "roleName": role}
        for project in sorted(asked.caller.projects)
        for role in sorted(asked.caller.roles)
    ]
    return {**about, "apiKey": {"id": bodies.identifier("key", asked.caller.name), "accessList": [], "roles": roles}}


@route("GET /groups", "groups", "ApiAtlasGroupsResource::getAllGroups")
def list_groups(asked: Asked) -> Json:
    groups = [project for project in asked.atlas.projects.values() if project.id in asked.caller.projects]
    return asked.page([bodies.project_body(project, asked.root) for project in groups])


@route(f"GET {GROUP}", "project", "ApiAtlasGroupsResource::getGroup")
def get_group(asked: Asked) -> Json:
    return bodies.project_body(asked.group, asked.root)


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


@route(f"POST {_USERS}", "users", _USERS_JAVA + "addUser", success=201, role=_USER_ADMIN)
def create_user(asked: Asked) -> Json:
    body = parse(asked.request, USER_ATTRIBUTES)
    attributes = new_user(asked.group, body)
    key, limit = (attributes["databaseName"], attributes["username"]), asked.group.user_limit
    refuse_if(key in asked.group.users, "USER_ALREADY_EXISTS", key[1])
    refuse_if(len(asked.group.users) >= limit, "GROUP_USERS_LIMIT_EXCEEDED", limit)
    mongods = {cluster.mongo for cluster in asked.group.clusters.values()}
    for project in asked.atlas.projects.values():
        if key in project.users and mongods & {cluster.mongo for cluster in project.clusters.values()}:
            raise ApiError("UNEXPECTED_ERROR", detail="Emulator: two projects share a mongod, and so user names.")
    scram = attributes["databaseName"] == "admin"
    return _put_user(asked, None, attributes, body["password"] if scram else None)


@route(f"PATCH {_ONE_USER}", "users", _USERS_JAVA + "patchUser", role=_USER_ADMIN)
def update_user(asked: Asked) -> Json:
    body = parse(asked.request, USER_ATTRIBUTES)
    old = _user(asked, "USERNAME_NOT_FOUND")
    return _put_user(asked, old, changed_user(asked.group, old.attributes, body), body.get("password") or old.password)


def _put_user(asked: Asked, old: User | None, attributes: Json, password: str | None) -> Json:
    user = User(attributes, password, next(asked.atlas.versions))
    asked.group.users[attributes["databaseName"], user.name] = user
    asked.changes += asked.atlas.queue(asked.group, old, user)
    return bodies.user_body(asked.group, user, asked.root)


@route(f"DELETE {_ONE_USER}", "users", _USERS_JAVA + "deleteUser", success=204, role=_USER_ADMIN)
def delete_user(asked: Asked) -> None:
    user = _user(asked, "USER_NOT_FOUND")
    del asked.group.users[asked.names["databaseName"], user.name]
    asked.changes += asked.atlas.queue(asked.group, user, None)


@route(f"POST {_CERTIFICATES}", "project", _USERS_JAVA + "generateCert", success=201)
def create_certificate(asked: Asked) -> str:
    """Answer with the certificate and its key, which is kept nowhere."""
    body = parse(asked.request, ("monthsUntilExpiration",))
    months = body.get("monthsUntilExpiration", DEFAULT_MONTHS)
    refuse_if(not isinstance(months, int) or months < 1, "INVALID_ATTRIBUTE", "monthsUntilExpiration")
    refuse_if(months > MOST_MONTHS, "CERT_EXPIRY_CANNOT_EXCEED_TWO_YEARS")
    name = _certified(asked).name
    issued = asked.atlas.authority.issue(name, months)
    asked.group.certificates.setdefault(name, []).append(
        {
            "_id": issued.number,
            "createdAt": wire_time(issued.created),
            "groupId": asked.group.id,
            "notAfter": wire_time(issued.ends),
            "subject": issued.subject,
        }
    )
    return issued.pem


@route(f"GET {_CERTIFICATES}", "project", _USERS_JAVA + "getValidCertsByUsername")
def list_certificates(asked: Asked) -> Json:
    return asked.page(asked.group.certificates.get(_certified(asked).name, []))


def _certified(asked: Asked) -> User:
    key = "$external", asked.names["username"]
    refuse_if(key not in asked.group.users, "USERNAME_NOT_FOUND", key[1])
    user = asked.group.users[key]
    refuse_if(user.attributes["x509Type"] != "MANAGED", "USER_NOT_MANAGED_X509")
    return user


def _user(asked: Asked, code: str) -> User:
    key = asked.names["databaseName"], asked.names["username"]
    refuse_if(key not in asked.group.users, code, key[1])
    return asked.group.users[key]


@route(f"GET {GROUP}/customDBRoles/roles", "roles", "ApiAtlasCustomDBRoleResource::getCustomDBRoles")
def list_roles(asked: Asked) -> list[Json]:
    return list(asked.group.roles.values())


@route(f"GET {GROUP}/limits", "project", "ApiAtlasGroupsResource::getLimits")
def list_limits(asked: Asked) -> list[Json]:
    return bodies.limit_bodies(asked.group)


@route(f"GET {GROUP}/limits/{{limitName}}", "project", "ApiAtlasGroupsResource::getLimit")
def get_limit(asked: Asked) -> Json:
    for limit in bodies.limit_bodies(asked.group):
        if limit["name"] == asked.names["limitName"]:
            return limit
    raise ApiError("RESOURCE_NOT_FOUND", asked.request.path)
