"""The part of the Atlas Admin API v2 that the broker uses, for one project.

`AtlasClient` is safe to share between threads and across a fork; keep one for as long as the process lives, since
connections, digest nonces and tokens are reused through it. Every method raises `AtlasError` (see `errors`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, Self, TypeVar, Unpack

from workers.atlas import endpoints
from workers.atlas.api_key import ApiKey
from workers.atlas.endpoints import ApiEndpoint, Call
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
    AtlasRole,
    Cluster,
    ConnectionStrings,
    DatabaseUser,
    Json,
    Malformed,
    PrivateEndpoint,
    Process,
    UserChanges,
    object_of,
    objects,
    parse_cluster,
    parse_flex,
    parse_process,
    parse_user,
    text,
    user_fields,
)
from workers.atlas.service_account import MemoryTokens, ServiceAccount, Token, TokenStore
from workers.atlas.wire import Answer, CallGuard, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "Answer",
    "ApiKey",
    "AtlasClient",
    "AtlasError",
    "AtlasRole",
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


class AtlasClient:
    """The Atlas Admin API for one project. `guard` is called before each HTTP request and after each answer.

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
        self._wire = Wire(base_url, auth, timeout)
        self._guard = guard

    def guarded(self, guard: CallGuard) -> Self:
        """Return the same client, with the same connections and tokens, under another guard."""
        guarded = copy.copy(self)
        guarded._guard = guard  # noqa: SLF001 - of the same class
        return guarded

    def project(self) -> Json:
        """Return the project as Atlas describes it (`name`, `orgId`, …)."""
        return self._wire.ask(self._call(endpoints.GET_PROJECT), _parse_project, self._guard)

    def clusters(self) -> list[Cluster]:
        """Return dedicated, free and flex clusters. Deleted ones are not there, paused and deleting ones are."""
        return [*self._pages(endpoints.LIST_CLUSTERS, parse_cluster), *self._pages(endpoints.LIST_FLEX, parse_flex)]

    def cluster(self, name: str) -> Cluster:
        """Return a cluster, of the clusters API, or of the flex API when Atlas says that it belongs there.

        Raises:
            ClusterNotFound: the project has no cluster of that name.
        """
        try:
            return self._wire.ask(self._call(endpoints.GET_CLUSTER, cluster=name), parse_cluster, self._guard)
        except WrongClusterApi:
            pass
        return self._wire.ask(self._call(endpoints.GET_FLEX, cluster=name), parse_flex, self._guard)

    def cluster_status(self, name: str) -> Literal["PENDING", "APPLIED"]:
        """Return whether every change of users has reached the cluster; an old APPLIED may be read for a while."""
        return self._wire.ask(self._call(endpoints.GET_STATUS, cluster=name), _parse_status, self._guard)

    def processes(self) -> list[Process]:
        """Return the mongod and mongos processes of the project's dedicated clusters."""
        return list(self._pages(endpoints.LIST_PROCESSES, parse_process))

    def databases(self, host: str, port: int) -> list[str]:
        """Return a mongod's databases, as monitoring saw them lately: what is a minute old may be missing."""
        named = {"host": host, "port": str(port)}
        return list(self._pages(endpoints.LIST_DATABASES, lambda database: text(database, "databaseName"), **named))

    def create_user(self, user: DatabaseUser) -> None:
        """Create a user.

        Every SCRAM user authenticates against `admin`; another databaseName there would be answered with a 500.

        Raises:
            UserAlreadyExists: the name is taken.
            UserLimitReached: the project is full.
            UserExpired: the end of the user's life has passed.
        """
        body = {"username": user.username, "databaseName": "admin", "groupId": self.project_id} | user_fields(
            password=user.password,
            roles=user.roles,
            labels=user.labels,
            scopes=user.scopes,
            delete_after=user.delete_after,
            description=user.description,
        )
        self._wire.ask(self._call(endpoints.CREATE_USER, body, username=user.username), lambda _: None, self._guard)

    def update_user(self, username: str, **changes: Unpack[UserChanges]) -> None:
        """Change what is given and not None, and nothing else.

        Raises:
            UserNotFound: there is no such user.
            UserExpired: the end of the user's life has passed.
        """
        self._wire.ask(
            self._call(endpoints.UPDATE_USER, user_fields(**changes), username=username), lambda _: None, self._guard
        )

    def delete_user(self, username: str) -> None:
        """Delete a user.

        Raises:
            UserNotFound: there is no such user.
        """
        self._wire.ask(self._call(endpoints.DELETE_USER, username=username), lambda _: None, self._guard)

    def user(self, username: str) -> DatabaseUser:
        """Return a user, without the password.

        Raises:
            UserNotFound: there is no such user.
        """
        return self._wire.ask(self._call(endpoints.GET_USER, username=username), parse_user, self._guard)

    def users(self) -> Iterator[DatabaseUser]:
        """Return all users of the project, page by page; one deleted meanwhile may hide another from the list."""
        return self._pages(endpoints.LIST_USERS, parse_user)

    def access_list(self) -> list[Json]:
        """Return the project's IP access list (the addresses that reach its clusters), as Atlas gives it."""
        return list(self._pages(endpoints.LIST_ACCESS, lambda entry: entry))

    def user_limit(self) -> int | None:
        """Return how many database users the project may hold; None when Atlas does not say."""
        body = self._wire.ask(self._call(endpoints.GET_LIMIT, limit=USERS_LIMIT), lambda body: body, self._guard)
        for key in ("value", "defaultLimit"):
            if isinstance(body.get(key), int):
                return int(body[key])
        return None

    def key_roles(self) -> frozenset[str] | None:
        """Return the API key's roles in this project, and `ORG_OWNER`; None for service accounts."""
        return self._wire.ask(self._call(endpoints.GET_KEY), self._parse_key_roles, self._guard)

    def _parse_key_roles(self, body: Json) -> frozenset[str] | None:
        key = object_of(body, "apiKey")
        if "roles" not in key:
            return None
        roles = objects(key, "roles")
        here = {text(role, "roleName") for role in roles if role.get("groupId") == self.project_id}
        return frozenset(here | {"ORG_OWNER" for role in roles if role.get("roleName") == "ORG_OWNER"})

    def _call(self, endpoint: ApiEndpoint, body: Json | None = None, **names: str) -> Call:
        return Call(endpoint, {"project": self.project_id} | names, body=body)

    def _pages(self, endpoint: ApiEndpoint, parse: Callable[[Json], T], **names: str) -> Iterator[T]:
        """Return all results, also when Atlas gives fewer a page than asked for: no count or page size is relied on."""

        def parse_page(body: Json) -> tuple[list[T], Json]:
            if body.get("results") is None:  # no empty list: every user would seem to be gone
                raise Malformed("results is missing")
            return [parse(each) for each in objects(body, "results")], body

        seen = 0
        for number in range(1, _MOST_PAGES):
            query = {"pageNum": number, "itemsPerPage": PAGE}
            call = Call(endpoint, {"project": self.project_id} | names, query=query)
            results, body = self._wire.ask(call, parse_page, self._guard)
            yield from results
            seen += len(results)
            total, links = body.get("totalCount"), body.get("links")
            more = isinstance(links, list) and any(
                isinstance(each, dict) and each.get("rel") == "next" for each in links
            )
            if not results or (seen >= total if isinstance(total, int) else not more):
                return
        raise UnreadableAnswer(f"Atlas's list when asked to {call.does} does not end.", status=200)


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
