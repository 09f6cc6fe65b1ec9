"""1.9: update."""

import json
from typing import Any

import pytest
from pymongo.collection import Collection

from broker_api.state.encryption import Vault
from broker_api.state.private_values import opened
from broker_api.state.records import record
from tests.books import document
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb.offers import FIXED, MAINTAINED, MAINTENANCE_VERSION, OTHER_PLAN, OTHER_SERVICE, UPDATEABLE
from tests.osb.steps import (
    ON_CLUSTER,
    UNKNOWN,
    failed_provision,
    held_deprovision,
    held_provision,
    held_update,
    new_id,
    provisioned,
    release,
)
from tests.osb_client import PLAN_ID, SERVICE_ID, Json, OsbClient

DROP = {"policy-on-delete": "drop"}
Documents = Collection[dict[str, Any]]


@pytest.mark.rule("1.9.1")
def test_a_change_is_202_and_is_so_when_the_poll_says_succeeded(client: OsbClient) -> None:
    instance_id = provisioned(client)
    accepted = client.update(instance_id, DROP)
    assert accepted.status == 202
    assert accepted.operation
    assert client.wait(instance_id, None, accepted.operation).state == "succeeded"
    assert client.instance(instance_id).json["parameters"] == {**ON_CLUSTER, **DROP}


