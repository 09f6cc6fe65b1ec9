"""Drift between Atlas and MongoDB: it is reported, and repaired only when told to."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from broker_api.state.records import binding_key
from tests.books import held
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.messages import Messages
from tests.osb_client import OsbClient
from tests.tenant import Json, Tenant, eventually, works
from workers.atlas.client import ApiKey, AtlasClient, AtlasRole, DatabaseUser

STRANGER = DatabaseUser("stranger", (AtlasRole("read", "things"),), password="somebody-elses-password")


@pytest.fixture(scope="module")
def own(state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    """A broker of its own, whose bindings are those of one test: what other tests left is another broker's."""
    with Stack(workers=1, flower=False, state=state_mongod, cluster=cluster_mongod, emulator=emulator) as running:
        yield running


@pytest.fixture
def stack(own: Stack, atlas: Emulator) -> Stack:
    assert atlas.users() == []
    with held(own) as documents:
        documents.delete_many({})
    return own


@pytest.fixture
def operator(emulator: AtlasEmulator) -> AtlasClient:
    """Somebody who changes users in Atlas behind the broker's back."""
    return AtlasClient(emulator.uri, emulator.project_id, ApiKey(emulator.public_key, emulator.private_key))


def reconcile(stack: Stack, *, repair: bool) -> Json:
    """Give what the reconciliation has written down."""
    messages = Messages(stack)
    messages.done(messages.send("maintenance.reconcile", [], {"repair": repair}))
    with held(stack, "instances_housekeeping") as documents:
        found = documents.find_one({"_id": "reconciled"})
    assert found is not None
    return found


def names(atlas: Emulator) -> set[str]:
    return {user["username"] for user in atlas.users()}


@pytest.fixture
def drifted(stack: Stack, client: OsbClient, operator: AtlasClient) -> Json:
    """A user without a binding, a binding without its user, and a user of somebody else; credentials of the second."""
    tenant = Tenant(client).provision()
    tenant.bind("orphan")
    lost = tenant.bind("lost")
    operator.create_user(STRANGER)
    with held(stack) as documents:
        documents.delete_one({"_id": binding_key(tenant.instance_id, "orphan")})
    operator.delete_user("lost")
    eventually(lambda: not works(lost), "the user is gone")
    return lost


def test_drift_is_reported_and_nothing_is_touched(stack: Stack, drifted: Json, atlas: Emulator) -> None:
    found = reconcile(stack, repair=False)
    assert (found["orphans"], found["missing"], found["repaired"]) == (1, 1, False)
    assert names(atlas) == {"orphan", "stranger"}
    assert not works(drifted)
    logs = "".join(worker.log_text() for worker in stack.workers)
    assert "user_without_binding" in logs
    assert "binding_without_user" in logs


def test_told_to_repair_it_removes_orphans_and_makes_lost_users_again(
    stack: Stack, drifted: Json, atlas: Emulator
) -> None:
    reconcile(stack, repair=True)
    assert names(atlas) == {"lost", "stranger"}
    eventually(lambda: works(drifted), "the password that was handed out works again")
    found = reconcile(stack, repair=False)
    assert (found["orphans"], found["missing"]) == (0, 0)


def test_users_of_another_broker_on_the_same_project_are_left_alone(
    stack: Stack, client: OsbClient, atlas: Emulator, operator: AtlasClient
) -> None:
    Tenant(client).provision().bind("mine")
    labels = {**operator.user("mine").labels, "atlas-broker": "another", "binding_id": "theirs"}
    operator.create_user(DatabaseUser("theirs", STRANGER.roles, labels=labels, password="a-password-of-theirs"))
    found = reconcile(stack, repair=True)
    assert (found["orphans"], found["missing"]) == (0, 0)
    assert names(atlas) == {"mine", "theirs"}


def test_a_user_that_is_being_made_or_removed_is_no_orphan(stack: Stack, client: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(client).provision()
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, "b")
    eventually(lambda: names(atlas) == {"b"}, "the user has been asked for")
    assert reconcile(stack, repair=True)["orphans"] == 0
    assert names(atlas) == {"b"}
    atlas.apply_at_once()
    atlas.apply_now()
    tenant.succeed(begun, "b")


def test_a_project_that_workers_leave_alone_is_compared_another_time(stack: Stack, atlas: Emulator) -> None:
    with held(stack, "instances_housekeeping") as documents:
        name = {"_id": f"circuit/{atlas.project_id}"}
        later = datetime.now(UTC) + timedelta(minutes=1)
        documents.update_one(name, {"$set": {"open": True, "reason": "Atlas is down.", "until": later}}, upsert=True)
        try:
            time.sleep(1.1)  # workers look once a second
            assert reconcile(stack, repair=True)["orphans"] == 0
        finally:
            documents.delete_one(name)
    assert any("reconcile_failed" in worker.log_text() for worker in stack.workers)
