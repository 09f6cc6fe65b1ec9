"""Drift between Atlas and MongoDB: it is reported, and repaired only when told to."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from cryptography.fernet import Fernet

from broker_api.state.encryption import Vault
from broker_api.state.housekeeping import CIRCUIT, RECONCILED
from broker_api.state.mongo import In
from broker_api.state.records import Place, binding_key, instance_key
from tests.books import call_users
from tests.dev.emulated import AtlasEmulator
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.osb_client import OsbClient
from tests.tenant import Json, Tenant, eventually, succeeds, works
from workers.atlas.client import ApiKey, AtlasClient, AtlasRole, DatabaseUser, NewCluster
from workers.maintenance import reconcile as reconciliation

NO_CLUSTERS = {"clusters": 0, "instances": 0}
STRANGER = DatabaseUser("stranger", (AtlasRole("read", "things"),), password="somebody-elses-password")


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def broker(broker: InThisProcess, atlas: Emulator) -> InThisProcess:
    """Without a document of the tests before."""
    assert atlas.users() == []
    broker.lines.clear()
    broker.context.store.collection.delete_many({})
    return broker


@pytest.fixture
def operator(emulator: AtlasEmulator) -> AtlasClient:
    """Somebody who changes users in Atlas behind the broker's back."""
    return AtlasClient(emulator.uri, emulator.project_id, ApiKey(emulator.public_key, emulator.private_key))


def reconcile(broker: InThisProcess, *, repair: bool) -> Mapping[str, Any]:
    """Return what the reconciliation has written down."""
    reconciliation.reconcile(broker.context, repair=repair)
    return broker.context.housekeeping.read(RECONCILED)


def names(atlas: Emulator) -> set[str]:
    return {user["username"] for user in atlas.users()}


@pytest.fixture
def drifted(broker: InThisProcess, client: OsbClient, operator: AtlasClient) -> Json:
    """A user without a binding, a binding without its user, and a user of somebody else; credentials of the second."""
    tenant = Tenant(client).provision()
    tenant.bind("orphan")
    lost = tenant.bind("lost")
    operator.create_user(STRANGER)
    broker.context.store.collection.delete_one({"_id": binding_key(tenant.instance_id, "orphan")})
    operator.delete_user("lost")
    eventually(lambda: not works(lost), "the user is gone")
    return lost


def test_drift_is_reported_and_nothing_is_touched(broker: InThisProcess, drifted: Json, atlas: Emulator) -> None:
    found = reconcile(broker, repair=False)
    assert (found["orphans"], found["missing"], found["repaired"]) == (1, 1, False)
    assert names(atlas) == {"orphan", "stranger"}
    assert not works(drifted)
    assert "user_without_binding" in broker.log_text()
    assert "binding_without_user" in broker.log_text()


def test_told_to_repair_it_removes_orphans_and_makes_lost_users_again(
    broker: InThisProcess, drifted: Json, atlas: Emulator
) -> None:
    reconcile(broker, repair=True)
    assert names(atlas) == {"lost", "stranger"}
    eventually(lambda: works(drifted), "the password that was handed out works again")
    found = reconcile(broker, repair=False)
    assert (found["orphans"], found["missing"]) == (0, 0)


def test_what_something_else_has_repaired_meanwhile_is_repaired(
    broker: InThisProcess, drifted: Json, atlas: Emulator
) -> None:
    atlas.fail("DELETE", "databaseUsers", status=404, error_code="USER_NOT_FOUND", act=True)
    atlas.fail("POST", "databaseUsers", status=409, error_code="USER_ALREADY_EXISTS", act=True)
    found = reconcile(broker, repair=True)
    assert json.loads(found["left"]) == {"orphans": 0, "missing": 0, **NO_CLUSTERS}
    assert "repair_failed" not in broker.log_text()
    assert names(atlas) == {"lost", "stranger"}
    eventually(lambda: works(drifted), "the password that was handed out works again")


def test_a_name_that_is_taken_by_no_user_of_the_binding_is_no_repair(
    broker: InThisProcess, drifted: Json, atlas: Emulator
) -> None:
    atlas.fail("POST", "databaseUsers", status=409, error_code="USER_ALREADY_EXISTS")
    assert json.loads(reconcile(broker, repair=True)["left"]) == {"orphans": 0, "missing": 1, **NO_CLUSTERS}
    assert "repair_failed" in broker.log_text()
    assert not works(drifted)


def test_users_of_another_broker_on_the_same_project_are_left_alone(
    broker: InThisProcess, client: OsbClient, atlas: Emulator, operator: AtlasClient
) -> None:
    Tenant(client).provision().bind("mine")
    labels = {**operator.user("mine").labels, "atlas-broker": "another", "binding_id": "theirs"}
    operator.create_user(DatabaseUser("theirs", STRANGER.roles, labels=labels, password="a-password-of-theirs"))
    found = reconcile(broker, repair=True)
    assert (found["orphans"], found["missing"]) == (0, 0)
    assert names(atlas) == {"mine", "theirs"}


def test_a_user_that_is_being_made_or_removed_is_no_orphan(
    broker: InThisProcess, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, "b")
    eventually(lambda: names(atlas) == {"b"}, "the user has been asked for")
    assert reconcile(broker, repair=True)["orphans"] == 0
    assert names(atlas) == {"b"}
    atlas.apply_at_once()
    atlas.apply_now()
    tenant.succeed(begun, "b")


