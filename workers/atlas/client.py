"""The part of the Atlas Admin API v2 that the broker uses, for one project.

`AtlasClient` is safe to share between threads and across a fork. Keep one for the life of the process, since it reuses
connections, digest nonces and tokens. Every method that calls Atlas raises `AtlasError` (see `errors`) and whatever the
guard raises.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TypeVar, Unpack

from workers.atlas import endpoints
from workers.atlas.api_key import ApiKey
from workers.atlas.endpoints import ApiEndpoint, Call
from workers.atlas.errors import (
    AtlasError,
    ClusterDeleting,
    ClusterLimitReached,
    ClusterNameTaken,
    ClusterNotFound,
    ClusterProtected,
    EntryNotFound,
    NoAnswer,
    OutOfCapacity,
    PaymentRequired,
    ProjectNotFound,
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
    AccessEntry,
    AtlasRole,
    Certificate,
    Cluster,
    ClusterChanges,
    ConnectionStrings,
    DatabaseUser,
    Json,
    Malformed,
    NewCluster,
    PrivateEndpoint,
    Process,
    UserChanges,
    cluster_changes,
    cluster_fields,
    object_of,
    objects,
    parse_access_entry,
    parse_certificate,
    parse_cluster,
    parse_flex,
    parse_process,
    parse_user,
    text,
    user_fields,
)
from workers.atlas.service_account import MemoryTokens, ServiceAccount, Token, TokenStore
from workers.atlas.wire import TOTAL_SECONDS, Answer, CallGuard, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "AccessEntry",
    "Answer",
    "ApiKey",
    "AtlasClient",
    "AtlasError",
    "AtlasRole",
    "CallGuard",
    "Certificate",
    "Cluster",
    "ClusterChanges",
    "ClusterLimitReached",
    "ClusterNameTaken",
    "ClusterNotFound",
    "ClusterProtected",
    "ConnectionStrings",
    "DatabaseUser",
    "EntryNotFound",
    "MemoryTokens",
    "NewCluster",
    "NoAnswer",
    "OutOfCapacity",
    "PaymentRequired",
    "PrivateEndpoint",
    "Process",
    "ProjectNotFound",
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

PAGE = 500  # the largest page of Atlas
_MOST_PAGES = 1000
ANY_OBJECT: Callable[[Json], Json] = dict
"""The parser of answers of which nothing is needed."""
USERS_LIMIT = "atlas.project.security.databaseAccess.users"


@dataclass(frozen=True, slots=True)
class _ClusterApi:
    """How the API of one kind of clusters is called."""

    create: ApiEndpoint
    get: ApiEndpoint
    update: ApiEndpoint
    delete: ApiEndpoint
    parse: Callable[[Json], Cluster]


_DEDICATED = _ClusterApi(
    endpoints.CREATE_CLUSTER, endpoints.GET_CLUSTER, endpoints.UPDATE_CLUSTER, endpoints.DELETE_CLUSTER, parse_cluster
)
_FLEX = _ClusterApi(endpoints.CREATE_FLEX, endpoints.GET_FLEX, endpoints.UPDATE_FLEX, endpoints.DELETE_FLEX, parse_flex)
_OF_KIND = {"dedicated": _DEDICATED, "free": _DEDICATED, "flex": _FLEX}


class AtlasClient:
    """The Atlas Admin API for one project.

    Args:
        base_url: The URL of Atlas without a path, such as `https://cloud.mongodb.com`.
        project_id: The id of the project (`groupId`).
        auth: The API key or the service account.
        timeout: Seconds to connect, seconds between two bytes of the answer, and seconds for a whole call.
        guard: Called before each HTTP request and after each answer.

    Raises:
        ValueError: The base URL is malformed.
    """

    def __init__(
        self,
        base_url: str,
        project_id: str,
        auth: ApiKey | ServiceAccount,
        *,
        timeout: tuple[float, float, float] = (3.05, 8.0, TOTAL_SECONDS),
        guard: CallGuard | None = None,
    ) -> None:
        self.project_id = project_id
        self._wire = Wire(base_url, auth, timeout)
        self._guard = guard

    def guarded(self, guard: CallGuard) -> Self:
        """Return a client with the same connections and tokens, and another guard."""
        guarded = copy.copy(self)
        guarded._guard = guard  # noqa: SLF001 - of the same class
        return guarded

    def replace_credentials(self, auth: ApiKey | ServiceAccount) -> None:
        """Use other credentials from the next call on, also in the clients that ``guarded`` has returned."""
        self._wire.auth = auth

    def project(self) -> Json:
        """Return the JSON object of the project (`id`, `name`, `orgId`, …)."""
        return self._wire.ask(self._call(endpoints.GET_PROJECT), _parse_project, self._guard)

    def clusters(self) -> list[Cluster]:
        """Return the dedicated, free and flex clusters, with those that are paused or being deleted."""
        return [*self._pages(endpoints.LIST_CLUSTERS, parse_cluster), *self._pages(endpoints.LIST_FLEX, parse_flex)]

    def cluster(self, name: str, kind: Literal["dedicated", "flex"] = "dedicated") -> Cluster:
        """Return a cluster of any kind. One that is not of the expected kind takes a second call, to the other API.

        Raises:
            ClusterNotFound: The project has no cluster of that name.
        """
        expected, other = (_FLEX, _DEDICATED) if kind == "flex" else (_DEDICATED, _FLEX)
        try:
            return self._wire.ask(self._call(expected.get, cluster=name), expected.parse, self._guard)
        except WrongClusterApi:
            pass
        return self._wire.ask(self._call(other.get, cluster=name), other.parse, self._guard)

    def create_cluster(self, new: NewCluster) -> Cluster:
        """Start the creation of a cluster, which goes on in Atlas; return the cluster as it is now.

        A creation whose answer was lost may have started: look for a cluster of that name before creating it again.

        Raises:
            ClusterNameTaken: The project has a cluster of that name, or of the same first 23 characters.
            ClusterLimitReached, PaymentRequired, OutOfCapacity: Atlas does not allow one more cluster like this.
        """
        endpoint, parse = _OF_KIND[new.kind].create, _OF_KIND[new.kind].parse
        return self._wire.ask(self._call(endpoint, cluster_fields(new), cluster=new.name), parse, self._guard)

    def update_cluster(self, cluster: Cluster, **changes: Unpack[ClusterChanges]) -> Cluster:
        """Start the change of the given fields of a cluster; return the cluster as it is now.

        Args:
            cluster: The cluster as `cluster` has just returned it.
            changes: The fields; those that are absent or None keep their values.

        Raises:
            ClusterNotFound: The project has no cluster of that name.
            OutOfCapacity, PaymentRequired: Atlas does not allow the change.
        """
        of_kind = _OF_KIND[cluster.kind]
        body = cluster_changes(cluster, **changes)
        return self._wire.ask(self._call(of_kind.update, body, cluster=cluster.name), of_kind.parse, self._guard)

    def delete_cluster(self, name: str, kind: Literal["dedicated", "flex", "free"]) -> None:
        """Start the deletion of a cluster, which may be under way already; it ends with `ClusterNotFound`.

        Raises:
            ClusterNotFound: The project has no cluster of that name.
            ClusterProtected: Termination protection is on.
        """
        with suppress(ClusterDeleting):
            self._wire.ask(self._call(_OF_KIND[kind].delete, cluster=name), ANY_OBJECT, self._guard)

    def cluster_status(self, name: str) -> Literal["PENDING", "APPLIED"]:
        """Return whether all changes of users have reached the cluster; Atlas may return an old APPLIED for a while.

        Where the clusters API does not know flex clusters, one that is at rest has all changes.

        Raises:
            ClusterNotFound: The project has no cluster of that name.
        """
        try:
            return self._wire.ask(self._call(endpoints.GET_STATUS, cluster=name), _parse_status, self._guard)
        except WrongClusterApi:
            pass
        return "APPLIED" if self.cluster(name, "flex").state == "IDLE" else "PENDING"

    def processes(self) -> list[Process]:
        """Return the mongod and mongos processes of all dedicated clusters of the project."""
        return list(self._pages(endpoints.LIST_PROCESSES, parse_process))

    def databases(self, host: str, port: int) -> list[str]:
        """Return the names of the databases of a mongod, as Atlas's monitoring saw them last.

        A database that was created or dropped a minute ago may not be considered yet.

        Args:
            host: The host name of the process, as in `processes`.
            port: Its port.
        """
        named = {"host": host, "port": str(port)}
        return list(self._pages(endpoints.LIST_DATABASES, lambda database: text(database, "databaseName"), **named))

    def create_user(self, user: DatabaseUser) -> None:
        """Create a user.

        A SCRAM user has the database `admin`, any other `$external`; Atlas may answer a wrong one with a 500.

        Raises:
            UserAlreadyExists: The project has a user of that name.
            UserLimitReached: The project has as many users as Atlas allows.
            UserExpired: `delete_after` is in the past.
        """
        named = {"username": user.username, "databaseName": user.database, "groupId": self.project_id}
        kinds = {"awsIAMType": user.aws_iam, "x509Type": user.x509}
        kinds = {name: kind for name, kind in kinds.items() if kind != "NONE"}
        body = (
            named
            | kinds
            | user_fields(
                password=user.password,
                roles=user.roles,
                labels=user.labels,
                scopes=user.scopes,
                delete_after=user.delete_after,
                description=user.description,
            )
        )
        self._wire.ask(self._call(endpoints.CREATE_USER, body, username=user.username), ANY_OBJECT, self._guard)

    def update_user(self, username: str, database: str = "admin", **changes: Unpack[UserChanges]) -> None:
        """Change the given fields of a user; fields that are absent or None keep their values.

        Raises:
            UserNotFound: The project has no such user.
            UserExpired: The `delete_after` of the user is in the past.
        """
        body = {"username": username, "databaseName": database, "groupId": self.project_id} | user_fields(**changes)
        call = self._call(endpoints.UPDATE_USER, body, username=username, database=database)
        self._wire.ask(call, ANY_OBJECT, self._guard)

    def delete_user(self, username: str, database: str = "admin") -> None:
        """Delete a user.

        Raises:
            UserNotFound: The project has no such user.
        """
        call = self._call(endpoints.DELETE_USER, username=username, database=database)
        self._wire.ask(call, ANY_OBJECT, self._guard)

    def user(self, username: str, database: str = "admin") -> DatabaseUser:
        """Return a user, without the password.

        Raises:
            UserNotFound: The project has no such user.
        """
        call = self._call(endpoints.GET_USER, username=username, database=database)
        return self._wire.ask(call, parse_user, self._guard)

    def users(self) -> Iterator[DatabaseUser]:
        """Yield all users of the project. A deletion between two pages may hide another user from the list."""
        return self._pages(endpoints.LIST_USERS, parse_user)

    def create_certificate(self, username: str, months: int) -> Certificate:
        """Create a certificate of a user whose `x509` is `MANAGED`; the ones before stay valid.

        Atlas shows the private key only in this answer. If it was lost, create another certificate.

        Args:
            username: The user, which is on the database `$external`.
            months: How long the certificate is valid; at most 24.

        Raises:
            UserNotFound: The project has no such user.
        """
        body = {"monthsUntilExpiration": months}
        call = self._call(endpoints.CREATE_CERTIFICATE, body, username=username)
        return self._wire.ask(call, parse_certificate, self._guard)

    def access_list(self) -> list[AccessEntry]:
        """Return the IP access list of the project's clusters."""
        return list(self._pages(endpoints.LIST_ACCESS, parse_access_entry))

    def add_access_entry(self, entry: AccessEntry) -> None:
        """Add an entry to the IP access list, or replace its comment. Atlas loses one of two changes at the same time.

        Raises:
            Refused: The list is full, or the entry is no address.
        """
        body = [{"cidrBlock": entry.cidr, "comment": entry.comment}]
        call = self._call(endpoints.ADD_ACCESS, body, entry=entry.cidr or "")
        self._wire.ask(call, ANY_OBJECT, self._guard)

    def access_status(self, cidr: str) -> Literal["PENDING", "FAILED", "ACTIVE"]:
        """Return whether the clusters consider an entry of the IP access list.

        Raises:
            EntryNotFound: The list has no such entry.
        """
        call = self._call(endpoints.GET_ACCESS_STATUS, entry=cidr)
        return self._wire.ask(call, _parse_access_status, self._guard)

    def delete_access_entry(self, cidr: str) -> None:
        """Delete an entry of the IP access list.

        Raises:
            EntryNotFound: The list has no such entry.
        """
        self._wire.ask(self._call(endpoints.DELETE_ACCESS, entry=cidr), ANY_OBJECT, self._guard)

    def user_limit(self) -> int | None:
        """Return how many database users the project may have; None when the answer has no number."""
        body = self._wire.ask(self._call(endpoints.GET_LIMIT, limit=USERS_LIMIT), lambda body: body, self._guard)
        for key in ("value", "defaultLimit"):
            if isinstance(body.get(key), int):
                return int(body[key])
        return None

    def key_roles(self) -> frozenset[str] | None:
        """Return the roles of the API key in this project, and `ORG_OWNER`; None for service accounts."""
        return self._wire.ask(self._call(endpoints.GET_KEY), self._parse_key_roles, self._guard)

    def _parse_key_roles(self, body: Json) -> frozenset[str] | None:
        key = object_of(body, "apiKey")
        if "roles" not in key:
            return None
        roles = objects(key, "roles")
        here = {text(role, "roleName") for role in roles if role.get("groupId") == self.project_id}
        return frozenset(here | {"ORG_OWNER" for role in roles if role.get("roleName") == "ORG_OWNER"})

    def _call(self, endpoint: ApiEndpoint, body: Json | list[Json] | None = None, **names: str) -> Call:
        return Call(endpoint, {"project": self.project_id} | names, body=body)

    def _pages(self, endpoint: ApiEndpoint, parse: Callable[[Json], T], **names: str) -> Iterator[T]:
        """Yield the results of all pages. A page may be smaller than requested, and `totalCount` may be missing."""

        def parse_page(body: Json) -> tuple[list[T], Json]:
            if body.get("results") is None:  # not the same as an empty list: all users would seem to be gone
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
            if not results or not (more or (isinstance(total, int | float) and seen < total)):
                return
        raise UnreadableAnswer(f"Atlas's list when asked to {call.does} does not end.", status=200)


def _parse_project(body: Json) -> Json:
    text(body, "id")
    return body


def _parse_access_status(body: Json) -> Literal["PENDING", "FAILED", "ACTIVE"]:
    match body.get("STATUS") or body.get("status"):
        case "PENDING":
            return "PENDING"
        case "FAILED":
            return "FAILED"
        case "ACTIVE":
            return "ACTIVE"
    raise Malformed("STATUS is none of PENDING, FAILED and ACTIVE")


def _parse_status(body: Json) -> Literal["PENDING", "APPLIED"]:
    match body.get("changeStatus"):
        case "PENDING":
            return "PENDING"
        case "APPLIED":
            return "APPLIED"
    raise Malformed("changeStatus is neither PENDING nor APPLIED")
