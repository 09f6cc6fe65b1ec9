"""The part of ``atlas-broker check`` that asks Atlas: one project, its key, clusters, IP access list and users."""

import ipaddress
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from broker_api.catalog.catalog import Catalog
from broker_api.settings.settings import Project, Settings
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import DEFAULT_LIMIT, Store
from workers.atlas.client import AtlasClient, MemoryTokens, TokenStore, Unauthorized, UserNotFound
from workers.clusters.connection_strings import why_unusable
from workers.clusters.user_quota import is_nearly_full
from workers.context import credentials, worker_vault
from workers.guard.oauth_token_store import SharedTokens
from workers.maintenance.findings import BAD, GOOD, WARN, Finding, guarded

MAY_CHANGE_USERS = frozenset({"GROUP_OWNER", "GROUP_DATABASE_ACCESS_ADMIN", "ORG_OWNER"})
_EVERYWHERE = ("0.0.0.0/0", "::/0")


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
        "roles": partial(_roles, client, where, kind),
        "clusters": partial(_clusters, settings, client, where),
        "access list": partial(_access_list, settings, client, where),
        "database users": partial(_users, client, where),
    }
    for what, look in looks.items():
        yield from guarded(f"{where}: {what}", look)


def _roles(client: AtlasClient, where: str, kind: str) -> Iterator[Finding]:
    roles = client.key_roles()
    may = bool(roles and roles & MAY_CHANGE_USERS)
    if roles is None:
        # Delete a user that does not exist: the answer shows whether the role is there, and nothing is changed.
        may = True
        try:
            client.delete_user(f"atlas-broker-check-{secrets.token_hex(8)}")
        except UserNotFound:
            pass
        except Unauthorized:
            may = False
    if may:
        yield GOOD, f"{where}: the {kind} may change database users"
        return
    has = f" (it has {', '.join(sorted(roles)) or 'none'})" if roles is not None else ""
    yield BAD, f"{where}: the {kind} may not change database users{has}; give it Project Database Access Admin"


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
    if not usable:
        yield BAD, f"{where}: no cluster can be used; create or resume one"
    names = {cluster.name for cluster in clusters}
    only = len(settings.projects) == 1
    for plan in Catalog(settings.config).plans.values():
        mine = plan.project == client.project_id or (only and plan.project is None)
        if mine and plan.cluster and plan.cluster not in names:
            yield BAD, f"{where}: there is no cluster {plan.cluster}, which the plan {plan.name} pins"


def _access_list(settings: Settings, client: AtlasClient, where: str) -> Iterator[Finding]:
    """Check the IP access list of the clusters, which only drops of databases and BROKER_VERIFY_LOGIN need."""
    listed = [entry.cidr or "" for entry in client.access_list()]
    networks = []
    for entry in listed:
        with suppress(ValueError):  # an entry that is no address, such as a security group of AWS
            networks.append(ipaddress.ip_network(entry, strict=False))
    own = _own_address(settings.base_url)
    if any(entry in _EVERYWHERE for entry in listed) or any(own in network for network in networks if own):
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
    users, limit = sum(1 for _ in client.users()), client.user_limit() or DEFAULT_LIMIT
    about = f"{where}: {users} of at most {limit} database users"
    if users >= limit:
        yield BAD, f"{about}: no binding can be made; remove some, use another project, or have the limit raised"
    elif is_nearly_full(users, limit):
        yield WARN, f"{about}: nearly full; use another project soon, or have MongoDB's support raise the limit"
    else:
        yield GOOD, about
