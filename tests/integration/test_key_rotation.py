"""Rotation of the encryption keys while the broker works: no request is lost, and the old key can be taken away."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import pytest
from bson import encode
from bson.raw_bson import DEFAULT_RAW_BSON_OPTIONS, RawBSONDocument
from cryptography.fernet import Fernet

from broker_api.state.database_reservations import RESERVATIONS
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import CANARY
from broker_api.state.private_values import CONTEXT, PARAMETERS
from broker_api.state.record_macs import OPERATION, REQUEST, SETTLED
from broker_api.state.records import Place, binding_key, instance_key
from tests.books import held, make_user
from tests.console import Console
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Json, Tenant, eventually, works

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
(OLD_ID,), (NEW_ID,), (OTHER_ID,) = (Vault((key,)).ids for key in (OLD, NEW, OTHER))
SECRETS = 4


@pytest.fixture
def stack(new_stack: Callable[[], Stack], atlas: Emulator) -> Stack:
    """One for each test."""
    del atlas
    return new_stack()


@contextmanager
def broker_with(stack: Stack, *keys: str) -> Iterator[OsbClient]:
    stack.encryption_key = ",".join(keys)
    with in_this_process(stack), stack.client() as client:
        yield client


def console(stack: Stack, *keys: str) -> Console:
    return Console({**Console.of(stack).settings, "BROKER_ENCRYPTION_KEYS": ",".join(keys)})


def as_an_earlier_release_wrote(stack: Stack) -> None:
    """Turn all documents into those of a release with Fernet tokens and without MACs."""
    vault = Vault((OLD,))
    with held(stack) as documents, held(stack, "instances_housekeeping") as housekeeping:
        for found in list(documents.find({"sealed_credentials": {"$type": "string"}})):
            secret = vault.open(found["sealed_credentials"], Place(found["_id"], "sealed_credentials"))
            fernet = {"sealed_credentials": vault.seal_for_all_releases(secret)}
            documents.update_one({"_id": found["_id"]}, {"$set": fernet})
        documents.update_many({}, {"$unset": dict.fromkeys([REQUEST, SETTLED, OPERATION], "")})
        housekeeping.update_many({"mac": {"$exists": True}}, {"$unset": {"mac": ""}})
        housekeeping.update_one({"_id": CANARY}, {"$set": {"sealed": vault.seal_for_all_releases(CANARY)}})


def test_a_rotation_under_load_loses_no_request_and_frees_the_old_key(stack: Stack) -> None:
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        names = [f"old-{uuid4()}" for _ in range(SECRETS)]
        given: dict[str, Json] = {name: tenant.bind(name) for name in names}
    as_an_earlier_release_wrote(stack)
    console_of_both = console(stack, NEW, OLD)
    with broker_with(stack, NEW, OLD) as client:
        loaded = Tenant(client, tenant.instance_id)
        assert {name: loaded.credentials(name) for name in names} == given  # without MACs, as before the rotation
        stop, troubles, rounds = threading.Event(), list[BaseException](), list[str]()

        def load() -> None:
            try:
                while not stop.is_set():
                    name = f"load-{uuid4()}"
                    assert works(loaded.bind(name))
                    assert loaded.credentials(names[0]) == given[names[0]]
                    loaded.update(**{"policy-on-delete": ("drop", "retain")[len(rounds) % 2]})
                    if len(rounds) % 2:
                        loaded.unbind(name)
                    rounds.append(name)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                troubles.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        told = console_of_both.json("keys", "rotate", "--batch", "2")
        again = console_of_both.json("keys", "rotate", "--batch", "3")
        stop.set()
        thread.join()
        assert not troubles, troubles
        assert rounds
    assert told["rewritten"] >= SECRETS
    assert told["left"] == again["left"] == 0
    status = console_of_both.json("keys", "status")
    assert status["not_needed"] == [OLD_ID]
    assert status["without_macs"] == 0
    assert [row["key"] for row in status["keys"] if row["secrets"] + row["macs"]] == [NEW_ID]
    with broker_with(stack, NEW) as client:
        last = Tenant(client, tenant.instance_id)
        assert {name: last.credentials(name) for name in names} == given
        with held(stack) as documents:  # from now on a document without MACs is refused
            documents.update_one({"_id": binding_key(tenant.instance_id, names[0])}, {"$unset": {SETTLED: ""}})
        with client.expecting(500):
            refused = partial(client.binding, tenant.instance_id, names[0])
            eventually(lambda: "it has no MAC" in refused().description, "the process has read the canary")
        assert works(last.credentials(names[1]))


def test_neither_what_is_gone_nor_what_atlasbroker_2_has_left_keeps_an_old_key(stack: Stack) -> None:
    with held(stack) as documents:
        left: Json = {"instance_id": "left", "database": "left", "cluster": CLUSTER, "parameters": {"cluster": CLUSTER}}
        documents.insert_one(left)
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        tenant.bind("gone")
        tenant.unbind("gone")
        Tenant(client, "left").update(**{"policy-on-delete": "retain"})
    console_of_both = console(stack, NEW, OLD)
    assert console_of_both.json("keys", "rotate")["left"] == 0
    status = console_of_both.json("keys", "status")
    assert (status["not_needed"], status["without_macs"]) == ([OLD_ID], 0)
    assert [row["key"] for row in status["keys"] if row["macs"]] == [NEW_ID]
    with broker_with(stack, NEW) as client:
        tenant = Tenant(client, "left")
        tenant.bind("gone")
        Tenant(client, tenant.instance_id).deprovision()


def test_without_macs_an_update_does_not_touch_a_user_of_others_and_ends(stack: Stack, atlas: Emulator) -> None:
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        tenant.bind("forged")
    as_an_earlier_release_wrote(stack)
    make_user(atlas, "administrator", roles=[{"roleName": "atlasAdmin", "databaseName": "admin"}])
    with held(stack) as documents:
        forged = {"$set": {"username": "administrator", "roles": "[]"}}
        documents.update_one({"_id": binding_key(tenant.instance_id, "forged")}, forged)
    with broker_with(stack, OLD) as client:
        begun = client.update(tenant.instance_id, {"policy-on-delete": "retain"})
        ended = client.wait(tenant.instance_id, None, begun.operation, seconds=20)
        with held(stack) as documents:
            undone = {"_id": instance_key(tenant.instance_id), "operation.open": False}
            eventually(lambda: documents.find_one(undone), "the update is undone")
    assert (ended.state, "is not that of forged" in ended.description) == ("failed", True)
    (administrator,) = [user for user in atlas.users() if user["username"] == "administrator"]
    assert administrator["roles"] == [{"roleName": "atlasAdmin", "databaseName": "admin"}]


def test_an_update_vouches_for_no_binding_without_macs_whose_user_is_not_there(stack: Stack) -> None:
    """With a MAC, a later update would set the roles of a user of others that gets this name."""
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        tenant.bind("forged")
    as_an_earlier_release_wrote(stack)
    key = binding_key(tenant.instance_id, "forged")
    with held(stack) as documents:
        documents.update_one({"_id": key}, {"$set": {"username": "later", "roles": "[]"}})
    with broker_with(stack, OLD) as client:
        Tenant(client, tenant.instance_id).update(**{"policy-on-delete": "retain"})
    with held(stack) as documents:
        found = documents.find_one({"_id": key}) or {}
    assert (found["roles"], SETTLED in found) == ("[]", False)


def test_a_missing_key_is_one_line_and_fails_only_what_needs_it_until_that_is_purged(stack: Stack) -> None:
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        tenant.bind("lost")
        tenant.bind("kept")
    assert console(stack, NEW, OLD).json("keys", "rotate")["left"] == 0
    key = binding_key(tenant.instance_id, "lost")
    with held(stack) as documents:
        names, lost = ("sealed_credentials", PARAMETERS, CONTEXT), Vault((OTHER,))
        sealed = {name: lost.seal({"password": "p"}, Place(key, name)) for name in names}
        documents.update_one({"_id": key}, {"$set": sealed})
    with broker_with(stack, NEW) as client:
        with client.expecting(500):
            said = client.binding(tenant.instance_id, "lost").description
        assert OTHER_ID in said
        assert works(Tenant(client, tenant.instance_id).credentials("kept"))
    done = console(stack, NEW).run("keys", "status", "--json")
    assert (done.exit_code, OTHER_ID in done.stdout) == (1, True)
    done = console(stack, NEW).run("keys", "rotate")
    assert done.exit_code == 1
    assert OTHER_ID in done.stdout
    assert NEW not in done.output
    console(stack, NEW).json("purge", "binding", "lost", "--yes")
    assert [row["key"] for row in console(stack, NEW).json("keys", "status")["keys"]] == [NEW_ID]


def test_rotate_neither_accepts_a_forged_document_nor_runs_without_the_brokers_keys(stack: Stack) -> None:
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
        tenant.bind("forged")
    with held(stack) as documents:
        key = binding_key(tenant.instance_id, "forged")
        documents.update_one({"_id": key}, {"$set": {"username": "an-administrator"}})
    broken = f"{RESERVATIONS}project/cluster/broken"
    with held(stack, "instances_housekeeping") as housekeeping:
        housekeeping.insert_one({"_id": broken, "name": 5, "mac": 5})
    done = console(stack, NEW, OLD).run("keys", "rotate", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout[done.stdout.index("{\n") :])  # after the lines of the log, which no test configures
    assert told["left"] == 2
    assert all("is not as the broker wrote it" in told["why"][name] for name in (key, broken))
    assert "none of these does" in console(stack, OTHER).refusal("keys", "rotate")
    with held(stack) as documents, held(stack, "instances_housekeeping") as housekeeping:
        documents.delete_many({})
        housekeeping.delete_many({"_id": {"$ne": CANARY}})
    status = console(stack, OTHER).run("keys", "status")
    assert (status.exit_code, "Put back" in status.stdout) == (1, True)


def test_a_rotation_that_leaves_something_ends_with_status_1_and_what_it_cannot_write_is_served(stack: Stack) -> None:
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client).provision()
    key = {"_id": instance_key(tenant.instance_id)}
    with held(stack) as documents:  # in clear, and no text of a query is like it
        found = (documents.find_one(key) or {}) | {"context": '{"note":"??"}', CONTEXT: None}
        decodable = DEFAULT_RAW_BSON_OPTIONS.with_options(unicode_decode_error_handler="replace")
        documents.replace_one(key, RawBSONDocument(encode(found).replace(b"??", b"\xff\xff"), decodable))
    assert console(stack, OLD).json("keys", "status")["in_clear"] == 1
    done = console(stack, OLD).run("keys", "rotate")
    assert (done.exit_code, "Run atlas-broker keys rotate" in done.stdout) == (1, True), done.output
    with broker_with(stack, OLD) as client:
        tenant = Tenant(client, tenant.instance_id)
        assert works(tenant.bind("b"))
        tenant.update(**{"policy-on-delete": "retain"})
        tenant.deprovision()


def test_a_rotation_after_which_documents_without_macs_are_still_accepted_says_so(stack: Stack) -> None:
    with broker_with(stack, OLD) as client:
        Tenant(client).provision()
        Tenant(client).provision().bind()
    as_an_earlier_release_wrote(stack)
    broken = {"_id": f"{RESERVATIONS}project/cluster/broken", "name": 5, "mac": f"{OLD_ID}.0"}
    with held(stack, "instances_housekeeping") as housekeeping:
        housekeeping.insert_one({**broken})
        assert console(stack, OLD).run("keys", "rotate").exit_code == 1
        housekeeping.delete_one({"_id": broken["_id"]})
    assert (before := console(stack, OLD).json("keys", "status"))["macs_required"] is False
    assert before["without_macs"] == 0
    assert "documents without MACs are still accepted" in console(stack, OLD).run("keys", "status").stdout
    assert console(stack, OLD).json("keys", "rotate")["macs_required"] is True
    assert console(stack, OLD).json("keys", "status")["macs_required"] is True
    assert "the only key" in console(stack, OLD).run("keys", "status").stdout


def test_generate_makes_a_key_of_the_form_that_the_settings_take(stack: Stack) -> None:
    made = console(stack).json("keys", "generate")
    assert Vault((made["key"],)).ids == [made["id"]]
