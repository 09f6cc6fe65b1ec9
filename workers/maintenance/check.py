"""``atlas-broker check``: checks everything that the broker needs.

It prints one line for each finding: ``good``, ``warn`` or ``bad``, and what to do; or JSON. It leaves no
change behind, and prints no secret.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import click
from pymongo.errors import PyMongoError

from broker_api.catalog.catalog import Catalog
from broker_api.errors import SettingError
from broker_api.jobs.queue import Queue
from broker_api.jobs.redis_errors import sentence
from broker_api.settings import ignored_variables
from broker_api.settings.settings import Settings, load
from broker_api.settings.url_checks import is_mongo_in_clear, usable_mongo_uri
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import CANARY_PLACE, SEALED_FIELDS, KeyCheck, stored_secrets
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.legacy import OLD_FORM
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import reason
from broker_api.state.records import record
from broker_api.state.store import Store
from workers import library_workarounds
from workers.maintenance.check_atlas import check_project
from workers.maintenance.check_broker import check_broker
from workers.maintenance.findings import BAD, GOOD, WARN, Finding, guarded
from workers.maintenance.migration import INCOMPLETE

SHOWN_DOCUMENTS = 3
MANY_MESSAGES = 1000


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, as_json: bool) -> None:
    """Check settings, MongoDB, Redis, keys and Atlas. The exit status is 1 when something is bad.

    It needs the settings of a worker. It leaves no change behind, and prints no secret.
    """
    found = []
    for mark, finding in findings(os.environ):
        found.append({"result": mark, "finding": " ".join(finding.split())})
        if not as_json:
            click.echo("{result:<4}  {finding}".format(**found[-1]))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    raise SystemExit(1 if any(each["result"] == BAD for each in found) else 0)


def findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield each finding as soon as it is known. Every error becomes a finding, so nothing is raised.

    Args:
        environ: The environment variables of the process.
    """
    try:
        settings = load(environ, "worker")
    except SettingError as error:
        yield BAD, f"settings: {error}"
        return
    except Exception as error:  # noqa: BLE001 - BROKER_CONFIG is an operator's code
        yield BAD, f"settings: BROKER_CONFIG: loading it fails ({type(error).__name__}); try python -c 'import …'"
        return
    yield from _settings(environ, settings)
    yield from guarded("catalog", lambda: _catalog(settings))
    with _state(settings) as opened:
        mongodb = list(guarded("MongoDB", lambda: _mongodb(settings, opened)))
        yield from mongodb
        store = None if any(mark == BAD for mark, _ in mongodb) else opened
        keys = [(WARN, "encryption keys: not checked on the stored secrets, since MongoDB cannot be used")]
        if store:
            yield from guarded("stored documents", partial(_documents, store))
            keys = list(guarded("encryption keys", partial(_encryption_keys, settings, store)))
        yield from keys
        yield from guarded("Redis", lambda: _redis(settings))
        if store:
            yield from guarded("broker", partial(check_broker, store))
        shared = None if any(mark == BAD for mark, _ in keys) else store
        for project in settings.projects:
            yield from guarded(f"project {project.project_id}", partial(check_project, settings, project, shared))


def _settings(environ: Mapping[str, str], settings: Settings) -> Iterator[Finding]:
    yield GOOD, "settings: all there"
    if overridden := usable_mongo_uri(settings.mongo_uri)[1]:
        yield WARN, f"settings: BROKER_MONGO_URI: not used are {', '.join(overridden)}; the broker decides that itself"
    if is_mongo_in_clear(settings.mongo_uri):
        yield WARN, "settings: BROKER_MONGO_URI: no TLS, so the network can read and change the state; add tls=true"
    if settings.redis.is_in_clear:
        use = "use rediss://, or ssl=true and sentinel_ssl=true with sentinels"
        yield WARN, f"settings: BROKER_REDIS_URL: no TLS, so the network can read and change the queue; {use}"
    for name in library_workarounds.all_ignored(environ):
        yield WARN, f"settings: {name} is ignored; unset it"
    for name in ignored_variables.ignored(environ, library_workarounds.HARMFUL):
        yield WARN, f"settings: {name} is an option for Celery's commands, also for workers; unset it"


