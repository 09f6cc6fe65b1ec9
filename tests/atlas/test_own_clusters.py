"""Instances with a cluster of their own: made, waited for, changed and gone, whatever Atlas and platforms do meanwhile.

At the end of each test the books are balanced: the broker's clusters in Atlas are those of live instances.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from broker_api.naming import cluster_name
from broker_api.state.records import EPOCH, Instance, instance_key
from tests.atlas.broker import MAIN, Broker, cancel, instance_of, new_id, operation_of
from tests.atlas.operator_config import ALL, DEDICATED_PLAN, FIXED_PLAN, FLEX_PLAN, OFFICE
from tests.in_process import POLL_SECONDS
from tests.osb_client import Json
from tests.tenant import ends, eventually, succeeds, works
from workers.engine.runner import UNDO_ATTEMPTS
from workers.operations import compose_runner

PLANS = {"dedicated": DEDICATED_PLAN, "flex": FLEX_PLAN}
PATHS = {"dedicated": "/clusters", "flex": "/flexClusters"}
CLUSTERS = "/groups/{groupId}/clusters"


@pytest.fixture(autouse=True)
def _times(broker: Broker) -> Iterator[None]:
    times(broker, creating={"reads": 1}, updating={"reads": 1}, deleting={"reads": 1})
    yield
    broker.atlas.put_project(MAIN, cluster_limit=1000)
    times(broker)
    made = {name for name in clusters(broker) if name.startswith("i-")}
    for name in made:
        broker.atlas.delete_cluster(name)
    assert made == set(), "clusters are left"


def times(broker: Broker, **values: object) -> None:
    for kind in PLANS:
        broker.atlas.cluster_times(kind, **values)


def clusters(broker: Broker) -> dict[str, Json]:
    return {cluster["name"]: cluster for cluster in broker.atlas.clusters(MAIN)}


def begin(broker: Broker, kind: str, **parameters: object) -> tuple[str, str]:
    """The id of a new instance, and the name of its cluster."""
    instance_id = new_id()
    answer = broker.client.provision(instance_id, parameters, fields={"plan_id": PLANS.get(kind, kind)})
    assert answer.status == 202, answer.text
    return instance_id, cluster_name(instance_id)


def made(broker: Broker, kind: str, **parameters: object) -> tuple[str, str]:
    instance_id, name = begin(broker, kind, **parameters)
    ended = broker.client.wait(instance_id)
    assert ended.state == "succeeded", ended.text
    return instance_id, name


def bind(broker: Broker, kind: str, instance_id: str) -> Json:
    accepted = broker.client.bind(instance_id, binding := new_id(), fields={"plan_id": PLANS[kind]})
    assert accepted.status == 202, accepted.text
    begun = broker.context.store.binding(instance_id, binding)
    assert begun
    # A bind may have to wait until an update of the cluster has ended.
    assert (begun.operation.deadline - begun.operation.accepted).total_seconds() == 10_800
    return broker.credentials(instance_id, binding)


def update(broker: Broker, instance_id: str, **parameters: object) -> None:
    succeeds(broker.client, broker.client.update(instance_id, parameters), instance_id)


def deprovision(broker: Broker, instance_id: str) -> None:
    succeeds(broker.client, broker.client.deprovision(instance_id), instance_id)


def in_state(broker: Broker, name: str, state: str) -> None:
    eventually(lambda: clusters(broker).get(name, {}).get("state") == state, state)


@pytest.mark.parametrize("kind", PLANS)
def test_a_cluster_is_made_used_changed_and_terminated(broker: Broker, kind: str) -> None:
    instance_id, name = made(broker, kind)
    assert len(name) == 23
    tags = clusters(broker)[name]["tags"]
    assert tags.keys() == {"atlas-broker", "instance_id", "operation"}
    assert (tags["instance_id"], tags["atlas-broker"]) == (instance_id, broker.context.housekeeping.broker_id)
    assert tags["operation"].startswith("provision-")
    fetched = broker.client.instance(instance_id).json
    assert fetched["dashboard_url"].endswith(f"#/clusters/detail/{name}")
    assert works(bind(broker, kind, instance_id))
    update(broker, instance_id, termination_protection=True)
    assert clusters(broker)[name]["protected"]
    refused = ends(broker.client, broker.client.deprovision(instance_id), instance_id)
    assert (refused.state, "termination_protection false" in refused.description) == ("failed", True)
    update(broker, instance_id, termination_protection=False)
    deprovision(broker, instance_id)
    assert broker.client.last_operation(instance_id).state == "succeeded"


def test_a_dedicated_cluster_is_as_the_parameters_say_and_changes_with_them(broker: Broker) -> None:
    wanted = {
        "provider": "GCP",
        "region": "WESTERN_EUROPE",
        "tier": "M20",
        "disk_size_gb": 40,
        "mongodb_version": "7.0",
    }
    instance_id, name = made(broker, "dedicated", **wanted, backup=False, database="shop")
    atlas = broker.atlas_client(MAIN)
    cluster = atlas.cluster(name)
    assert (cluster.provider, cluster.region, cluster.tier) == ("GCP", "WESTERN_EUROPE", "M20")
    assert (cluster.disk_size_gb, cluster.major_version, cluster.backup) == (40, "7.0", False)
    assert bind(broker, "dedicated", instance_id)["database"] == "shop"
    assert broker.access_list(MAIN).keys() == {ALL, OFFICE}
    since = broker.mark()
    update(broker, instance_id, tier="M30", disk_size_gb=80, mongodb_version="8.0", backup=True)
    update(broker, instance_id, **{"policy-on-delete": "drop", "provider": "GCP"})
    assert len([call for call in broker.calls(since) if call["method"] == "PATCH"]) == 1
    cluster = atlas.cluster(name)
    assert (cluster.tier, cluster.disk_size_gb, cluster.major_version, cluster.backup) == ("M30", 80, "8.0", True)
    for parameters, complaint in (
        ({"provider": "AWS"}, "parameters.provider cannot be changed; it is GCP."),
        ({"region": "US_EAST_1"}, "parameters.region cannot be changed"),
        ({"disk_size_gb": 40}, "parameters.disk_size_gb can only grow; it is 80."),
        ({"mongodb_version": "7.0"}, "parameters.mongodb_version can only grow; it is 8.0."),
        ({"tier": "M99"}, "parameters.tier must be one of M10, M20, M30."),
        ({"cluster": name}, "parameters.cluster is not allowed"),
    ):
        answer = broker.client.update(instance_id, parameters)
        assert (answer.status, complaint in answer.description) == (400, True), answer.text
    deprovision(broker, instance_id)
    assert broker.access_list(MAIN).keys() == {ALL}


@pytest.mark.parametrize(
    ("plan", "parameters", "complaint"),
    [
        (DEDICATED_PLAN, {"cluster": "c"}, "parameters.cluster is not allowed"),
        (DEDICATED_PLAN, {"provider": "GCP"}, "parameters.region is required elsewhere than on AWS."),
        (DEDICATED_PLAN, {"provider": "aws"}, "parameters.provider must be one of AWS, GCP, AZURE."),
        (DEDICATED_PLAN, {"region": "eu-west-1"}, "parameters.region is not allowed."),
        (DEDICATED_PLAN, {"disk_size_gb": "40"}, "parameters.disk_size_gb must be of the type integer."),
        (DEDICATED_PLAN, {"disk_size_gb": True}, "parameters.disk_size_gb must be of the type integer."),
        (DEDICATED_PLAN, {"mongodb_version": 8.0}, "parameters.mongodb_version must be of the type string."),
        (DEDICATED_PLAN, {"backup": 1}, "parameters.backup must be of the type boolean."),
        (FLEX_PLAN, {"tier": "M10"}, "parameters.tier is not allowed: a flex cluster has none."),
        (FLEX_PLAN, {"provider": "AZURE"}, "parameters.region is required"),
        (FIXED_PLAN, {"tier": "M50"}, "parameters.tier cannot be chosen: the plan decides it."),
        (FIXED_PLAN, {"region": "EU_CENTRAL_1"}, "parameters.region cannot be chosen"),
        (None, {"cluster": "c", "tier": "M10"}, "parameters.tier is not allowed: instances of this plan are on"),
    ],
)
def test_parameters_that_the_plan_does_not_leave_open_are_400(
    broker: Broker, plan: str | None, parameters: Json, complaint: str
) -> None:
    answer = broker.client.provision(new_id(), parameters, fields={"plan_id": plan} if plan else None)
    assert (answer.status, complaint in answer.description) == (400, True), answer.text


def test_a_plan_may_fix_values(broker: Broker) -> None:
    instance_id, name = made(broker, FIXED_PLAN)
    cluster = broker.atlas_client(MAIN).cluster(name)
    assert (cluster.region, cluster.tier) == ("EU_CENTRAL_1", "M50")
    moved = broker.client.update(instance_id, fields={"plan_id": FLEX_PLAN})
    assert (moved.status, "another kind of cluster" in moved.description) == (422, True)
    deprovision(broker, instance_id)


# --- waiting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "header"), [("dedicated", "30"), ("flex", None)])
def test_a_poll_says_what_atlas_does_and_since_when(broker: Broker, kind: str, header: str | None) -> None:
    times(broker, creating={"never": True})
    instance_id, name = begin(broker, kind, region="EU_WEST_1")
    what = "tier M10, AWS EU_WEST_1" if kind == "dedicated" else "Flex, AWS EU_WEST_1"
    sentence = f"Atlas is creating the cluster {name} ({what}), for "
    eventually(lambda: broker.client.last_operation(instance_id).description.startswith(sentence), sentence)
    assert broker.client.last_operation(instance_id).headers.get("Retry-After") == header
    operation = operation_of(broker, instance_id)
    assert (operation.deadline - operation.accepted).total_seconds() == 10_800
    eventually(lambda: operation_of(broker, instance_id).lease_token is None, "no worker holds it between two looks")
    deprovision(broker, instance_id)


def test_many_that_wait_hold_no_worker_and_cost_one_look_in_the_interval(broker: Broker) -> None:
    times(broker, creating={"never": True})
    broker.atlas.put_project(MAIN, cluster_limit=1000)
    waiting = [begin(broker, "flex") for _ in range(20)]
    eventually(lambda: len([name for name in clusters(broker) if name.startswith("i-")]) == len(waiting), "all", 60)
    since = broker.mark()

    def looks() -> list[list[float]]:
        """The moments of looks at each cluster."""
        asked: dict[str, list[float]] = {}
        for call in broker.calls(since):
            if call["method"] == "GET" and call["template"].endswith("/flexClusters/{clusterName}"):
                asked.setdefault(call["path"], []).append(call["start"])
        return list(asked.values())

    eventually(lambda: len([moments for moments in looks() if len(moments) > 1]) == len(waiting), "looks", 60)
    pauses = [later - earlier for moments in looks() for earlier, later in pairwise(moments)]
    assert min(pauses) > 0.5 * POLL_SECONDS["flex"]
    for instance_id, _ in waiting:
        broker.client.deprovision(instance_id)
    for instance_id, _ in waiting:
        assert broker.client.wait(instance_id, seconds=100).state in ("succeeded", "gone")


# --- creations that do not go well --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("fault", ["drop", "500"])
def test_a_creation_whose_answer_is_lost_is_found_again(broker: Broker, kind: str, fault: str) -> None:
    if fault == "drop":
        broker.atlas.drop("POST", PATHS[kind] + "$", when="after")
    else:
        broker.atlas.fail("POST", PATHS[kind] + "$", act=True)
    since = broker.mark()
    instance_id, name = made(broker, kind)
    assert len([call for call in broker.calls(since) if call["template"].endswith(PATHS[kind])]) == 1
    assert name in clusters(broker)
    deprovision(broker, instance_id)


def test_a_name_that_the_brokers_own_creation_may_have_taken_is_looked_for_again(broker: Broker) -> None:
    """Atlas may say that the name is taken before it shows the cluster, and the answer to its creation was lost."""
    broker.atlas.drop("POST", "/flexClusters$", when="before")
    broker.atlas.fail("POST", "/flexClusters$", times=6, status=400, error_code="DUPLICATE_CLUSTER_NAME")
    instance_id, _ = made(broker, "flex")
    deprovision(broker, instance_id)


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (402, "NO_PAYMENT_INFORMATION_FOUND", "has no valid means of payment"),
        (409, "OUT_OF_CAPACITY", "choose another region or tier"),
        (403, "CLUSTER_LIMIT_EXCEEDED", "remove one that is not needed"),
    ],
)
def test_a_refusal_comes_through_as_a_sentence(broker: Broker, status: int, code: str, advice: str) -> None:
    broker.atlas.fail("POST", "/clusters$", status=status, error_code=code)
    instance_id, name = begin(broker, "dedicated")
    sentence = broker.failure(instance_id)
    assert all(part in sentence for part in (code, advice, name)), sentence
    assert broker.access_list(MAIN).keys() == {ALL}
    again = broker.client.provision(instance_id, {}, fields={"plan_id": DEDICATED_PLAN})
    assert again.status == 202, again.text
    assert broker.client.wait(instance_id).state == "succeeded"
    deprovision(broker, instance_id)


def test_a_cluster_of_others_with_this_name_is_not_touched(broker: Broker) -> None:
    theirs = f"theirs-{new_id()}"[:23]
    broker.atlas.put_cluster(theirs)
    for name in (theirs, f"{theirs}-other"):
        instance_id, _ = begin(broker, "dedicated", cluster_name=name)
        assert "left as it" in broker.failure(instance_id)
        deprovision(broker, instance_id)
    assert clusters(broker)[theirs]["state"] == "IDLE"
    broker.atlas.delete_cluster(theirs)


@pytest.mark.parametrize("name", ["-x", "atlas-abc123", "a_b", "x" * 65, f"{'x' * 22}-y"])
def test_a_name_that_atlas_would_refuse_is_not_asked_for(broker: Broker, name: str) -> None:
    since = broker.mark()
    instance_id, _ = begin(broker, "flex", cluster_name=name)
    assert "cluster" in broker.failure(instance_id)
    assert [call for call in broker.calls(since) if call["method"] == "POST"] == []


@pytest.mark.parametrize("kind", PLANS)
def test_a_delete_stops_the_creation_and_leaves_nothing(broker: Broker, kind: str) -> None:
    times(broker, creating={"never": True}, deleting={"reads": 2})
    instance_id, name = begin(broker, kind, termination_protection=True, **{"policy-on-delete": "retain"})
    operation = broker.client.last_operation(instance_id)
    in_state(broker, name, "CREATING")
    accepted, told = broker.client.deprovision(instance_id), set[str]()
    assert accepted.status == 202, accepted.text
    ended = broker.client.wait(
        instance_id, operation=accepted.operation, on_poll=lambda answer: told.add(answer.description)
    )
    assert ended.state in ("succeeded", "gone"), ended.text
    assert name not in clusters(broker)
    assert not any("in case" in sentence for sentence in told)  # once Atlas has shown the cluster, it is not awaited
    assert operation.state == "in progress"


def test_a_delete_waits_for_a_cluster_that_atlas_does_not_show_yet(broker: Broker) -> None:
    times(broker, creating={"never": True}, deleting={"reads": 1})
    rule = broker.atlas.fail("GET", "[cC]lusters/i-", times=None, status=404, error_code="CLUSTER_NOT_FOUND")
    instance_id, name = begin(broker, "flex")
    in_state(broker, name, "CREATING")
    eventually(lambda: instance_of(broker, instance_id).unseen_until, "its creation is accepted")
    accepted = broker.client.deprovision(instance_id)
    assert accepted.status == 202
    late = f"Waiting in case Atlas shows the cluster {name} late."
    eventually(lambda: broker.client.last_operation(instance_id).description == late, "the broker waits")
    broker.atlas.heal(rule)
    succeeds(broker.client, accepted, instance_id)
    assert name not in clusters(broker)


def test_a_delete_while_the_answer_to_the_creation_hangs_waits_for_its_effect(broker: Broker) -> None:
    broker.atlas.hang("POST", "/flexClusters$", seconds=3, when="before")
    instance_id, name = begin(broker, "flex")
    eventually(lambda: "create cluster" in str(broker.context.store.instance(instance_id)), "the creation is sent")
    deprovision(broker, instance_id)
    eventually(lambda: all(call["end"] for call in broker.calls()), "the creation has had its effect")
    assert name not in clusters(broker)


def has_seen_the_cluster(instance: Instance) -> bool:
    return instance.operation.step == "wait for cluster" and instance.unseen_until is None


def test_a_cluster_that_is_removed_while_it_is_made_fails_the_provision(broker: Broker) -> None:
    times(broker, creating={"never": True})
    instance_id, name = begin(broker, "flex")
    in_state(broker, name, "CREATING")
    eventually(lambda: has_seen_the_cluster(instance_of(broker, instance_id)), "the broker has seen it")
    broker.atlas.delete_cluster(name)
    assert "was removed while it was created" in broker.failure(instance_id)


def test_a_cluster_that_atlas_does_not_show_yet_is_waited_for(broker: Broker) -> None:
    broker.atlas.fail("GET", "[cC]lusters/i-", times=4, status=404, error_code="CLUSTER_NOT_FOUND")
    instance_id, name = made(broker, "flex")
    assert name in clusters(broker)
    deprovision(broker, instance_id)


def test_a_creation_goes_on_with_another_worker_and_makes_no_second_cluster(broker: Broker) -> None:
    """The first worker still waits for Atlas's answer when its lease is over, as after kill -9 or a long pause."""
    rule = broker.atlas.hang("POST", "/flexClusters$", seconds=3, when="after")
    instance_id, name = begin(broker, "flex")
    in_state(broker, name, "CREATING")
    over = {"operation.lease_until": EPOCH, "operation.due": EPOCH}
    key = instance_key(instance_id)
    found = broker.context.store.get(key)
    assert found
    broker.context.store.collection.update_one({"_id": key}, {"$set": over})
    compose_runner(broker.context).work(key, found.operation.id)
    assert broker.client.wait(instance_id).state == "succeeded"
    broker.atlas.heal(rule)

    def lost() -> bool:
        return any("lease_lost" in line and instance_id in line for line in broker.logs().splitlines())

    eventually(lost, "the first worker has its answer, and has lost its lease")
    assert clusters(broker)[name]["state"] == "IDLE"
    deprovision(broker, instance_id)


