"""The part of ``atlas-broker check`` that asks Atlas: one project, its key, clusters, IP access list and users."""

import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from broker_api.authentication import Authentication
from broker_api.catalog.catalog import Catalog, Plan
from broker_api.settings.settings import Project, Settings
from broker_api.state.bind_reads import DEFAULT_LIMIT
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store
from workers.atlas.client import AtlasClient, MemoryTokens, Refused, TokenStore, Unauthorized, UnreadableAnswer
from workers.clusters.connection_strings import why_unusable
from workers.clusters.user_limit import is_nearly_full, told_limit
from workers.context import credentials, worker_vault
from workers.guard.oauth_token_store import SharedTokens
from workers.maintenance.findings import BAD, GOOD, WARN, Finding, guarded

_OWNERS = frozenset({"GROUP_OWNER", "ORG_OWNER"})


def check_project(settings: Settings, project: Project, store: Store | None) -> Iterator[Finding]:
    """Yield the findings about one project.

    Args:
        settings: The settings.
        project: The project with its credentials.
        store: The state; None when it cannot be used.

    Raises:
        AtlasError: The credentials do not open the project.
    """
    tokens: TokenStore = MemoryTokens()
    if store:  # use the workers' token: Atlas limits how many are valid at the same time
        tokens = SharedTokens(Housekeeping(store), worker_vault(settings), project.client_id)
    client = AtlasClient(settings.base_url, project.project_id, credentials(project, tokens))
    where = f"project {project.project_id}"
    kind = "service account" if project.client_id and project.client_secret else "API key"
    yield GOOD, f"{where}: the {kind} opens it, its name is {client.project().get('name')}"
    looks = {
        "roles": partial(_roles, settings, client, where, kind),
        "clusters": partial(_clusters, settings, client, where),
        "access list": partial(_access_list, settings, client, where),
        "database users": partial(_users, client, where),
    }
    for what, look in looks.items():
        yield from guarded(f"{where}: {what}", look)


@dataclass(frozen=True)
class _Task:
    """What the credentials must be allowed to do.

    Attributes:
        does: The task, for the findings.
        roles: The roles that allow it, beside that of an owner.
        advice: The name of the least role that allows it.
        attempt: Deletes what does not exist: the answer shows whether it is allowed, and nothing is changed. None for
            what only an attempt with an effect would show; owners may do it.
    """

    does: str
    roles: frozenset[str]
    advice: str
    attempt: Callable[[AtlasClient, str], None] | None


_USERS = _Task(
    "change database users",
    frozenset({"GROUP_DATABASE_ACCESS_ADMIN"}),
    "Project Database Access Admin",
    lambda client, name: client.delete_user(name),
)
_ACCESS = _Task(
    "change the IP access list",
    frozenset({"GROUP_NETWORK_ACCESS_MANAGER"}),
    "Project Network Access Manager",
    lambda client, _: client.delete_access_entry(f"192.0.2.{1 + secrets.randbelow(254)}/32"),  # a block for examples
)
_CREATE_CLUSTERS = _Task("create clusters", frozenset({"GROUP_CLUSTER_CREATOR"}), "Project Cluster Creator", None)
_CHANGE_CLUSTERS = _Task("change clusters", frozenset({"GROUP_CLUSTER_MANAGER"}), "Project Cluster Manager", None)
_TERMINATE_CLUSTERS = _Task(
    "terminate clusters",
    frozenset(),
    "Project Owner",
    lambda client, name: client.delete_cluster(name, "dedicated"),
)
_CERTIFICATES = _Task(
    "create certificates of database users",
    frozenset(),
    "Project Owner",
    lambda client, name: client.delete_cluster(name, "dedicated"),  # this too only owners may do
)


def _tasks(settings: Settings, project: str) -> Iterator[_Task]:
    """Yield what the plans of a project need."""
    plans = _plans(settings, project)
    yield _USERS
    if any(plan.access_list for plan in plans):
        yield _ACCESS
    if any(plan.new_cluster for plan in plans):
        yield from (_CREATE_CLUSTERS, _CHANGE_CLUSTERS, _TERMINATE_CLUSTERS)
    if any(Authentication.X509 in plan.authentication for plan in plans):
        yield _CERTIFICATES


