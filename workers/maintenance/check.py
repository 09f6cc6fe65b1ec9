"""``atlas-broker check``: looks at everything that the broker needs, and says of each thing whether it is good.

One line for each finding: ``good``, ``warn`` or ``bad``, and what to do. It changes nothing that lasts,
and tells no secret.
"""

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import click
from pymongo.errors import PyMongoError

from broker_api import logs
from broker_api.catalog.catalog import Catalog, Plan
from broker_api.errors import SettingError, UndecryptableError
from broker_api.jobs.queue import Queue
from broker_api.settings import foreign_variables
from broker_api.settings.settings import Project, Settings, load
from broker_api.settings.urls import usable_mongo_uri
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.key_check import SEALED_FIELDS, KeyCheck
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import reason
from broker_api.state.records import record
from broker_api.state.store import Store
from broker_api.state.vault import Vault
from workers import environment
from workers.atlas.client import (
    AtlasClient,
    AtlasError,
    Cluster,
    MemoryTokens,
    TokenStore,
    Unauthorized,
    UserNotFound,
)
from workers.clusters.connection_strings import why_unusable
from workers.clusters.user_quota import DEFAULT_LIMIT, is_nearly_full
from workers.context import credentials
from workers.guard.token_store import SharedTokens

GOOD, WARN, BAD = "good", "warn", "bad"
Finding = tuple[str, str]
"""Whether it is good, and a sentence."""

MAY_CHANGE_USERS = frozenset({"GROUP_OWNER", "GROUP_DATABASE_ACCESS_ADMIN", "ORG_OWNER"})
_EVERYWHERE = ("0.0.0.0/0", "::/0")


@click.command()
def check() -> None:
    """Check settings, MongoDB, Redis, keys and Atlas; exit status 0 when nothing is bad."""
    logs.configure(logging.CRITICAL)  # what goes wrong is told in findings
    marks = set()
    for mark, sentence in findings(os.environ):
        click.echo(f"{mark:<4}  {' '.join(sentence.split())}")
        marks.add(mark)
    raise SystemExit(1 if BAD in marks else 0)


def findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield every finding as soon as it is known. Raises nothing, whatever is broken."""
    settings = _settings(environ)
    if not isinstance(settings, Settings):
        yield BAD, settings
        return
    yield GOOD, "settings: all there"
    if overridden := usable_mongo_uri(settings.mongo_uri)[1]:
        yield WARN, f"settings: BROKER_MONGO_URI: not used are {', '.join(overridden)}; the broker decides that itself"
    for name in environment.all_ignored(environ):
        yield WARN, f"settings: {name} is ignored; unset it"
    for name in foreign_variables.ignored(environ, environment.HARMFUL):
        yield WARN, f"settings: {name} is an option for Celery's commands, also for workers; unset it"
    yield from _guarded("catalog", lambda: _catalog(settings))
    with _state(settings) as store:
        yield from _parts(settings, store)


def _parts(settings: Settings, store: Store | None) -> Iterator[Finding]:
    mongodb = list(_guarded("MongoDB", lambda: _mongodb(settings, store)))
    yield from mongodb
    if any(mark == BAD for mark, _ in mongodb):
        store = None
    if store:
        yield from _guarded("stored documents", lambda: _documents(store))
        keys = list(_guarded("encryption keys", lambda: _encryption_keys(settings, store)))
        yield from keys
    else:
        keys = [(WARN, "encryption keys: not tried on what is stored, since MongoDB is not well")]
        yield from keys
    yield from _guarded("Redis", lambda: _redis(settings))
    yield from _atlas(settings, None if any(mark == BAD for mark, _ in keys) else store)


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn whatever is raised into a finding; the text of an unknown error may hold a secret."""
    try:
        yield from look()
    except (AtlasError, SettingError) as error:
        yield BAD, f"{what}: {error}"
    except Exception as error:  # noqa: BLE001 - a check that breaks off tells less than one that goes on
        yield BAD, f"{what}: cannot be checked ({type(error).__name__})"


# --- settings, catalog ----------------------------------------------------------------------------------------


def _settings(environ: Mapping[str, str]) -> Settings | str:
    try:
        return load(environ, "worker")
    except SettingError as error:
        return f"settings: {error}"
    except Exception as error:  # noqa: BLE001 - BROKER_CONFIG is an operator's code
        return f"settings: BROKER_CONFIG: loading it fails ({type(error).__name__}); try python -c 'import …'"


def _catalog(settings: Settings) -> Iterator[Finding]:
    known = {project.project_id for project in settings.projects}
    for plan in _plans(Catalog(settings.config)):
        if plan.project and plan.project not in known:
            yield BAD, f"plan {plan.name}: no credentials for its project {plan.project}; add them to BROKER_SECRETS"