def test_a_failed_creation_whose_cluster_is_still_being_removed_is_not_begun_again(broker: Broker) -> None:
    times(broker, creating={"never": True}, deleting={"never": True})
    instance_id, name = begin(broker, "flex")
    eventually(lambda: "Atlas is creating" in broker.client.last_operation(instance_id).description, "a worker waits")
    past = {"operation.deadline": EPOCH}
    broker.context.store.collection.update_one({"_id": instance_key(instance_id)}, {"$set": past})
    sentence = broker.failure(instance_id)
    assert sentence.startswith("The operation was not done before its deadline. Atlas is creating the cluster")
    in_state(broker, name, "DELETING")
    again = broker.client.provision(instance_id, {}, fields={"plan_id": FLEX_PLAN})
    assert (again.status, again.json["error"]) == (422, "ConcurrencyError")
    broker.atlas.delete_cluster(name)
    deprovision(broker, instance_id)


# --- updates and deletes that do not go well ----------------------------------------------------------------------


def test_an_update_waits_for_a_cluster_under_way_and_a_refused_one_changes_nothing(broker: Broker) -> None:
    instance_id, name = made(broker, "dedicated")
    broker.atlas.drop("PATCH", "/clusters/", when="after")
    update(broker, instance_id, tier="M20")
    broker.atlas.fail("PATCH", "/clusters/", status=409, error_code="OUT_OF_CAPACITY")
    ended = ends(broker.client, broker.client.update(instance_id, {"tier": "M30", "backup": False}), instance_id)
    assert (ended.state, "OUT_OF_CAPACITY" in ended.description) == ("failed", True)
    assert ended.json["instance_usable"]
    cluster = broker.atlas_client(MAIN).cluster(name)
    assert (cluster.tier, cluster.backup) == ("M20", True)
    assert broker.client.instance(instance_id).json["parameters"] == {"tier": "M20"}
    deprovision(broker, instance_id)


