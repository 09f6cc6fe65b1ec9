"""1.7: provision."""

import re
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.offers import FIXED, MAINTAINED, MAINTENANCE_VERSION
from tests.osb.steps import (
    ON_CLUSTER,
    failed_provision,
    held_bind,
    held_deprovision,
    held_provision,
    new_id,
    provisioned,
    release,
)
from tests.osb_client import Flag, Json, OsbClient
from tests.tenant import CLUSTER

HELD = {"cluster": "being-created"}


@pytest.mark.rule("1.7.1", "1.15.2")
def test_a_new_one_is_202_with_its_operation_and_its_dashboard(client: OsbClient, atlas: Emulator) -> None:
    answer = client.provision(new_id(), ON_CLUSTER)
    assert answer.status == 202
    assert set(answer.json) == {"operation", "dashboard_url"}
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", answer.operation)
    page = f"https://cloud.mongodb.com/v2/{atlas.project_id}#/clusters/detail/{CLUSTER}"
    assert answer.json["dashboard_url"] == page


@pytest.mark.rule("1.7.3")
def test_the_same_again_while_it_is_made_is_202_with_the_same_operation(client: OsbClient, atlas: Emulator) -> None:
    instance_id, first = held_provision(client, atlas)
    again = client.provision(instance_id, HELD)
    assert (again.status, again.json) == (202, first.json)


@pytest.mark.rule("1.7.4")
@pytest.mark.parametrize("incomplete", [True, False, None])
def test_the_same_again_when_it_is_there_is_200(client: OsbClient, instance: str, incomplete: Flag) -> None:
    answer = client.provision(instance, ON_CLUSTER, accepts_incomplete=incomplete)
    assert answer.status == 200
    assert "operation" not in answer.json


DIFFERENT: list[Json] = [
    {"organization_guid": "another"},
    {"space_guid": "another"},
    {"parameters": {"cluster": "cluster-test"}},
    {"parameters": {**ON_CLUSTER, "x": 1}},
]


@pytest.mark.rule("1.7.5", "1.7.12")
@pytest.mark.parametrize("fields", DIFFERENT, ids=str)
def test_another_one_under_the_same_id_is_409(client: OsbClient, instance: str, fields: Json) -> None:
    answer = client.provision(instance, ON_CLUSTER, fields=fields)
    assert answer.status == 409
    assert answer.description


@pytest.mark.rule("1.7.5")
@pytest.mark.parametrize("fields", DIFFERENT, ids=str)
def test_another_one_is_409_also_while_the_first_is_made(client: OsbClient, atlas: Emulator, fields: Json) -> None:
    instance_id, _ = held_provision(client, atlas)
    assert client.provision(instance_id, HELD, fields=fields).status == 409


@pytest.mark.rule("1.7.5", "1.7.12")
def test_another_plan_is_another_one(several_plans: OsbClient) -> None:
    instance_id = provisioned(several_plans)
    assert several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": FIXED}).status == 409


@pytest.mark.rule("1.7.5", "1.7.12")
def test_true_is_not_one(client: OsbClient) -> None:
    instance_id = provisioned(client, {"flag": 1, "other": {"off": [False]}})
    assert client.provision(instance_id, {**ON_CLUSTER, "flag": True, "other": {"off": [False]}}).status == 409
    assert client.provision(instance_id, {**ON_CLUSTER, "flag": 1, "other": {"off": [0]}}).status == 409
    assert client.provision(instance_id, {**ON_CLUSTER, "flag": 1.0, "other": {"off": [False]}}).status == 200


@pytest.mark.rule("1.7.6")
def test_an_id_that_is_being_deprovisioned_is_422(client: OsbClient, atlas: Emulator) -> None:
    instance_id, _ = held_deprovision(client, atlas)
    answer = client.provision(instance_id, ON_CLUSTER)
    assert (answer.status, answer.json["error"]) == (422, "ConcurrencyError")
    release(atlas)


@pytest.mark.rule("0.4", "1.7.7")
def test_an_id_that_was_deprovisioned_can_be_used_again(client: OsbClient) -> None:
    """Service Catalog does so after orphan mitigation."""
    instance_id = provisioned(client)
    for parameters in ({"cluster": "cluster-test"}, ON_CLUSTER):
        client.deprovision(instance_id)
        client.wait(instance_id)
        assert client.provision(instance_id, parameters).status == 202
        assert client.wait(instance_id).state == "succeeded"
        assert client.instance(instance_id).json["parameters"] == parameters