def test_each_user_is_compared_and_repaired_whatever_the_others_are_like(
    broker: InThisProcess, client: OsbClient, atlas: Emulator
) -> None:
    """One record does not open, one was changed, Atlas refuses one user (403); all others are repaired."""
    tenant = Tenant(client).provision()
    users = {name: tenant.bind(name) for name in ("unopened", "changed", "refused", "orphan", "lost", "lost-unopened")}
    documents, by_name = broker.context.store.collection, partial(binding_key, tenant.instance_id)
    for name in ("unopened", "lost-unopened"):
        sealed = Vault((Fernet.generate_key().decode(),)).seal({}, Place(by_name(name), "sealed_context"))
        fields = {"sealed_context": sealed, "sealed_credentials": sealed}
        documents.update_one({"_id": by_name(name)}, {"$set": fields})
    documents.update_one({"_id": by_name("changed")}, {"$set": {"roles": "[]"}})
    documents.delete_many({"_id": {"$in": [by_name("refused"), by_name("orphan")]}})
    for name in ("lost", "lost-unopened"):
        call_users(atlas, "DELETE", f"/admin/{name}")
    atlas.fail("DELETE", "databaseUsers/admin/refused", times=None, status=403, error_code="USER_UNAUTHORIZED")

    found = reconcile(broker, repair=True)
    assert (found["orphans"], found["missing"], found["undecided"]) == (2, 2, 2)
    assert json.loads(found["left"]) == {"orphans": 1, "missing": 1, **NO_CLUSTERS}
    told = {each["user_not_compared"]: each["reason"] for each in json.loads(found["differences"]) if "reason" in each}
    assert told.keys() == {"unopened", "changed"}
    assert "put back the key" in told["unopened"]
    assert "is not as the broker wrote it" in told["changed"]
    assert names(atlas) == {"unopened", "changed", "refused", "lost"}
    eventually(lambda: works(users["lost"]), "the password that was handed out works again")


def test_a_project_that_the_key_may_not_read_is_told_and_its_limit_need_not_be_known(
    broker: InThisProcess, client: OsbClient, atlas: Emulator
) -> None:
    Tenant(client).provision().bind("kept")
    atlas.fail("GET", "databaseUsers", status=403, error_code="USER_UNAUTHORIZED")
    with pytest.raises(reconciliation.ReconcileError, match=r"1 of 1 projects not compared"):
        reconcile(broker, repair=True)
    atlas.fail("GET", "/limits/", times=None, status=404, error_code="RESOURCE_NOT_FOUND")
    assert json.loads(reconcile(broker, repair=True)["not_compared"]) == {}
    assert names(atlas) == {"kept"}


def test_a_project_that_workers_leave_alone_is_compared_another_time(broker: InThisProcess, atlas: Emulator) -> None:
    name, housekeeping = f"{CIRCUIT}{atlas.project_id}", broker.context.housekeeping
    housekeeping.write(name, {"open": True, "reason": "Atlas is down.", "until": In(60)})
    try:
        with pytest.raises(reconciliation.ReconcileError, match=r"1 of 1 projects not compared.* Atlas is down\."):
            reconcile(broker, repair=True)
    finally:
        housekeeping.collection.delete_one({"_id": name})
    found = housekeeping.read(RECONCILED)
    assert found["orphans"] == 0
    assert atlas.project_id in found["not_compared"]
    assert "reconcile_failed" in broker.log_text()


def test_users_are_compared_and_repaired_also_when_the_clusters_cannot_be_listed(
    broker: InThisProcess, client: OsbClient, atlas: Emulator, operator: AtlasClient
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind("b-1")
    operator.delete_user("b-1")
    atlas.fail("GET", "/flexClusters$", times=None, status=404, error_code="RESOURCE_NOT_FOUND")
    with pytest.raises(reconciliation.ReconcileError, match="1 of 1 projects not compared"):
        reconcile(broker, repair=True)
    assert operator.user("b-1")


def test_clusters_without_an_instance_and_instances_without_a_cluster_are_only_reported(
    broker: InThisProcess, client: OsbClient, atlas: Emulator, operator: AtlasClient
) -> None:
    atlas.put_cluster("gone-soon")
    lost = Tenant(client).provision(cluster="gone-soon")
    atlas.delete_cluster("gone-soon")
    used = Tenant(client).provision()
    mine = {"atlas-broker": broker.context.housekeeping.broker_id, "instance_id": used.instance_id}
    for number, tags in enumerate([mine, mine, {**mine, "atlas-broker": "another"}, {}]):
        operator.create_cluster(NewCluster(f"{number}-made", "flex", "AWS", "US_EAST_1", tags))
    atlas.put_cluster("1-made", state="DELETING")
    found = reconcile(broker, repair=True)
    assert (found["clusters"], found["instances"], found["orphans"], found["missing"]) == (1, 1, 0, 0)
    project = {"project": atlas.project_id}
    assert json.loads(found["differences"]) == [
        {"cluster_without_instance": "0-made", **project},
        {"instance_without_cluster": lost.instance_id, **project},
    ]
    assert json.loads(found["left"])["clusters"] == 1
    assert len(atlas.clusters()) == 6
    broker.context.store.collection.update_one({"_id": instance_key(used.instance_id)}, {"$set": {"cluster": "0-made"}})
    assert reconcile(broker, repair=False)["clusters"] == 0


def test_the_user_of_a_binding_that_is_unbound_meanwhile_is_not_made_again(
    broker: InThisProcess, client: OsbClient, drifted: Json, atlas: Emulator
) -> None:
    ready = next(each for each in broker.context.store.collection.find({"binding_id": "lost"}))
    atlas.hang("POST", "databaseUsers", seconds=3, when="before")
    with ThreadPoolExecutor(1) as pool:
        repaired = pool.submit(reconcile, broker, repair=True)
        eventually(lambda: "orphan" not in names(atlas), "the repair has begun")
        succeeds(client, client.unbind(ready["instance_id"], "lost"), ready["instance_id"], "lost")
        repaired.result()
    assert names(atlas) == {"stranger"}
    assert not works(drifted)