def test_a_flex_cluster_whose_deletion_is_lost_is_deleted_again(broker: Broker) -> None:
    instance_id, name = made(broker, "flex")
    broker.atlas.lose_flex_deletions(2)
    broker.atlas.drop("DELETE", "/flexClusters/", when="after")
    deprovision(broker, instance_id)
    assert name not in clusters(broker)


def test_a_retained_cluster_stays_and_is_not_taken_for_that_of_a_new_instance(broker: Broker) -> None:
    instance_id, name = made(broker, "flex", **{"policy-on-delete": "retain"})
    other = broker.client.provision(taken := new_id(), {"cluster": name, "project": MAIN})
    assert other.status == 202
    assert "was made for another instance alone" in broker.failure(taken)
    deprovision(broker, instance_id)
    assert clusters(broker)[name]["tags"]["instance_id"] == instance_id
    answer = broker.client.provision(instance_id, {}, fields={"plan_id": FLEX_PLAN})
    assert answer.status == 202
    assert "is not tagged as this instance's" in broker.failure(instance_id)
    deprovision(broker, instance_id)
    assert clusters(broker)[name]["state"] == "IDLE"
    broker.atlas.delete_cluster(name)


def test_a_cluster_whose_tags_were_changed_is_not_terminated(broker: Broker) -> None:
    instance_id, name = made(broker, "flex")
    atlas = broker.atlas_client(MAIN)
    tags = atlas.cluster(name).tags
    atlas.update_cluster(atlas.cluster(name), tags={"owner": "us"})
    ended = ends(broker.client, broker.client.deprovision(instance_id), instance_id)
    assert (ended.state, "is not tagged as this instance's" in ended.description) == ("failed", True)
    atlas.update_cluster(atlas.cluster(name), tags=tags)
    deprovision(broker, instance_id)