@pytest.mark.rule("1.9.2")
def test_the_same_again_while_it_runs_is_202_with_the_same_operation(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    first = held_update(client, atlas, instance_id)
    again = client.update(instance_id, DROP)
    assert (again.status, again.operation) == (202, first.operation)


@pytest.mark.rule("1.9.3")
@pytest.mark.parametrize("parameters", [None, {}, ON_CLUSTER])
def test_nothing_to_change_is_200(client: OsbClient, instance: str, parameters: Json | None) -> None:
    answer = client.update(instance, parameters)
    assert (answer.status, answer.json) == (200, {"dashboard_url": client.instance(instance).json["dashboard_url"]})


@pytest.mark.rule("1.9.1", "1.9.2", "1.9.3", "1.9.11")
def test_every_answer_repeats_the_dashboard(client: OsbClient, atlas: Emulator) -> None:
    """Service Catalog's controller takes it from the answer without looking whether it is there."""
    instance_id = provisioned(client)
    dashboard = client.instance(instance_id).json["dashboard_url"]
    answers = [client.update(instance_id, fields={"context": {"platform": "kubernetes"}})]
    answers += [client.update(instance_id, {"policy-on-delete": "retain"}, accepts_incomplete=None)]
    answers += [held_update(client, atlas, instance_id), client.update(instance_id, DROP)]
    release(atlas)
    assert [answer.status for answer in answers] == [200, 200, 202, 202]
    assert [answer.json["dashboard_url"] for answer in answers] == [dashboard] * 4


@pytest.mark.rule("1.9.3")
def test_true_instead_of_one_is_a_change(client: OsbClient) -> None:
    instance_id = provisioned(client, {"flag": 1})
    assert client.update(instance_id, {"flag": True}).status == 202
    client.wait(instance_id)
    assert client.instance(instance_id).json["parameters"]["flag"] is True


@pytest.mark.rule("1.9.4")
def test_a_plan_that_cannot_be_left_is_422_and_a_retry_is_pointless(several_plans: OsbClient) -> None:
    instance_id = new_id()
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": FIXED})
    several_plans.wait(instance_id)
    answer = several_plans.update(instance_id, fields={"plan_id": UPDATEABLE})
    assert answer.status == 422
    assert "error" not in answer.json
    assert answer.json["update_repeatable"] is False
    assert "fixed" in answer.description
    assert several_plans.instance(instance_id).json["plan_id"] == FIXED


@pytest.mark.rule("1.9.4", "1.9.10")
def test_a_plan_that_can_be_left_is_changed(several_plans: OsbClient) -> None:
    instance_id = new_id()
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": UPDATEABLE})
    several_plans.wait(instance_id)
    assert several_plans.update(instance_id, fields={"plan_id": FIXED}).status == 202
    assert several_plans.wait(instance_id).state == "succeeded"
    described = several_plans.instance(instance_id).json
    assert (described["plan_id"], described["parameters"]) == (FIXED, ON_CLUSTER)


@pytest.mark.rule("0.9", "1.9.4")
@pytest.mark.parametrize("parameters", [{"cluster": "cluster-test"}, {"database": "another"}], ids=str)
def test_data_does_not_move_with_a_parameter(client: OsbClient, instance: str, parameters: Json) -> None:
    answer = client.update(instance, parameters)
    assert answer.status == 400
    assert next(iter(parameters)) in answer.description


@pytest.mark.rule("0.9")
def test_cluster_and_database_may_be_named_as_they_are(client: OsbClient, instance: str) -> None:
    assert client.update(instance, {**ON_CLUSTER, "database": f"instance-{instance}"}).status in (200, 202)
    client.wait(instance)


@pytest.mark.rule("1.9.5")
def test_without_polling_nothing_is_changed_where_nobody_may_wait(async_only: OsbClient, instance: str) -> None:
    assert async_only.update(instance, DROP, accepts_incomplete=None).json["error"] == "AsyncRequired"
    assert async_only.last_operation(instance).state == "succeeded"


@pytest.mark.rule("0.11", "1.9.6")
def test_another_maintenance_version_is_422_also_when_nothing_else_would_change(
    several_plans: OsbClient, instance: str
) -> None:
    wrong = {"maintenance_info": {"version": "0.0.1"}}
    for parameters in (None, DROP):
        answer = several_plans.update(instance, parameters, fields=wrong)
        assert (answer.status, answer.json["error"]) == (422, "MaintenanceInfoConflict")


@pytest.mark.rule("1.9.6")
def test_an_instance_is_brought_to_the_plans_maintenance_version(several_plans: OsbClient) -> None:
    instance_id = new_id()
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": MAINTAINED})
    several_plans.wait(instance_id)
    info = {"maintenance_info": {"version": MAINTENANCE_VERSION}}
    assert several_plans.update(instance_id, fields=info).status == 202
    assert several_plans.wait(instance_id).state == "succeeded"
    assert several_plans.instance(instance_id).json["maintenance_info"]["version"] == MAINTENANCE_VERSION


@pytest.mark.rule("1.9.6")
def test_a_change_of_plan_leaves_the_old_plans_maintenance_version_behind(several_plans: OsbClient) -> None:
    instance_id = new_id()
    info = {"maintenance_info": {"version": MAINTENANCE_VERSION}}
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": MAINTAINED, **info})
    several_plans.wait(instance_id)
    assert several_plans.update(instance_id, fields={"plan_id": UPDATEABLE}).status == 202
    several_plans.wait(instance_id)
    assert "maintenance_info" not in several_plans.instance(instance_id).json
    assert several_plans.update(instance_id, fields={"plan_id": MAINTAINED, **info}).status == 202
    several_plans.wait(instance_id)
    assert several_plans.instance(instance_id).json["maintenance_info"]["version"] == MAINTENANCE_VERSION


@pytest.mark.rule("1.9.7")
def test_while_another_operation_runs_it_is_422(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    other = client.update(instance_id, {"policy-on-delete": "retain"})
    assert (other.status, other.json["error"]) == (422, "ConcurrencyError")


@pytest.mark.rule("1.9.8")
@pytest.mark.parametrize(
    "fields",
    [
        {"service_id": None},
        {"service_id": UNKNOWN, "plan_id": PLAN_ID},
        {"plan_id": UNKNOWN},
        {"plan_id": ""},
        {"parameters": {"policy-on-delete": "burn"}},
        {"parameters": 1},
    ],
    ids=str,
)
def test_what_is_malformed_or_unknown_is_400(client: OsbClient, instance: str, fields: Json) -> None:
    assert client.update(instance, fields=fields).status == 400


@pytest.mark.rule("1.9.8")
def test_a_service_that_is_not_in_the_catalog_is_400_also_without_a_plan(client: OsbClient, instance: str) -> None:
    assert client.update(instance, fields={"service_id": UNKNOWN}).status == 400


@pytest.mark.rule("1.9.8")
def test_an_instance_stays_with_its_service(several_plans: OsbClient) -> None:
    instance_id = new_id()
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": UPDATEABLE})
    several_plans.wait(instance_id)
    answer = several_plans.update(instance_id, fields={"service_id": OTHER_SERVICE, "plan_id": OTHER_PLAN})
    assert answer.status == 400
    assert "service_id" in answer.description


@pytest.mark.rule("1.9.8", "1.4.5")
def test_parameters_do_not_grow_beyond_what_one_request_may_carry(client: OsbClient) -> None:
    instance_id, long = provisioned(client), "é" * 100_000
    assert client.update(instance_id, raw=_patch({"a": long})).status == 202
    client.wait(instance_id)
    answer = client.update(instance_id, raw=_patch({"b": long}))
    assert (answer.status, "262144" in answer.description) == (400, True)
    assert set(client.instance(instance_id).json["parameters"]) == {"cluster", "a"}
    assert client.update(instance_id, {"a": "short"}).status == 202


def _patch(parameters: Json) -> bytes:
    return json.dumps({"service_id": SERVICE_ID, "parameters": parameters}, ensure_ascii=False).encode()


@pytest.mark.rule("1.9.9")
def test_what_is_not_there_is_404(client: OsbClient, atlas: Emulator) -> None:
    held, _ = held_provision(client, atlas)
    leaving, _ = held_deprovision(client, atlas)
    answers = [client.update(each, DROP) for each in (new_id(), failed_provision(client))]
    assert [answer.status for answer in answers] == [404, 404]
    busy = [client.update(each, DROP) for each in (held, leaving)]
    assert {answer.status for answer in busy} <= {404, 422}
    release(atlas)


@pytest.mark.rule("1.9.10")
def test_what_is_absent_does_not_change(client: OsbClient) -> None:
    instance_id = provisioned(client, {"x": 1})
    client.update(instance_id, DROP)
    client.wait(instance_id)
    client.update(instance_id, {"x": 2})
    client.wait(instance_id)
    described = client.instance(instance_id).json
    assert described["parameters"] == {**ON_CLUSTER, **DROP, "x": 2}
    assert described["plan_id"] == PLAN_ID


@pytest.mark.rule("1.9.11")
def test_a_context_alone_is_changed_at_once(client: OsbClient, stack: Stack) -> None:
    instance_id = new_id()
    client.provision(instance_id, ON_CLUSTER, fields={"context": {"platform": "cloudfoundry", "instance_name": "a"}})
    client.wait(instance_id)
    assert _context(stack, instance_id)["instance_name"] == "a"
    new = {"platform": "cloudfoundry", "instance_name": "b", "$set": {"a.b": 1}}
    assert client.update(instance_id, fields={"context": new}).status == 200
    assert _context(stack, instance_id) == new


@pytest.mark.rule("1.9.11")
def test_a_context_is_changed_along_with_parameters_and_kept_without(client: OsbClient, stack: Stack) -> None:
    instance_id = provisioned(client)
    client.update(instance_id, DROP, fields={"context": {"instance_name": "b"}})
    client.wait(instance_id)
    client.update(instance_id, {"policy-on-delete": "retain"})
    client.wait(instance_id)
    assert _context(stack, instance_id) == {"instance_name": "b"}


def _context(stack: Stack, instance_id: str) -> Json:
    return opened(Vault((stack.encryption_key,)), record(document(stack, instance_id))).context


@pytest.mark.rule("1.9.12")
def test_previous_values_are_not_believed(client: OsbClient, instance: str) -> None:
    previous = {"plan_id": UNKNOWN, "service_id": 5, "organization_id": None}
    assert client.update(instance, fields={"previous_values": previous}).status == 200
