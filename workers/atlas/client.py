"""The part of the Atlas Admin API v2 that the broker uses, for one project.

`AtlasClient` is safe to share between threads and across a fork; keep one for as long as the process lives, since
connections, digest nonces and tokens are reused through it. Every method raises `AtlasError` (see `errors`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from workers.atlas.auth import ApiKey, MemoryTokens, ServiceAccount, Token, TokenStore
from workers.atlas.call import Call, Operation
from workers.atlas.errors import (
    AtlasError,
    ClusterNotFound,
    NoAnswer,
    Refused,
    Unauthorized,
    UnreadableAnswer,
    UserAlreadyExists,
    UserExpired,
    UserLimitReached,
    UserNotFound,
    WrongClusterApi,
)
from workers.atlas.models import (
    Cluster,
    ConnectionStrings,
    DatabaseUser,
    Json,
    Malformed,
    PrivateEndpoint,
    Process,
    Role,
    object_of,
    objects,
    parse_cluster,
    parse_flex,
    parse_process,
    parse_user,
    text,
    user_body,
    user_changes,
)
from workers.atlas.wire import Answer, CallGuard, Unguarded, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

__all__ = [
    "Answer",
    "ApiKey",
    "AtlasClient",
    "AtlasError",
    "CallGuard",
    "Cluster",
    "ClusterNotFound",
    "ConnectionStrings",
    "DatabaseUser",
    "MemoryTokens",
    "NoAnswer",
    "PrivateEndpoint",
    "Process",
    "Refused",
    "Role",
    "ServiceAccount",
    "Token",
    "TokenStore",
    "Unauthorized",
    "UnreadableAnswer",
    "UserAlreadyExists",
    "UserExpired",
    "UserLimitReached",
    "UserNotFound",
]

T = TypeVar("T")

PAGE = 500  # the most that Atlas gives at once
_MOST_PAGES = 1000
USERS_LIMIT = "atlas.project.security.databaseAccess.users"

_ROOT = "/api/atlas/v2"
_PROJECT = f"{_ROOT}/groups/{{project}}"
_USER = f"{_PROJECT}/databaseUsers/admin/{{username}}"
_IN = "in project {project}"

GET_KEY = Operation("GET", _ROOT, "2023-01-01", "tell about the key itself")
GET_PROJECT = Operation("GET", _PROJECT, "2023-01-01", "tell about project {project}")
GET_LIMIT = Operation("GET", f"{_PROJECT}/limits/{{limit}}", "2023-01-01", f"tell the limit {{limit}} {_IN}")
LIST_ACCESS = Operation("GET", f"{_PROJECT}/accessList", "2023-01-01", f"list the IP access list {_IN}")
LIST_CLUSTERS = Operation("GET", f"{_PROJECT}/clusters", "2024-08-05", f"list the clusters {_IN}")
GET_CLUSTER = Operation(
    "GET", f"{_PROJECT}/clusters/{{cluster}}", "2024-08-05", f"tell about cluster {{cluster}} {_IN}"
)
GET_STATUS = Operation(
    "GET", f"{_PROJECT}/clusters/{{cluster}}/status", "2023-01-01", f"tell the status of cluster {{cluster}} {_IN}"
)
LIST_FLEX = Operation("GET", f"{_PROJECT}/flexClusters", "2024-11-13", f"list the flex clusters {_IN}")
GET_FLEX = Operation(
    "GET", f"{_PROJECT}/flexClusters/{{cluster}}", "2024-11-13", f"tell about flex cluster {{cluster}} {_IN}"
)
LIST_PROCESSES = Operation("GET", f"{_PROJECT}/processes", "2023-01-01", f"list the processes {_IN}")
LIST_DATABASES = Operation(
    "GET",
    f"{_PROJECT}/processes/{{host}}:{{port}}/databases",
    "2023-01-01",
    f"list the databases of process {{host}} {{port}} {_IN}",
)
LIST_USERS = Operation("GET", f"{_PROJECT}/databaseUsers", "2023-01-01", f"list the database users {_IN}")
CREATE_USER = Operation("POST", f"{_PROJECT}/databaseUsers", "2023-01-01", f"make database user {{username}} {_IN}")
GET_USER = Operation("GET", _USER, "2023-01-01", f"tell about database user {{username}} {_IN}")
UPDATE_USER = Operation("PATCH", _USER, "2023-01-01", f"change database user {{username}} {_IN}")
DELETE_USER = Operation("DELETE", _USER, "2023-01-01", f"delete database user {{username}} {_IN}")


class AtlasClient:
    """`guard` is asked before each HTTP request and told of each answer.

    `timeout` is (seconds to connect, seconds between two bytes of the answer).
    """

    def __init__(
        self,
        base_url: str,
        project_id: str,
        auth: ApiKey | ServiceAccount,
        *,
        timeout: tuple[float, float] = (3.05, 8.0),
        guard: CallGuard | None = None,
    ) -> None:
        self.project_id = project_id
        self._wire = Wire(base_url, auth, timeout=timeout, guard=guard or Unguarded())

    def guarded(self, guard: CallGuard) -> Self:
        """Return the same client, with the same connections and tokens, under another guard."""
        guarded = copy.copy(self)
        guarded._wire = self._wire.guarded(guard)  # noqa: SLF001 - of the same class
        return guarded

    def project(self) -> Json:
        """The project as Atlas describes it (`name`, `orgId`, …)."""
        return self._wire.ask(self._call(GET_PROJECT), _parse_project)

    def clusters(self) -> list[Cluster]:
        """Dedicated, free and flex clusters. Deleted ones are not there, paused and deleting ones are."""
        return [*self._pages(LIST_CLUSTERS, parse_cluster), *self._pages(LIST_FLEX, parse_flex)]

    def cluster(self, name: str) -> Cluster:
        """Asks the clusters API, and the flex API when Atlas says that it belongs there."""
        try:
            return self._wire.ask(self._call(GET_CLUSTER, cluster=name), parse_cluster)
        except WrongClusterApi:
            pass
        return self._wire.ask(self._call(GET_FLEX, cluster=name), parse_flex)

    def cluster_status(self, name: str) -> Literal["PENDING", "APPLIED"]:
        """Whether every change of the project's users has reached the cluster; may read an old APPLIED for a while."""
        return self._wire.ask(self._call(GET_STATUS, cluster=name), _parse_status)

    def processes(self) -> list[Process]:
        """The mongod and mongos processes of the project's dedicated clusters."""
        return list(self._pages(LIST_PROCESSES, parse_process))

    def databases(self, host: str, port: int) -> list[str]:
        """The databases of a mongod, as monitoring saw them lately: what was made a minute ago may be missing."""
        named = {"host": host, "port": str(port)}
        return list(self._pages(LIST_DATABASES, lambda database: text(database, "databaseName"), **named))

    def create_user(self, user: DatabaseUser) -> None:
        """Raises UserAlreadyExists when the name is taken, UserLimitReached when the project is full."""
        call = self._call(CREATE_USER, body=user_body(user, self.project_id), username=user.username)
        self._wire.ask(call, _ignore)

    def update_user(
        self,
        username: str,
        *,
        password: str | None = None,
        roles: tuple[Role, ...] | None = None,
        labels: dict[str, str] | None = None,
        scopes: tuple[str, ...] | None = None,
        delete_after: datetime | None = None,
        description: str | None = None,
    ) -> None:
        """Changes what is not None and nothing else; raises UserNotFound when there is no such user."""
        changes = user_changes(
            password=password,
            roles=roles,
            labels=labels,
            scopes=scopes,
            delete_after=delete_after,
            description=description,
        )
        self._wire.ask(self._call(UPDATE_USER, body=changes, username=username), _ignore)

    def delete_user(self, username: str) -> None:
        """Raises UserNotFound when there is no such user."""
        self._wire.ask(self._call(DELETE_USER, username=username), _ignore)

    def user(self, username: str) -> DatabaseUser:
        """Raises UserNotFound when there is no such user. The password is not in it."""
        return self._wire.ask(self._call(GET_USER, username=username), parse_user)

    def users(self) -> Iterator[DatabaseUser]:
        """All users of the project, page by page; one deleted meanwhile may hide another from the list."""
        return self._pages(LIST_USERS, parse_user)

    def access_list(self) -> list[Json]:
        """Return the project's IP access list (the addresses that reach its clusters), as Atlas gives it."""
        return list(self._pages(LIST_ACCESS, lambda entry: entry))

    def user_limit(self) -> int | None:
        """How many database users the project may hold; None when Atlas does not say."""
        body = self._wire.ask(self._call(GET_LIMIT, limit=USERS_LIMIT), lambda body: body)
        for key in ("value", "defaultLimit"):
            if isinstance(body.get(key), int):
                return int(body[key])
        return None

    def key_roles(self) -> frozenset[str] | None:
        """The API key's roles in this project, and `ORG_OWNER`; None when Atlas does not tell (service accounts)."""
        return self._wire.ask(self._call(GET_KEY), self._parse_key_roles)

    def _parse_key_roles(self, body: Json) -> frozenset[str] | None:
        key = object_of(body, "apiKey")
        if "roles" not in key:
            return None
        roles = objects(key, "roles")
        here = {text(role, "roleName") for role in roles if role.get("groupId") == self.project_id}
        return frozenset(here | {"ORG_OWNER" for role in roles if role.get("roleName") == "ORG_OWNER"})

    def _call(self, operation: Operation, body: Json | None = None, **names: str) -> Call:
        return Call(operation, {"project": self.project_id} | names, body=body)

    def _pages(self, operation: Operation, parse: Callable[[Json], T], **names: str) -> Iterator[T]:
        """All results, also when Atlas gives fewer a page than asked for: neither count nor page size is relied on."""
        seen = 0
        for number in range(1, _MOST_PAGES):
            query = {"pageNum": number, "itemsPerPage": PAGE}
            call = Call(operation, {"project": self.project_id} | names, query=query)
            results, body = self._wire.ask(call, lambda body: (_parse_results(body, parse), body))
            yield from results
            seen += len(results)
            if not results or not _has_more(body, seen):
                return
        raise UnreadableAnswer(f"Atlas's list when asked to {call.does} does not end.", status=200)


def _ignore(_: Json) -> None:
    """Ignore what Atlas says about a user that it has created, changed or deleted."""


def _parse_results(body: Json, parse: Callable[[Json], T]) -> list[T]:
    """A list that is left out is no empty list: every user would seem to be gone."""
    if body.get("results") is None:
        raise Malformed("results is missing")
    return [parse(each) for each in objects(body, "results")]


def _has_more(body: Json, seen: int) -> bool:
    total = body.get("totalCount")
    if isinstance(total, int):
        return seen < total
    links = body.get("links")
    return isinstance(links, list) and any(isinstance(link, dict) and link.get("rel") == "next" for link in links)


def _parse_project(body: Json) -> Json:
    text(body, "id")
    return body


def _parse_status(body: Json) -> Literal["PENDING", "APPLIED"]:
    match body.get("changeStatus"):
        case "PENDING":
            return "PENDING"
        case "APPLIED":
            return "APPLIED"
    raise Malformed("changeStatus is neither PENDING nor APPLIED")