def _plans(settings: Settings, project: str) -> list[Plan]:
    """Return the plans whose instances may be in a project."""
    return [plan for plan in Catalog(settings.config, settings.plans).plans.values() if plan.project in (None, project)]


def _roles(settings: Settings, client: AtlasClient, where: str, kind: str) -> Iterator[Finding]:
    try:
        roles = client.key_roles() or None
    except (Refused, UnreadableAnswer) as error:
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise
        roles = None  # Atlas does not tell; what follows is tried
    has = f" (it has {', '.join(sorted(roles)) or 'none'})" if roles is not None else ""
    for task in _tasks(settings, client.project_id):
        if roles is not None:
            may = bool(roles & (task.roles | _OWNERS))
        elif task.attempt:
            may = _is_allowed(partial(task.attempt, client))
        else:
            continue
        if may:
            yield GOOD, f"{where}: the {kind} may {task.does}"
        else:
            yield BAD, f"{where}: the {kind} may not {task.does}{has}; give it {task.advice}"


def _is_allowed(attempt: Callable[[str], None]) -> bool:
    """Return whether credentials whose roles Atlas does not tell may do what they are made to attempt."""
    try:
        attempt(f"atlas-broker-check-{secrets.token_hex(8)}")
    except Unauthorized:
        return False
    except Refused as error:
        if error.retryable:
            raise
    return True


def _clusters(settings: Settings, client: AtlasClient, where: str) -> Iterator[Finding]:
    clusters = client.clusters()
    usable = False
    for cluster in clusters:
        about = f"{where}: cluster {cluster.name} ({cluster.kind}, {cluster.state})"
        if problem := why_unusable(cluster):
            yield WARN, f"{about} cannot be used. {problem}"
        elif cluster.state == "CREATING":
            yield WARN, f"{about} cannot be used yet; instances on it wait"
        else:
            usable = True
            yield GOOD, f"{about} can be used"
    if not usable and not all(plan.new_cluster for plan in _plans(settings, client.project_id)):
        yield BAD, f"{where}: no cluster can be used; create or resume one"
    names = {cluster.name for cluster in clusters}
    only = len(settings.projects) == 1
    for plan in Catalog(settings.config, settings.plans).plans.values():
        mine = plan.project == client.project_id or (only and plan.project is None)
        if mine and plan.cluster and plan.cluster not in names:
            yield BAD, f"{where}: there is no cluster {plan.cluster}, which the plan {plan.name} pins"


def _access_list(settings: Settings, client: AtlasClient, where: str) -> Iterator[Finding]:
    """Check the IP access list of the clusters, which only drops of databases and BROKER_VERIFY_LOGIN need."""
    networks = [entry.network for entry in client.access_list() if entry.network]
    own = _own_address(settings.base_url)
    if any(network.prefixlen == 0 or (own and own in network) for network in networks):
        yield GOOD, f"{where}: its IP access list lets this host reach the clusters"
        return
    if own is None:
        problem = "may not contain this host, whose address is not known"
    elif own.is_global:
        problem = f"does not contain this host's address {own}: add it"
    else:
        problem = f"does not contain this host's address {own}: add the one that Atlas sees (a NAT's?)"
    yield WARN, f"{where}: its IP access list {problem}; dropping databases and BROKER_VERIFY_LOGIN need it"


def _own_address(base_url: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the local address of a connection to Atlas, without sending anything; None when there is none.

    Behind a NAT, Atlas sees another address.
    """
    parts = urlsplit(base_url)
    try:
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return ipaddress.ip_address(probe.getsockname()[0])
    except OSError:
        return None


def _users(client: AtlasClient, where: str) -> Iterator[Finding]:
    users, limit = sum(1 for _ in client.users()), told_limit(client) or DEFAULT_LIMIT
    about = f"{where}: {users} of at most {limit} database users"
    if users >= limit:
        yield BAD, f"{about}: no binding can be made; remove some, use another project, or have the limit raised"
    elif is_nearly_full(users, limit):
        yield WARN, f"{about}: nearly full; use another project soon, or have MongoDB's support raise the limit"
    else:
        yield GOOD, about