@pytest.mark.rule("0.5", "1.7.8")
def test_the_same_again_after_a_failed_create_is_a_new_attempt(client: OsbClient, atlas: Emulator) -> None:
    instance_id = failed_provision(client)
    failed = client.last_operation(instance_id).json
    atlas.put_cluster("nowhere")
    again = client.provision(instance_id, {"cluster": "nowhere"})
    assert again.status == 202
    assert client.wait(instance_id, None, again.operation).state == "succeeded"
    assert failed["state"] == "failed"


@pytest.mark.rule("0.5", "1.7.8")
def test_another_one_after_a_failed_create_is_409_until_it_is_deleted(client: OsbClient) -> None:
    instance_id = failed_provision(client)
    assert client.provision(instance_id, ON_CLUSTER).status == 409
    client.deprovision(instance_id)
    client.wait(instance_id)
    assert client.provision(instance_id, ON_CLUSTER).status == 202


@pytest.mark.rule("1.7.10")
def test_without_polling_nothing_is_stored_where_nobody_may_wait(
    async_only: OsbClient, state: Collection[dict[str, Any]]
) -> None:
    instance_id = new_id()
    assert async_only.provision(instance_id, ON_CLUSTER, accepts_incomplete=False).json["error"] == "AsyncRequired"
    assert state.count_documents({"instance_id": instance_id}) == 0


@pytest.mark.rule("0.11", "1.7.11")
def test_the_plans_own_maintenance_version_is_taken_and_kept(several_plans: OsbClient) -> None:
    instance_id = new_id()
    info = {"version": MAINTENANCE_VERSION, "description": "ignored", "x": 1}
    fields = {"plan_id": MAINTAINED, "maintenance_info": info}
    assert several_plans.provision(instance_id, ON_CLUSTER, fields=fields).status == 202
    several_plans.wait(instance_id)
    assert several_plans.instance(instance_id).json["maintenance_info"] == {"version": MAINTENANCE_VERSION}
    again = several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": MAINTAINED})
    assert again.status == 200


@pytest.mark.rule("0.11", "1.7.11")
@pytest.mark.parametrize("version", ["1.1.9", "1.2.0 ", "2.0.0", "x"])
def test_another_maintenance_version_is_422(several_plans: OsbClient, version: str) -> None:
    fields = {"plan_id": MAINTAINED, "maintenance_info": {"version": version}}
    answer = several_plans.provision(new_id(), ON_CLUSTER, fields=fields)
    assert (answer.status, answer.json["error"]) == (422, "MaintenanceInfoConflict")


@pytest.mark.rule("1.7.12")
def test_contexts_and_the_order_of_keys_make_no_difference(client: OsbClient) -> None:
    instance_id = provisioned(client, {"x": {"a": 1, "b": [1, {"c": None, "d": 2}]}})
    reordered = {"x": {"b": [1, {"d": 2, "c": None}], "a": 1}, **ON_CLUSTER}
    answer = client.provision(instance_id, reordered, fields={"context": {"platform": "kubernetes", "name": "new"}})
    assert answer.status == 200


@pytest.mark.rule("1.7.12", "1.10.4")
def test_absent_null_and_empty_parameters_are_the_same(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id, body = held_bind(client, atlas, instance)
    plan = '"service_id":"2a04f349-4aab-4fcb-af6d-8e1749a77c13","plan_id":"8db474d1-3cc0-4f4d-b864-24e3bd49b874"'
    for parameters in ("", ',"parameters":null', ',"parameters":{}', ',"context":null'):
        again = client.bind(instance, binding_id, raw=f"{{{plan}{parameters}}}".encode())
        assert (again.status, again.operation) == (202, body.operation)
    release(atlas)
    client.unbind(instance, binding_id)


@pytest.mark.rule("0.14", "1.7.13")
def test_unknown_parameters_are_accepted_and_kept(client: OsbClient) -> None:
    """Hooks of a ``Config`` see them."""
    parameters: Json = {
        "ns": "team-a",
        "$where": "sleep(1000)",
        "a.b": {"$gt": "", "c.d": [1.5, True, None]},
        "huge": 2**63 - 1,
        "small": -(2**63),
        "ü": "日本",
    }
    instance_id = provisioned(client, parameters)
    assert client.instance(instance_id).json["parameters"] == {**ON_CLUSTER, **parameters}
    assert client.provision(instance_id, {**ON_CLUSTER, **parameters}).status == 200


@pytest.mark.rule("0.14", "1.7.13")
def test_unknown_binding_parameters_are_accepted_and_kept(client: OsbClient, instance: str) -> None:
    parameters: Json = {"$set": {"phase": "gone"}, "x.y": 1}
    binding_id = new_id()
    client.bind(instance, binding_id, parameters)
    assert client.wait(instance, binding_id).state == "succeeded"
    assert client.binding(instance, binding_id).json["parameters"] == parameters
