"""Every endpoint: path, rate limit, versions with the X-Java-Method they answer, and who answers.

The Java methods of the root, the status, the limits and a process's databases were never recorded; they are made up.
"""

from tests.emulator.endpoints import (
    create_user,
    delete_user,
    get_cluster,
    get_flex_cluster,
    get_group,
    get_limit,
    get_root,
    get_status,
    get_user,
    list_access,
    list_clusters,
    list_flex_clusters,
    list_groups,
    list_limits,
    list_roles,
    list_users,
    update_user,
)
from tests.emulator.processes import list_databases, list_processes
from tests.emulator.routes import Route

_USERS = "/groups/{groupId}/databaseUsers"
_PROCESSES = "/groups/{groupId}/processes"
_ONE_USER = _USERS + "/{databaseName}/{username}"
_OLD_CLUSTERS = "ApiAtlasClusterDescriptionV15Resource::"
_CLUSTERS = "ApiAtlasClusterDescriptionResource20240805::"


def _first(java: str) -> dict[str, str]:
    return {"2023-01-01": java}


def _clusters(method: str) -> dict[str, str]:
    return {"2023-02-01": _OLD_CLUSTERS + method, "2024-08-05": _CLUSTERS + method}


def _flex(method: str) -> dict[str, str]:
    return {"2024-11-13": f"ApiAtlasFlexClusterResource::{method}"}


def _processes(method: str) -> dict[str, str]:
    return _first(f"ApiAtlasProcessesResource::{method}")


def _users(method: str) -> dict[str, str]:
    return _first(f"ApiAtlasV2DatabaseUsersResource::{method}")


ROUTES = [
    Route("GET", "", "root", _first("ApiSystemResource::getSystem"), get_root),
    Route("GET", "/groups", "groups", _first("ApiAtlasGroupsResource::getAllGroups"), list_groups),
    Route("GET", "/groups/{groupId}", "project", _first("ApiAtlasGroupsResource::getGroup"), get_group),
    Route("GET", "/groups/{groupId}/clusters", "clusters", _clusters("getAllClusters"), list_clusters),
    Route("GET", "/groups/{groupId}/clusters/{clusterName}", "clusters", _clusters("getCluster"), get_cluster),
    Route(
        "GET",
        "/groups/{groupId}/clusters/{clusterName}/status",
        "clusters",
        _first("ApiAtlasClusterDescriptionResource::getStatus"),
        get_status,
    ),
    Route("GET", "/groups/{groupId}/flexClusters", "project", _flex("getAllFlexClusters"), list_flex_clusters),
    Route("GET", "/groups/{groupId}/flexClusters/{clusterName}", "project", _flex("getFlexCluster"), get_flex_cluster),
    Route("GET", _PROCESSES, "processes", _processes("getAllAtlasProcesses"), list_processes),
    Route("GET", _PROCESSES + "/{processId}/databases", "processes", _processes("getDatabases"), list_databases),
    Route("GET", _USERS, "users", _users("getUsers"), list_users),
    Route("POST", _USERS, "users", _users("addUser"), create_user, 201),
    Route("GET", _ONE_USER, "users", _users("getUserByName"), get_user),
    Route("PATCH", _ONE_USER, "users", _users("patchUser"), update_user),
    Route("DELETE", _ONE_USER, "users", _users("deleteUser"), delete_user, 204),
    Route(
        "GET",
        "/groups/{groupId}/accessList",
        "project",
        _first("ApiAtlasNetworkAccessListResource::getAtlasWhitelist"),
        list_access,
    ),
    Route(
        "GET",
        "/groups/{groupId}/customDBRoles/roles",
        "roles",
        _first("ApiAtlasCustomDBRoleResource::getCustomDBRoles"),
        list_roles,
    ),
    Route("GET", "/groups/{groupId}/limits", "project", _first("ApiAtlasGroupsResource::getLimits"), list_limits),
    Route(
        "GET",
        "/groups/{groupId}/limits/{limitName}",
        "project",
        _first("ApiAtlasGroupsResource::getLimit"),
        get_limit,
    ),
]