def _plans(catalog: Catalog) -> Iterator[Plan]:
    ids = [plan["id"] for service in catalog.document["services"] for plan in service["plans"]]
    yield from (plan for each in ids if (plan := catalog.find_plan(each)))


# --- MongoDB, keys, Redis -------------------------------------------------------------------------------------


@contextmanager
def _state(settings: Settings) -> Iterator[Store | None]:
    """None when the URI leads nowhere: a srv record is looked up at once, and other mistakes show at once."""
    try:
        client = connect(settings.mongo_uri, settings.mongo_timeout_ms)
        store = Store(client, settings.mongo_db, settings.mongo_collection)
    except (PyMongoError, ValueError):
        yield None
        return
    with client:
        yield store


def _mongodb(settings: Settings, store: Store | None) -> Iterator[Finding]:
    if store is None:
        yield BAD, "MongoDB: BROKER_MONGO_URI, BROKER_MONGO_DB or BROKER_MONGO_COLLECTION cannot be used as it is"
        return
    try:
        with connect(settings.mongo_uri, settings.mongo_timeout_ms) as client:
            hello, version = client.admin.command("hello"), client.server_info()["version"]
    except PyMongoError as error:
        yield BAD, f"MongoDB: cannot be used: {_why(error)}; look at BROKER_MONGO_URI, the network and the user"
        return
    try:
        _write(store)
    except PyMongoError as error:
        yield BAD, f"MongoDB: cannot be written to: {_why(error)}; give its user readWrite on {settings.mongo_db}"
        return
    if hello.get("setName") or hello.get("msg") == "isdbgrid":
        kind = f"replica set {hello['setName']}" if hello.get("setName") else "sharded cluster"
        yield GOOD, f"MongoDB: {kind}, version {version}, can be written to"
    else:
        yield WARN, "MongoDB: is no replica set: what was accepted may be lost with the one server; start it as one"


def _write(store: Store) -> None:
    """Write as the broker does, acknowledged by a majority, and take it back."""
    name = f"check/{secrets.token_hex(8)}"
    store.housekeeping.insert_one({"_id": name})
    store.housekeeping.delete_one({"_id": name})


def _why(error: PyMongoError) -> str:
    code = getattr(error, "code", None)
    return f"{reason(error)} ({type(error).__name__}{f', code {code}' if code else ''})"


def _documents(store: Store) -> Iterator[Finding]:
    """Look for documents that this release does not understand; what can be read but not understood is named too."""
    odd = [
        str(document["_id"]) for document in store.collection.find({"operation": {"$exists": True}}) if _odd(document)
    ]
    if odd:
        some = ", ".join(odd[:3]) + (" and others" if len(odd) > 3 else "")  # noqa: PLR2004 - enough to begin with
        yield WARN, f"stored documents: {len(odd)} cannot be read, or only by another release: {some}"


def _odd(document: Mapping[str, Any]) -> bool:
    return not record(document).understood


def _encryption_keys(settings: Settings, store: Store) -> Iterator[Finding]:
    query = {"$or": [{field: {"$type": "string"}} for field in SEALED_FIELDS]}
    found = store.collection.find(query, dict.fromkeys(SEALED_FIELDS, 1))
    sealed = [secret for document in found for field in SEALED_FIELDS if (secret := document.get(field))]
    closed = [secret for secret in sealed if not _opens(settings.encryption_keys, secret)]
    if closed:
        lost = f"{len(closed)} of {len(sealed)} stored secrets do not open"
        yield BAD, f"encryption keys: {lost}; put the key that wrote them back into BROKER_ENCRYPTION_KEYS"
        return
    canary = KeyCheck(store, Vault(settings.encryption_keys)).canary()
    if canary and not _opens(settings.encryption_keys, canary):
        yield BAD, "encryption keys: are not those of the other processes, which sealed a document to know them by"
        return
    older = sum(not _opens(settings.encryption_keys[:1], secret) for secret in sealed)
    note = f", {older} of them by an older key, which must stay" if older else ""
    yield GOOD, f"encryption keys: open all {len(sealed)} stored secrets{note}"


def _opens(keys: tuple[str, ...], secret: str) -> bool:
    try:
        Vault(keys).open(secret)
    except UndecryptableError:
        return False
    return True


def _redis(settings: Settings) -> Iterator[Finding]:
    problem = Queue(settings.redis).trouble()
    if problem:
        yield BAD, f"{problem}; look at BROKER_REDIS_URL and the network"
    else:
        yield GOOD, "Redis: answers, can be written to"


# --- Atlas ----------------------------------------------------------------------------------------------------


