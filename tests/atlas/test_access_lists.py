"""A plan's access list: added for its instances, active before they are, gone with the last one that needs it."""

import pytest

from broker_api.state.records import EPOCH, instance_key
from tests.atlas.broker import OTHER, Broker, new_id, operation_of
from tests.atlas.operator_config import ACCESS_PLAN, ALL, OFFICE, SITE
from tests.osb_client import PLAN_ID
from tests.tenant import eventually, succeeds, together
from workers.atlas.client import AccessEntry

PLAN = {"plan_id": ACCESS_PLAN}
LIST = "/groups/{groupId}/accessList"


@pytest.fixture(autouse=True)
def _no_faults(broker: Broker) -> None:
    broker.atlas.put_project(OTHER, access_list=[ALL])
    broker.atlas.access()


@pytest.fixture
def cluster(broker: Broker) -> str:
    return broker.cluster(project=OTHER)


def start(broker: Broker, cluster: str, instance_id: str) -> None:
    accepted = broker.client.provision(instance_id, {"cluster": cluster, "project": OTHER}, fields=PLAN)
    assert accepted.status == 202, accepted.text


def deprovision(broker: Broker, instance_id: str) -> None:
    succeeds(broker.client, broker.client.deprovision(instance_id), instance_id)


def end_doubt(broker: Broker, instance_id: str) -> None:
    """Let the time be over in which a request without an answer may take effect."""
    over = {"unsure_until": EPOCH, "operation.due": EPOCH}
    broker.context.store.collection.update_one({"_id": instance_key(instance_id)}, {"$set": over})


def test_entries_are_active_before_the_instance_is_and_go_with_the_last_one(broker: Broker, cluster: str) -> None:
    broker.atlas.access(reads=2, gap=0.05)  # two writes at once lose one
    since = broker.mark()
    first, second = new_id(), new_id()
    together(*(lambda each=each: start(broker, cluster, each) for each in (first, second)))
    for instance_id in (first, second):
        assert broker.client.wait(instance_id).state == "succeeded"
    listed = broker.access_list(OTHER)
    assert listed.keys() == {ALL, OFFICE, SITE}
    assert listed[ALL] == ""
    assert listed[OFFICE] == listed[SITE]
    assert listed[OFFICE].startswith("Atlas Broker ")
    posts = [call for call in broker.calls(since) if (call["method"], call["template"]) == ("POST", LIST)]
    assert len(posts) == 2
    deprovision(broker, first)
    assert broker.access_list(OTHER).keys() == {ALL, OFFICE, SITE}
    deprovision(broker, second)
    assert broker.access_list(OTHER).keys() == {ALL}


def test_a_provision_waits_and_says_for_what_and_a_delete_leaves_nothing(broker: Broker, cluster: str) -> None:
    broker.atlas.access(reads=1000)
    start(broker, cluster, instance_id := new_id())
    eventually(lambda: "is active in the IP access list" in broker.client.last_operation(instance_id).description)
    deprovision(broker, instance_id)
    assert broker.access_list(OTHER).keys() == {ALL}


def test_an_entry_of_others_with_the_same_addresses_stays_theirs(broker: Broker, cluster: str) -> None:
    broker.atlas.put_project(OTHER, access_list=[ALL, OFFICE])
    start(broker, cluster, instance_id := new_id())
    assert broker.client.wait(instance_id).state == "succeeded"
    assert broker.access_list(OTHER)[OFFICE] == ""
    deprovision(broker, instance_id)
    assert broker.access_list(OTHER).keys() == {ALL, OFFICE}


def test_a_lost_answer_adds_an_entry_once_and_a_refusal_leaves_nothing(broker: Broker, cluster: str) -> None:
    broker.atlas.drop("POST", "/accessList", when="after")
    start(broker, cluster, instance_id := new_id())
    assert broker.client.wait(instance_id).state == "succeeded"
    end_doubt(broker, instance_id)
    deprovision(broker, instance_id)
    refusal = {"status": 403, "error_code": "ATLAS_NETWORK_PERMISSIONS_LIMIT_EXCEEDED"}
    broker.atlas.rule(method="POST", path="/accessList", body=SITE, **refusal)
    start(broker, cluster, instance_id := new_id())
    assert "ATLAS_NETWORK_PERMISSIONS_LIMIT_EXCEEDED" in broker.failure(instance_id)
    assert broker.access_list(OTHER).keys() == {ALL}


def test_an_entry_that_appears_after_its_answer_was_lost_is_removed_too(broker: Broker, cluster: str) -> None:
    rule = broker.atlas.drop("POST", "/accessList", when="before", times=None)
    start(broker, cluster, instance_id := new_id())
    eventually(lambda: operation_of(broker, instance_id).attempts > 0, "an answer is lost")
    assert broker.client.deprovision(instance_id).status == 202
    waits = "Waiting in case a request that Atlas has not answered still has an effect."
    eventually(lambda: broker.client.last_operation(instance_id).description == waits, "the delete waits")
    broker.atlas.heal(rule)
    comment = f"Atlas Broker {broker.context.housekeeping.broker_id}"
    broker.atlas_client(OTHER).add_access_entry(AccessEntry(OFFICE, comment))
    end_doubt(broker, instance_id)
    assert broker.client.wait(instance_id).state in ("succeeded", "gone")
    assert broker.access_list(OTHER).keys() == {ALL}


def test_a_plan_that_an_update_takes_or_leaves_brings_or_takes_its_entries(broker: Broker, cluster: str) -> None:
    instance_id = broker.instance(cluster, project=OTHER)
    for plan, expected in ((ACCESS_PLAN, {ALL, OFFICE, SITE}), (PLAN_ID, {ALL})):
        succeeds(broker.client, broker.client.update(instance_id, fields={"plan_id": plan}), instance_id)
        assert broker.access_list(OTHER).keys() == expected
