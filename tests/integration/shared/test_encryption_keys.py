"""Processes whose encryption keys are not those of the broker: they do not start, or take no work and say why."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet

from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import CANARY, CANARY_PLACE, MACS_REQUIRED, WRONG_KEYS, KeyCheck
from broker_api.state.housekeeping import RECENT_SECONDS, Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.record_macs import REQUEST
from broker_api.state.store import Store
from tests.books import document, held
from tests.conftest import new_store
from tests.dev.broker import QUEUES, Api, Worker
from tests.dev.processes import HOST, close_all, run_to_end, script, start_all
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually, log_events, together, works

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
PYTHON = sys.executable
CELERY = [PYTHON, "-m", "celery", "-A", "workers", "worker", "-Q", QUEUES]
COMMANDS = {
    "api": [str(script("atlas-broker")), "api", "--host", HOST, "--port", "0"],
    "worker": CELERY,
    "worker with processes": [*CELERY, "--pool", "prefork", "--concurrency", "1"],
    "any WSGI server": [PYTHON, "-c", "import broker_api.wsgi"],
    "gunicorn": [PYTHON, "-m", "gunicorn", "--bind", f"{HOST}:0", "broker_api.wsgi:app"],
    "everything at once": [PYTHON, "-c", "from broker_api.broker import Broker; Broker().run('127.0.0.1', 0)"],
}


def trouble(store: Store, *keys: str) -> str | None:
    """What a process with these keys says at its start."""
    return KeyCheck(Housekeeping(store), Vault(keys)).problem(renew=True)


def store_secret(store: Store, key: str) -> None:
    sealed = Vault((key,)).seal_for_all_releases({"password": "p"})
    store.collection.insert_one({"_id": f"binding/i/{uuid4()}", "sealed_credentials": sealed})


# --- the canary


def test_the_first_process_makes_the_canary_and_later_ones_must_open_it(store: Store) -> None:
    assert trouble(store, OLD) is None
    assert trouble(store, OTHER) == WRONG_KEYS
    assert trouble(store, OLD) is None


def test_of_two_first_processes_with_different_keys_one_is_refused(state_mongod: Mongod) -> None:
    for _ in range(10):
        with new_store(state_mongod) as store:
            answers = together(lambda: trouble(store, OLD), lambda: trouble(store, NEW))
            assert sorted(map(str, answers)) == sorted([WRONG_KEYS, "None"])


def test_keys_are_tried_on_what_an_earlier_release_has_sealed_before_the_canary_is_made(store: Store) -> None:
    store_secret(store, OLD)
    assert trouble(store, OTHER) == WRONG_KEYS
    assert KeyCheck(Housekeeping(store), Vault((OLD,))).canary() is None
    assert trouble(store, NEW, OLD) is None
    assert trouble(store, NEW) is None


def text_of_canary(store: Store) -> object:
    return Vault((OLD,)).open(KeyCheck(Housekeeping(store), Vault((OLD,))).canary() or "", CANARY_PLACE)


def test_documents_without_macs_are_accepted_only_beside_a_secret_of_an_earlier_release(store: Store) -> None:
    assert trouble(store, OLD) is None
    assert text_of_canary(store) == MACS_REQUIRED
    canary = store.housekeeping.find_one_and_delete({"_id": CANARY}) or {}
    copied = {"_id": f"binding/i/{uuid4()}", "sealed_credentials": canary["sealed"]}  # a Fernet token, but no secret
    store.collection.insert_many([copied, {"_id": "instance/i", "instance_id": "i"}])
    assert trouble(store, OLD) is None
    assert text_of_canary(store) == MACS_REQUIRED
    store.housekeeping.delete_one({"_id": CANARY})
    store_secret(store, OLD)
    assert trouble(store, OLD) is None
    assert text_of_canary(store) == CANARY
    store.housekeeping.delete_one({"_id": CANARY})
    store.collection.update_one({"_id": "instance/i"}, {"$set": {REQUEST: "of this release"}})
    assert trouble(store, OLD) is None
    assert text_of_canary(store) == MACS_REQUIRED


def test_keys_that_open_only_a_part_of_what_an_earlier_release_has_sealed_are_taken(store: Store) -> None:
    store_secret(store, OLD)
    store_secret(store, NEW)
    assert trouble(store, OLD) is None


def test_keys_are_rotated_in_rolling_restarts(store: Store) -> None:
    """Two processes each; a process of the step before may start once more in the middle of a step."""
    for keys in [
        (OLD,),
        (OLD, NEW),
        (OLD,),
        (OLD, NEW),
        (NEW, OLD),
        (OLD, NEW),
        (NEW, OLD),
        (NEW,),
        (NEW, OLD),
        (NEW,),
    ]:
        assert trouble(store, *keys) is None, keys
    assert trouble(store, OLD) == WRONG_KEYS
    assert trouble(store, OLD, NEW) is None


def test_a_key_that_was_replaced_instead_of_rotated_is_refused(store: Store) -> None:
    assert trouble(store, OLD) is None
    assert trouble(store, NEW) == WRONG_KEYS


# --- processes


@pytest.mark.parametrize("process", COMMANDS)
def test_a_process_with_other_keys_does_not_start(stack: Stack, process: str, *, long_form: bool) -> None:
    if process not in ("api", "worker", "any WSGI server") and not long_form:
        pytest.skip("with --long: they check the keys by the same function as the others")
    settings = {**stack.worker_settings, "BROKER_ENCRYPTION_KEYS": OTHER}
    done = run_to_end(COMMANDS[process], settings)
    assert done.returncode == (3 if process in ("any WSGI server", "gunicorn") else 1), done.stderr
    told = [line for line in done.stderr.splitlines() if "BROKER_ENCRYPTION_KEYS" in line]
    assert told == [f"atlas-broker: {WRONG_KEYS}"]
    assert "Traceback" not in done.stderr
    assert OTHER not in done.stdout + done.stderr


@contextmanager
def canary_of(stack: Stack, key: str) -> Iterator[None]:
    """As if the broker's keys were others; the stack's again afterwards."""
    mine, other = (Vault((each,)).seal_for_all_releases(CANARY) for each in (stack.encryption_key, key))
    with held(stack, "instances_housekeeping") as documents:
        documents.update_one({"_id": CANARY}, {"$set": {"sealed": other}})
        try:
            yield
        finally:
            documents.update_one({"_id": CANARY}, {"$set": {"sealed": mine}})


def events(server: Api | Worker) -> list[str]:
    return [event["event"] for event in log_events(server.log_text())]


def logs_wrong_keys(server: Api | Worker) -> bool:
    return "encryption_keys_wrong" in events(server)


def works_again(worker: Worker, tenant: Tenant) -> bool:
    """Return whether a worker has found its keys right; it looks again when it gets a job, so give it one."""
    return bool(tenant.bind()) and "encryption_keys_right" in events(worker)


def ready(api: Api) -> object:
    with OsbClient(api.uri, "", "") as client:
        answer = client.ready()
    assert answer.status == 200, answer.text
    return answer.json["encryption_keys"]


def test_a_running_worker_whose_keys_are_wrong_takes_no_operation_until_they_are_right(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    assert ready(stack.api) == "ok"
    with canary_of(stack, OTHER):
        eventually(lambda: ready(stack.api) == WRONG_KEYS, "/ready says so")
        eventually(lambda: "encryption_keys_wrong" in events(stack.api), "the API's log says so")
        time.sleep(RECENT_SECONDS)  # a worker may have read the canary just before it changed
        begun = client.bind(tenant.instance_id, "b")
        eventually(lambda: any(map(logs_wrong_keys, stack.workers)), "a worker's log says so")
        assert atlas.users() == []
        assert document(stack, tenant.instance_id, "b").get("sealed_credentials") is None
    tenant.succeed(begun, "b")
    assert works(tenant.credentials("b"))
    for worker in filter(logs_wrong_keys, stack.workers):
        eventually(partial(works_again, worker, tenant), f"{worker.name} finds its keys right")
    eventually(lambda: ready(stack.api) == "ok", "/ready is well again")


def test_processes_that_start_without_mongodb_try_their_keys_when_it_answers(stack: Stack) -> None:
    with Mongod("mongod-late") as late:
        with connect(late.uri, 20_000) as client:
            assert trouble(Store(client, stack.database, "instances"), stack.encryption_key) is None
        redis = stack.redis.uri.removesuffix("/0") + "/6"  # only their own messages
        wrong = {
            **stack.worker_settings,
            "BROKER_MONGO_URI": late.uri,
            "BROKER_MONGO_TIMEOUT_MS": "1000",
            "BROKER_REDIS_URL": redis,
            "BROKER_ENCRYPTION_KEYS": OTHER,
        }
        api, worker = Api(wrong, "wrong-api"), Worker(wrong, "wrong-worker")
        late.pause()
        try:
            start_all([api, worker])
            late.resume()
            for process in (api, worker):
                eventually(partial(logs_wrong_keys, process), f"the log of {process.name} says so")
            assert ready(api) == WRONG_KEYS
            with connect(late.uri, 20_000) as client:
                Store(client, stack.database, "instances").housekeeping.delete_one({"_id": CANARY})
            eventually(lambda: ready(api) == "ok", "keys that fit what is stored are taken")
        finally:
            close_all([api, worker])