def _atlas(settings: Settings, store: Store | None) -> Iterator[Finding]:
    for project in settings.projects:
        where = f"project {project.project_id}"
        yield from _guarded(where, lambda project=project: _project(settings, project, store))  # type: ignore[misc]


def _project(settings: Settings, project: Project, store: Store | None) -> Iterator[Finding]:
    auth = credentials(project, _tokens(settings, project, store))
    client = AtlasClient(settings.base_url, project.project_id, auth)
    where = f"project {project.project_id}"
    kind = "service account" if project.client_id and project.client_secret else "API key"
    yield GOOD, f"{where}: the {kind} opens it, its name is {client.project().get('name')}"
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "roles": lambda: _roles(client, where, kind),
        "clusters": lambda: _clusters(settings, client, where),
        "access list": lambda: _access_list(settings, client, where),
        "database users": lambda: _users(client, where),
    }
    for what, look in looks.items():
        yield from _guarded(f"{where}: {what}", look)


def _tokens(settings: Settings, project: Project, store: Store | None) -> TokenStore:
    """Use the workers' token where that is possible: Atlas counts the tokens that live."""
    if store is None:
        return MemoryTokens()
    return SharedTokens(Housekeeping(store), Vault(settings.encryption_keys), project.client_id)


def _roles(client: AtlasClient, where: str, kind: str) -> Iterator[Finding]:
    told = client.key_roles()
    may = _may_change_users(client) if told is None else bool(told & MAY_CHANGE_USERS)
    if may:
        yield GOOD, f"{where}: the {kind} may change database users"
        return
    has = f" (it has {', '.join(sorted(told)) or 'none'})" if told is not None else ""
    yield BAD, f"{where}: the {kind} may not change database users{has}; give it Project Database Access Admin"


def _may_change_users(client: AtlasClient) -> bool:
    """Ask for the removal of a user that does not exist: the answer tells the role, and nothing is changed."""
    try:
        client.delete_user(f"atlas-broker-check-{secrets.token_hex(8)}")
    except UserNotFound:
        return True
    except Unauthorized:
        return False
    return True


def _clusters(settings: Settings, client: AtlasClient, where: str) -> Iterator[Finding]:
    clusters = client.clusters()
    for cluster in clusters:
        yield _cluster(cluster, where)
    if all(mark == WARN for mark, _ in (_cluster(each, where) for each in clusters)):
        yield BAD, f"{where}: no cluster can be used; create or resume one"
    names = {cluster.name for cluster in clusters}
    only = len(settings.projects) == 1
    for plan in _plans(Catalog(settings.config)):
        mine = plan.project == client.project_id or (only and plan.project is None)
        if mine and plan.cluster and plan.cluster not in names:
            yield BAD, f"{where}: there is no cluster {plan.cluster}, which the plan {plan.name} pins"


def _cluster(cluster: Cluster, where: str) -> Finding:
    about = f"{where}: cluster {cluster.name} ({cluster.kind}, {cluster.state})"
    if problem := why_unusable(cluster):
        return WARN, f"{about} cannot be used. {problem}"
    if cluster.state == "CREATING":
        return WARN, f"{about} cannot be used yet; instances on it wait"
    return GOOD, f"{about} can be used"


def _access_list(settings: Settings, client: AtlasClient, where: str) -> Iterator[Finding]:
    """Matters for dropping databases and for BROKER_VERIFY_LOGIN only; the Admin API has a list of its own."""
    listed = [str(entry.get("cidrBlock") or entry.get("ipAddress") or "") for entry in client.access_list()]
    own = _own_address(settings.base_url)
    if any(entry in _EVERYWHERE for entry in listed) or (own and _contains(listed, own)):
        yield GOOD, f"{where}: its IP access list lets this host reach the clusters"
    else:
        yield WARN, f"{where}: {_unlisted(own)}; dropping databases and BROKER_VERIFY_LOGIN need it"


def _unlisted(own: str | None) -> str:
    if own is None:
        return "its IP access list may not contain this host, whose address is not known"
    if ipaddress.ip_address(own).is_global:
        return f"its IP access list does not contain this host's address {own}: add it"
    return f"its IP access list does not contain this host's address {own}: add the one that Atlas sees (a NAT's?)"


def _own_address(base_url: str) -> str | None:
    """Return the address from which this host would reach Atlas; nothing is sent. Behind a NAT, Atlas sees another."""
    parts = urlsplit(base_url)
    try:
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _contains(listed: list[str], own: str) -> bool:
    address = ipaddress.ip_address(own)
    return any(address in network for entry in listed if (network := _network(entry)))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """None for what is no address, such as a security group of AWS."""
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
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