def test_a_cluster_that_atlas_does_not_change_back_keeps_no_update_away_for_ever(broker: Broker) -> None:
    instance_id, name = made(broker, "dedicated")
    times(broker, updating={"never": True})
    assert broker.client.update(instance_id, {"tier": "M30"}).status == 202
    in_state(broker, name, "UPDATING")
    broker.atlas.fail("PATCH", "/clusters/", times=None, status=409, error_code="CANNOT_UPDATE_PAUSED_CLUSTER")
    cancel(broker, instance_id)
    eventually(
        lambda: operation_of(broker, instance_id).undo and operation_of(broker, instance_id).error, "it is undone"
    )
    refused = broker.client.update(instance_id, {"tier": "M20"})
    assert (refused.status, refused.json["error"]) == (422, "ConcurrencyError")
    with_context = {"context": {"platform": "cloudfoundry", "instance_name": "renamed"}}
    assert broker.client.update(instance_id, {}, fields=with_context).status == 200
    hour = {"operation.attempts": UNDO_ATTEMPTS, "operation.due": EPOCH}
    records, unheld = broker.context.store.collection, {"_id": instance_key(instance_id), "operation.lease_token": None}
    eventually(lambda: records.update_one(unheld, {"$set": hour}).modified_count, "no worker holds it")
    eventually(lambda: not operation_of(broker, instance_id).open, "the operation has ended")
    assert any("undo_step_left_out" in line and instance_id in line for line in broker.logs().splitlines())
    broker.atlas.heal()
    assert broker.client.update(instance_id, {"tier": "M20"}).status == 202
    cancel(broker, instance_id)
    eventually(lambda: not operation_of(broker, instance_id).open, "the operation has ended")
    broker.atlas.delete_cluster(name)
    deprovision(broker, instance_id)


