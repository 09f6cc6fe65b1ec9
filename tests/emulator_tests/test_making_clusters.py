"""Clusters that calls make, change and delete: the answers as recorded, the states with their times, the refusals."""

from typing import Any

import pytest

from tests.emulator.model import Json
from tests.emulator_tests.conftest import CLUSTERS, FLEX, Api, Login
from tests.emulator_tests.test_wire import CLUSTER_KEYS, FLEX_KEYS, assert_answer, assert_refusal

NEWEST = "2024-10-23"
DELETING = "2023-02-01"
TAGS = [{"key": "instance_id", "value": "i-1"}, {"key": "atlas-broker", "value": "b @;_-.+ 1"}]


def dedicated(name: str = "made", tier: str = "M10", **more: object) -> Json:
    nodes = {"instanceSize": tier, "nodeCount": 3}
    region = {"providerName": "AWS", "regionName": "EU_WEST_1", "priority": 7, "electableSpecs": nodes}
    specs = [{"regionConfigs": [region]}]
    return {"name": name, "clusterType": "REPLICASET", "replicationSpecs": specs, "tags": TAGS, **more}


def flex(name: str = "made", **more: object) -> Json:
    settings = {"backingProviderName": "GCP", "regionName": "WESTERN_EUROPE"}
    return {"name": name, "providerSettings": settings, "tags": TAGS, **more}


def make(api: Api, body: Json) -> Any:  # noqa: ANN401 -- a response
    path, version = ("/flexClusters", FLEX) if "providerSettings" in body else ("/clusters", NEWEST)
    return api("POST", path, version=version, json=body)


def state(api: Api, path: str = "/clusters/made") -> str:
    body = api("GET", path, version=FLEX).json()
    return str(body.get("stateName") or body["errorCode"])


def test_a_dedicated_cluster_is_made_changed_and_deleted_in_its_time(api: Api) -> None:
    api.emulator.cluster_times("dedicated", creating={"reads": 2}, updating={"reads": 1}, deleting={"reads": 2})
    made = make(api, dedicated())
    assert_answer(made, 201, NEWEST, "ApiAtlasClusterDescriptionResource20241023::createCluster", 10000)
    assert made.json().keys() == CLUSTER_KEYS - {"tags"}
    assert (made.json()["stateName"], made.json()["connectionStrings"]) == ("CREATING", {})
    assert [state(api), state(api), state(api)] == ["CREATING", "CREATING", "IDLE"]
    idle = api("GET", "/clusters/made", version=CLUSTERS).json()
    assert (idle["tags"], idle["connectionStrings"].keys()) == (TAGS, {"standard", "standardSrv"})
    region = idle["replicationSpecs"][0]["regionConfigs"][0]
    assert (region["regionName"], region["electableSpecs"]["instanceSize"]) == ("EU_WEST_1", "M10")
    assert region["effectiveElectableSpecs"] == region["electableSpecs"]
    patch = {"replicationSpecs": dedicated(tier="M20")["replicationSpecs"], "terminationProtectionEnabled": True}
    changed = api("PATCH", "/clusters/made", version=NEWEST, json=patch)
    assert_answer(changed, 200, NEWEST, "ApiAtlasClusterDescriptionResource20241023::updateCluster", 10000)
    assert (changed.json()["stateName"], changed.json()["tags"]) == ("UPDATING", TAGS)
    assert [state(api), state(api)] == ["UPDATING", "IDLE"]
    kept = api("DELETE", "/clusters/made", version=DELETING)
    reason = f"Cannot terminate cluster made in group {api.emulator.project_id} because termination protection is "
    sentence = f"{reason}enabled. Disable termination protection and try again."
    assert_refusal(kept, 400, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", [sentence])
    api("PATCH", "/clusters/made", version=NEWEST, json={"terminationProtectionEnabled": False})
    deleted = api("DELETE", "/clusters/made", version=DELETING)
    assert_answer(deleted, 202, DELETING, "ApiAtlasClusterDescriptionV15Resource::deleteCluster", 10000)
    assert (deleted.json(), "Deprecation" in deleted.headers) == ({}, False)
    again = api("DELETE", "/clusters/made", version=DELETING)
    assert_refusal(again, 400, "CLUSTER_ALREADY_REQUESTED_DELETION", ["made"])
    assert [state(api), state(api)] == ["DELETING", "CLUSTER_NOT_FOUND"]


def test_a_flex_cluster_is_made_and_its_deletion_may_be_lost(api: Api) -> None:
    api.emulator.cluster_times("flex", creating={"reads": 1}, deleting={"reads": 1})
    made = make(api, flex())
    assert_answer(made, 201, FLEX, "ApiAtlasFlexClusterResource::createFlexCluster", 1200)
    assert made.json().keys() == FLEX_KEYS - {"tags"}
    assert made.json()["connectionStrings"].keys() == {"standardSrv"}
    assert [state(api, "/flexClusters/made"), state(api, "/flexClusters/made")] == ["CREATING", "IDLE"]
    changed = api("PATCH", "/flexClusters/made", version=FLEX, json={"terminationProtectionEnabled": True})
    assert_answer(changed, 200, FLEX, "ApiAtlasFlexClusterResource::updateFlexCluster", 1200)
    assert api("DELETE", "/flexClusters/made", version=FLEX).status_code == 400
    api("PATCH", "/flexClusters/made", version=FLEX, json={"terminationProtectionEnabled": False})
    refused = api("DELETE", "/clusters/made", version=DELETING)
    assert_refusal(refused, 400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API", ["made"])
    api.emulator.lose_flex_deletions(1)
    for end in ("IDLE", "CLUSTER_NOT_FOUND"):
        deleted = api("DELETE", "/flexClusters/made", version=FLEX)
        assert_answer(deleted, 204, FLEX, "ApiAtlasFlexClusterResource::deleteFlexCluster", 1200)
        assert [state(api, "/flexClusters/made"), state(api, "/flexClusters/made")] == ["DELETING", end]


def test_a_cluster_can_be_deleted_while_it_is_created_and_its_users_go_with_it(
    api: Api, name: str, login: Login
) -> None:
    api.emulator.cluster_times("dedicated", creating={"never": True})
    make(api, dedicated())
    api.post_user(name, scopes=[{"name": "made", "type": "CLUSTER"}])
    assert login(name)
    assert api("DELETE", "/clusters/made", version=DELETING).status_code == 202
    assert state(api) == "CLUSTER_NOT_FOUND"
    assert not login(name)
    assert api("GET", f"/databaseUsers/admin/{name}").ok


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (dedicated("a_b"), "CLUSTER_NAME_INVALID"),
        (dedicated("-a"), "CLUSTER_NAME_INVALID"),
        (dedicated("a" * 65), "CLUSTER_NAME_TOO_LONG"),
        (flex("atlas-a1b2c3"), "ATLAS_RESERVED_CLUSTER_NAME"),
        (dedicated("a" * 22 + "-b"), "CLUSTER_NAME_PREFIX_INVALID"),
        (flex("cluster-dev"), "DUPLICATE_CLUSTER_NAME"),
        (dedicated("a-name-of-23-characters-2"), "DUPLICATE_CLUSTER_NAME_PREFIX"),
        (dedicated(tier="M5"), "INVALID_ENUM_VALUE"),
        (dedicated(colour="red"), "INVALID_ATTRIBUTE"),
        (dedicated(replicationSpecs=None), "MISSING_ATTRIBUTE"),
        (flex(providerSettings={"regionName": "US_EAST_1"}), "MISSING_ATTRIBUTE"),
        (flex(tags=[{"key": "a/b", "value": "c"}]), "VALIDATION_ERROR"),
        (dedicated(tags=[{"key": f"k{number}", "value": "v"} for number in range(51)]), "VALIDATION_ERROR"),
        (dedicated(tags=[TAGS[0], TAGS[0]]), "VALIDATION_ERROR"),
    ],
)
def test_a_cluster_is_refused_for(api: Api, body: Json, code: str) -> None:
    api.emulator.put_cluster("a-name-of-23-characters-1")
    assert_refusal(make(api, body), 400, code)
    assert len(api.emulator.clusters()) == 3