def _catalog(settings: Settings) -> Iterator[Finding]:
    known = {project.project_id for project in settings.projects}
    for plan in Catalog(settings.config, settings.plans).plans.values():
        if plan.project and plan.project not in known:
            yield BAD, f"plan {plan.name}: no credentials for its project {plan.project}; add them to BROKER_SECRETS"


@contextmanager
def _state(settings: Settings) -> Iterator[Store | None]:
    """Open the state; yield None when the URI cannot be used (its DNS record is read at once)."""
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
    problem, advice = "cannot be used", "look at BROKER_MONGO_URI, the network and the user"
    try:
        with connect(settings.mongo_uri, settings.mongo_timeout_ms) as client:
            hello, version = client.admin.command("hello"), client.server_info()["version"]
        problem, advice = "cannot be written to", f"give its user readWrite on {settings.mongo_db}"
        # Write as the broker does, acknowledged by a majority, and delete it again.
        name = f"check/{secrets.token_hex(8)}"
        store.housekeeping.insert_one({"_id": name})
        store.housekeeping.delete_one({"_id": name})
    except PyMongoError as error:
        code = getattr(error, "code", None)
        why = f"{reason(error)} ({type(error).__name__}{f', code {code}' if code else ''})"
        yield BAD, f"MongoDB: {problem}: {why}; {advice}"
        return
    if hello.get("setName") or hello.get("msg") == "isdbgrid":
        kind = f"replica set {hello['setName']}" if hello.get("setName") else "sharded cluster"
        yield GOOD, f"MongoDB: {kind}, version {version}, can be written to"
    else:
        yield WARN, "MongoDB: is no replica set: operations may be lost with its only server; start it as a replica set"


def _documents(store: Store) -> Iterator[Finding]:
    """Look for documents of atlasbroker 2.0.0, and for some that cannot be read or that only another release knows."""
    if old := store.collection.count_documents(OLD_FORM) + store.collection.count_documents(INCOMPLETE):
        yield WARN, f"stored documents: {old} of atlasbroker 2.0.0 are not completed; run atlas-broker migrate"
    found = store.collection.find({"operation": {"$exists": True}})
    odd = [str(document["_id"]) for document in found if not record(document).understood]
    if odd:
        some = ", ".join(odd[:SHOWN_DOCUMENTS]) + (" and others" if len(odd) > SHOWN_DOCUMENTS else "")
        yield WARN, f"stored documents: {len(odd)} cannot be read, or only by another release: {some}"


def _encryption_keys(settings: Settings, store: Store) -> Iterator[Finding]:
    vault = Vault(settings.encryption_keys)
    query = {"$or": [{field: {"$type": "string"}} for field in SEALED_FIELDS]}
    sealed = stored_secrets(store.collection.find(query, dict.fromkeys(SEALED_FIELDS, 1)))
    if closed := sum(not vault.opens(secret, place) for place, secret in sealed):
        lost = f"{closed} of {len(sealed)} stored secrets do not open"
        yield BAD, f"encryption keys: {lost}; put the key that wrote them back into BROKER_ENCRYPTION_KEYS"
        return
    canary = KeyCheck(Housekeeping(store), vault).canary()
    if canary and not vault.opens(canary, CANARY_PLACE):
        yield BAD, "encryption keys: are not those of the other processes; put their keys into BROKER_ENCRYPTION_KEYS"
        return
    older = sum(not vault.opens(secret, place, first_key_only=True) for place, secret in sealed)
    note = f", {older} of them by an older key, which must stay" if older else ""
    yield GOOD, f"encryption keys: open all {len(sealed)} stored secrets{note}"


def _redis(settings: Settings) -> Iterator[Finding]:
    """Send a message to a queue of its own and remove it; a full Redis answers to everything but that."""
    queue = Queue(settings.redis)
    try:
        policy = queue.try_to_send()
    except Exception as error:  # noqa: BLE001 - whatever redis-py raises
        yield BAD, f"{sentence(error)}; look at BROKER_REDIS_URL, the network, and the memory and disk of Redis"
        return
    yield GOOD, "Redis: answers, can be written to"
    if policy not in (None, "noeviction"):
        yield WARN, f"Redis: maxmemory-policy is {policy}: a full Redis removes jobs; set it to noeviction"
    for name, depth in (queue.depths() or {}).items():
        if depth >= MANY_MESSAGES:
            yield WARN, f"Redis: {depth} messages wait in the queue {name}; start more workers for it"