def looked_at_while_created(broker: Broker, kind: str) -> tuple[str, str]:
    """The id of an instance whose cluster was seen by a look, and the cluster's name."""
    times(broker, creating={"never": True})
    instance_id, name = begin(broker, kind)
    eventually(lambda: "Atlas is creating" in broker.client.last_operation(instance_id).description, "a worker waits")
    many = {"$set": {"operation.refusals": 12, "operation.attempts": 12}}
    broker.context.store.collection.update_one({"_id": instance_key(instance_id)}, many)
    eventually(lambda: operation_of(broker, instance_id).refusals == 0, "it has looked again", 60)
    return instance_id, name


@pytest.mark.parametrize("kind", ["flex", "dedicated"])
def test_a_look_at_the_cluster_ends_a_row_of_refusals_and_the_doubt_about_its_creation(
    broker: Broker, kind: str
) -> None:
    instance_id, name = looked_at_while_created(broker, kind)
    found = instance_of(broker, instance_id)
    assert (found.operation.attempts, found.unsure_until, found.unseen_until) == (0, None, None)
    times(broker, creating={"reads": 1})
    broker.atlas.delete_cluster(name)
    broker.failure(instance_id)


def test_a_look_at_the_cluster_does_not_end_the_doubt_about_access_entries(broker: Broker) -> None:
    broker.atlas.drop("POST", "/accessList", when="after")
    instance_id, _ = looked_at_while_created(broker, "dedicated")
    found = instance_of(broker, instance_id)
    assert found.unsure_until
    assert found.unseen_until is None
    past = {"$set": {"unsure_until": EPOCH}}
    broker.context.store.collection.update_one({"_id": instance_key(instance_id)}, past)
    times(broker, creating={"reads": 1}, deleting={"reads": 1})
    deprovision(broker, instance_id)