def test_limits_payment_and_capacity(api: Api) -> None:
    api.emulator.put_project(api.emulator.project_id, cluster_limit=2)
    assert_refusal(make(api, flex()), 403, "CLUSTER_LIMIT_EXCEEDED", [2])
    for status, code in ((402, "NO_PAYMENT_INFORMATION_FOUND"), (409, "OUT_OF_CAPACITY")):
        api.emulator.fail("POST", "/clusters$", status=status, error_code=code)
        assert_refusal(make(api, dedicated()), status, code)


def test_a_paused_cluster_is_resumed_before_it_is_changed(api: Api) -> None:
    def patch(**body: object) -> Any:  # noqa: ANN401 -- a response
        return api("PATCH", "/clusters/cluster-dev", version=NEWEST, json=body)

    assert_refusal(patch(paused=True, backupEnabled=True), 409, "CANNOT_UPDATE_AND_PAUSE_CLUSTER", ["cluster-dev"])
    assert patch(paused=True).json()["paused"] is True
    assert_refusal(patch(backupEnabled=True), 409, "CANNOT_UPDATE_PAUSED_CLUSTER", ["cluster-dev"])
    state(api, "/clusters/cluster-dev")
    assert_refusal(patch(paused=True), 409, "CLUSTER_ALREADY_PAUSED")
    assert patch(paused=False).json()["paused"] is False


def test_each_change_of_a_cluster_needs_its_role(api: Api) -> None:
    project, key = api.emulator.project_id, (api.emulator.public_key, api.emulator.private_key)
    api.emulator.put_key(*key, [project], roles=["GROUP_CLUSTER_CREATOR", "GROUP_NETWORK_ACCESS_MANAGER"])
    assert make(api, flex()).status_code == 201
    assert_refusal(api("PATCH", "/flexClusters/made", version=FLEX, json={}), 401, "USER_UNAUTHORIZED")
    assert_refusal(api("DELETE", "/flexClusters/made", version=FLEX), 401, "USER_UNAUTHORIZED")
    assert_refusal(api.post_user("n"), 401, "USER_UNAUTHORIZED")
