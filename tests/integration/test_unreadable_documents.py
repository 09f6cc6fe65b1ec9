"""Documents that only a newer release knows, or that cannot be read at all: they stop nothing but themselves."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import requests
from bson.datetime_ms import DatetimeMS

from broker_api.state.records import Instance, binding_key, instance_key
from broker_api.state.store import Store
from tests.books import document, held
from tests.conftest import new_store
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.osb_client import OsbClient
from tests.tenant import Json, Tenant, eventually, works
from workers.maintenance.reconcile import reconcile

LATER = datetime.now(UTC) + timedelta(hours=1)
PAST = datetime.now(UTC) - timedelta(hours=1)
BINDING = "odd"

NEWER: dict[str, Json] = {
    "a phase of a newer release": {"$set": {"phase": "hibernating"}},
    "a state of a newer release": {"$set": {"operation.state": "paused"}},
    "a state of a newer release with work left": {
        "$set": {
            "operation.state": "paused",
            "operation.open": True,
            "operation.due": PAST,
            "operation.deadline": LATER,
        }
    },
}
BROKEN: dict[str, Json] = {
    "no operation": {"$unset": {"operation": ""}},
    "an operation that is a number": {"$set": {"operation": 7}},
    "an operation that is a list": {"$set": {"operation": [{"id": "x", "kind": "bind", "open": True}]}},
    "no phase": {"$unset": {"phase": ""}},
    "parameters that are no JSON": {"$set": {"parameters": "{"}},
    "a date that Python cannot hold": {"$set": {"unsure_until": DatetimeMS(2**62)}},
    "dates that are text": {
        "$set": {
            "operation.due": "soon",
            "operation.deadline": "never",
            "operation.open": True,
            "operation.state": "in progress",
        }
    },
    "counters and waits that are none": {
        "$set": {
            "operation.open": True,
            "operation.state": "in progress",
            "operation.due": PAST,
            "operation.dispatched": PAST,
            "operation.deadline": PAST,
            "operation.sends": "many",
            "operation.fence": "high",
            "operation.error": {"a": 1},
            "operation.changed": "then",
            "operation.waits_on": ["a", "list"],
        }
    },
    "an instance id that is a number": {"$set": {"instance_id": 7, "operation.open": True}},
}


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture(autouse=True)
def no_documents(broker: InThisProcess, atlas: Emulator) -> None:
    """Forget those of the tests before."""
    assert atlas.users() == []
    broker.lines.clear()
    broker.context.store.collection.delete_many({})


def damage(stack: Stack, key: str, change: Json) -> None:
    with held(stack) as documents:
        assert documents.update_one({"_id": key}, change).matched_count == 1


@pytest.mark.parametrize("damaged", [*NEWER, *BROKEN])
def test_a_binding_that_cannot_be_read_is_told_so_and_left_as_it_is(
    stack: Stack, client: OsbClient, damaged: str
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind(BINDING)
    damage(stack, binding_key(tenant.instance_id, BINDING), {**NEWER, **BROKEN}[damaged])
    before = document(stack, tenant.instance_id, BINDING) if damaged in NEWER else None
    with client.expecting(503):
        answers = [
            client.binding(tenant.instance_id, BINDING),
            client.bind(tenant.instance_id, BINDING),
            client.unbind(tenant.instance_id, BINDING),
        ]
        poll = client.last_operation(tenant.instance_id, BINDING)
    assert [answer.status for answer in answers] == [503, 503, 503]
    word = "another release" if damaged in NEWER else "operator"
    assert all(word in answer.description for answer in answers)
    if "state" in damaged and damaged in NEWER:
        assert (poll.status, poll.state) == (200, "in progress")
    elif damaged in NEWER:
        assert (poll.status, poll.state) == (200, "succeeded")  # the phase is another release's, the state is known
    else:
        assert poll.status == 503
        assert "operator" in poll.description
    if before:
        assert document(stack, tenant.instance_id, BINDING) == before


@pytest.mark.parametrize("damaged", [*NEWER, *BROKEN])
def test_an_instance_that_cannot_be_read_is_told_so(stack: Stack, client: OsbClient, damaged: str) -> None:
    tenant = Tenant(client).provision()
    damage(stack, instance_key(tenant.instance_id), {**NEWER, **BROKEN}[damaged])
    with client.expecting(503):
        answers = [
            client.instance(tenant.instance_id),
            client.provision(tenant.instance_id, {"cluster": "cluster-dev"}),
            client.update(tenant.instance_id, {"note": "x"}),
            client.bind(tenant.instance_id, "new"),
            client.deprovision(tenant.instance_id),
        ]
        poll = client.last_operation(tenant.instance_id)
    assert {answer.status for answer in answers} == {503}
    assert poll.status == (200 if damaged in NEWER else 503)


def test_everything_else_goes_on_beside_documents_that_cannot_be_read(
    broker: InThisProcess, stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    hurt = Tenant(client).provision()
    changes = {f"odd-{number}": change for number, change in enumerate([*NEWER.values(), *BROKEN.values()])}
    for binding_id, change in changes.items():
        hurt.bind(binding_id)
        damage(stack, binding_key(hurt.instance_id, binding_id), change)
    hurt.update(note="the update looks at all bindings")
    well = Tenant(client).provision()
    assert works(well.bind("well"))
    atlas.apply_by_hand()  # what waits on the cluster is woken beside those that wait in an odd way
    begun = client.bind(well.instance_id, "waits")
    eventually(lambda: document(stack, well.instance_id, "waits")["operation"]["step"] == "apply", "the bind waits")
    atlas.apply_at_once()
    atlas.apply_now()
    well.succeed(begun, "waits")
    reconcile(broker.context, repair=True)
    names = {user["username"] for user in atlas.users()}
    assert names == {"well", "waits", *changes}
    with held(stack, "instances_housekeeping") as documents:
        found = documents.find_one({"_id": "reconciled"})
    assert found
    assert found["orphans"] == 0
    well.unbind("well")
    well.deprovision()
    metrics = requests.get(f"{stack.api.uri}/metrics", auth=(stack.user, stack.password), timeout=10)
    assert metrics.status_code == 200
    assert 'state="paused"' in metrics.text
    assert not [line for line in broker.lines if line["event"] in ("sweep_failed", "sweep_skipped", "step_raised")]


def test_an_operation_past_its_deadline_ends_beside_one_that_cannot_be_expired(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind(BINDING)
    damage(stack, binding_key(tenant.instance_id, BINDING), BROKEN["counters and waits that are none"])
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, "late")
    eventually(lambda: document(stack, tenant.instance_id, "late")["operation"]["step"] == "apply", "the bind waits")
    damage(stack, binding_key(tenant.instance_id, "late"), {"$set": {"operation.deadline": PAST}})
    assert tenant.end(begun, "late").state == "failed"


def test_a_deprovision_removes_the_user_of_a_binding_of_a_newer_release(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind(BINDING)
    damage(stack, binding_key(tenant.instance_id, BINDING), NEWER["a phase of a newer release"])
    tenant.deprovision()
    assert atlas.users() == []


def test_a_deprovision_fails_with_a_sentence_when_a_binding_cannot_be_read(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind("well")
    tenant.bind(BINDING)
    key = binding_key(tenant.instance_id, BINDING)
    damage(stack, key, BROKEN["no phase"])
    ended = tenant.end(client.deprovision(tenant.instance_id))
    assert ended.state == "failed"
    assert key in ended.description
    assert {user["username"] for user in atlas.users()} == {"well", BINDING}


@pytest.mark.parametrize("damaged", [NEWER["a phase of a newer release"], BROKEN["no phase"], BROKEN["no operation"]])
def test_a_database_that_a_document_names_is_in_use_though_it_cannot_be_read(store: Store, damaged: Json) -> None:
    operation = {"id": "provision-1", "kind": "provision", "state": "succeeded", "open": False}
    ids = [str(uuid4()), str(uuid4())]
    for each in ids:
        held_by = {"project": "p", "cluster": "c", "database": "d", "phase": "ready", "operation": operation}
        store.collection.insert_one({"_id": instance_key(each), "instance_id": each, **held_by})
    found = store.instance(ids[0])
    assert isinstance(found, Instance)
    store.collection.update_one({"_id": instance_key(ids[1])}, damaged)
    assert [other.instance_id for other in store.sharing(found)][:1] == [ids[1]]


def test_an_index_that_another_release_made_in_another_way_is_left(state_mongod: Mongod) -> None:
    with new_store(state_mongod) as store:
        store.collection.create_index([("operation.due", 1), ("phase", 1)], name="due")
        store.prepare()
        assert {"due", "waits", "ids", "database", "forget"} <= set(store.collection.index_information())