def test_a_cluster_whose_deadline_has_passed_before_atlas_was_asked_is_kept(broker: Broker) -> None:
    instance_id, name = made(broker, "flex")
    rule = broker.atlas.fail("DELETE", "/flexClusters/", times=None)
    assert broker.client.deprovision(instance_id).status == 202
    eventually(lambda: operation_of(broker, instance_id).attempts > 0, "Atlas does not terminate it")
    past = {"operation.deadline": EPOCH}
    broker.context.store.collection.update_one({"_id": instance_key(instance_id)}, {"$set": past})
    broker.failure(instance_id)
    broker.atlas.heal(rule)
    eventually(lambda: not operation_of(broker, instance_id).open, "it is given up", 30)
    assert clusters(broker)[name]["state"] == "IDLE"
    assert broker.client.instance(instance_id).status == 200
    deprovision(broker, instance_id)


def test_an_instance_whose_cluster_is_going_already_cannot_be_used_after_a_cancel(broker: Broker) -> None:
    instance_id, name = made(broker, "flex")
    times(broker, deleting={"never": True})
    assert broker.client.deprovision(instance_id).status == 202
    in_state(broker, name, "DELETING")
    cancel(broker, instance_id)
    eventually(lambda: not operation_of(broker, instance_id).open, "the operation has ended")
    ended = broker.client.last_operation(instance_id)
    assert (ended.state, ended.json["instance_usable"]) == ("failed", False)
    rule = broker.atlas.fail("GET", name, times=None)
    assert broker.client.deprovision(instance_id).status == 202
    eventually(lambda: operation_of(broker, instance_id).attempts > 0, "the second one cannot look at the cluster")
    cancel(broker, instance_id)
    eventually(lambda: not operation_of(broker, instance_id).open, "the operation has ended")
    assert not broker.client.last_operation(instance_id).json["instance_usable"]
    broker.atlas.heal(rule)
    times(broker, deleting={"reads": 1})
    broker.atlas.delete_cluster(name)
    deprovision(broker, instance_id)


def test_a_flex_cluster_that_was_upgraded_in_atlas_is_terminated(broker: Broker) -> None:
    instance_id, name = made(broker, "flex")
    broker.atlas.put_cluster(name, kind="dedicated")
    deprovision(broker, instance_id)
    assert name not in clusters(broker)


def test_a_deprovision_of_a_project_that_is_gone_ends_with_the_reason(broker: Broker) -> None:
    instance_id, _ = made(broker, "flex")
    rule = broker.atlas.fail("GET", "/flexClusters/", times=None, status=404, error_code="GROUP_NOT_FOUND")
    ended = ends(broker.client, broker.client.deprovision(instance_id), instance_id)
    assert (ended.state, "GROUP_NOT_FOUND" in ended.description) == ("failed", True)
    assert ended.json["instance_usable"]
    broker.atlas.heal(rule)
    deprovision(broker, instance_id)
