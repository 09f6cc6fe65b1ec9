"""1.3: the catalog, as platforms check it before they take it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft4Validator

from tests.osb.steps import new_id
from tests.osb_client import PLAN_ID, SERVICE_ID, Json, OsbClient

DRAFT_04 = "http://json-schema.org/draft-04/schema#"
SCHEMAS = (("service_instance", "create"), ("service_instance", "update"), ("service_binding", "create"))


@pytest.fixture
def service(client: OsbClient) -> Json:
    return dict(client.catalog().json["services"][0])


@pytest.fixture
def plan(service: Json) -> Json:
    return dict(service["plans"][0])


@pytest.mark.rule("1.3.1")
def test_the_catalog_is_200_and_has_services(client: OsbClient) -> None:
    answer = client.catalog()
    assert answer.status == 200
    assert list(answer.json) == ["services"]
    assert isinstance(answer.json["services"], list)


@pytest.mark.rule("1.3.2", "1.3.6")
def test_the_service_is_the_old_brokers(service: Json) -> None:
    kept = {
        "id": SERVICE_ID,
        "name": "atlas-mongodb-cluster",
        "description": "Atlas/MongoDB for applications",
        "bindable": True,
        "tags": ["atlas", "mongodb"],
        "metadata": {"displayName": "Atlas - MongoDB Cloud Provider"},
        "plan_updateable": False,
    }
    assert kept.items() <= service.items()


@pytest.mark.rule("1.3.2")
def test_names_can_be_typed_on_a_command_line(service: Json) -> None:
    names = [service["name"], *(plan["name"] for plan in service["plans"])]
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", name) for name in names)
    assert set(service.get("requires", [])) <= {"syslog_drain", "route_forwarding", "volume_mount"}


@pytest.mark.rule("0.18", "1.3.2", "1.3.6")
def test_what_can_be_fetched_updated_and_rotated_is_said(service: Json, plan: Json) -> None:
    flags = ("instances_retrievable", "bindings_retrievable", "allow_context_updates")
    assert [service[flag] for flag in flags] == [True, True, True]
    assert plan["binding_rotatable"] is True


@pytest.mark.rule("1.3.3")
def test_the_plan_is_the_old_brokers(plan: Json) -> None:
    kept = {
        "id": PLAN_ID,
        "name": "atlas-mongodb-existing-cluster",
        "description": "Atlas/MongoDB: Configure an existing cluster",
        "free": False,
        "bindable": True,
    }
    assert kept.items() <= plan.items()


@pytest.mark.rule("0.13", "1.3.3", "1.6.11")
def test_platforms_wait_longer_than_any_operation_may_last(plan: Json) -> None:
    assert plan["maximum_polling_duration"] == 1800


@pytest.mark.rule("1.3.3")
def test_the_version_of_a_plan_is_told_and_only_that_and_its_description(several_plans: OsbClient) -> None:
    plans = {plan["name"]: plan for plan in several_plans.catalog().json["services"][0]["plans"]}
    assert plans["maintained"]["maintenance_info"] == {"version": "1.2.0"}
    assert "maintenance_info" not in plans["fixed"]
    assert plans["updateable"]["plan_updateable"] is True


@pytest.mark.rule("1.3.4")
@pytest.mark.parametrize(("what", "verb"), SCHEMAS)
def test_schemas_are_draft_04_and_refer_to_nothing_outside(plan: Json, what: str, verb: str) -> None:
    schema = plan["schemas"][what][verb]["parameters"]
    assert schema["$schema"] == DRAFT_04
    Draft4Validator.check_schema(schema)
    assert len(json.dumps(schema)) <= 65_536
    assert not [key for key in _keys(schema) if key == "$ref"]


def _keys(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keys(item)


@pytest.mark.rule("1.3.4")
def test_the_schemas_say_what_parameters_there_are(plan: Json) -> None:
    create, update, bind = (plan["schemas"][what][verb]["parameters"] for what, verb in SCHEMAS)
    assert create["required"] == ["cluster"]
    assert {"cluster", "database", "policy-on-delete"} <= set(create["properties"])
    assert create["properties"]["policy-on-delete"]["enum"] == ["retain", "drop"]
    assert create["properties"]["policy-on-delete"]["default"] == "retain"
    assert "required" not in update
    assert bind["properties"]["role"]["enum"] == ["readWrite", "readOnly"]
    assert bind["properties"]["role"]["default"] == "readWrite"


@pytest.mark.rule("1.3.4", "1.7.9", "1.7.13")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"cluster": ""},
        {"cluster": 7},
        {"cluster": "c/../d"},
        {"cluster": "c%2Fd"},
        {"cluster": "c\n"},
        {"cluster": "-c"},
        {"cluster": "clüster"},
        {"cluster": "c", "database": "admin"},
        {"cluster": "c", "database": "a.b"},
        {"cluster": "c", "database": "x" * 64},
        {"cluster": "c", "policy-on-delete": "burn"},
    ],
    ids=str,
)
def test_what_the_schema_refuses_the_broker_refuses_naming_the_parameter(
    client: OsbClient, plan: Json, parameters: Json
) -> None:
    schema = plan["schemas"]["service_instance"]["create"]["parameters"]
    assert not Draft4Validator(schema).is_valid(parameters)
    answer = client.provision(new_id(), parameters)
    assert answer.status == 400
    wrong = next((name for name in parameters if name != "cluster"), "cluster")
    assert f"parameters.{wrong}" in answer.description


@pytest.mark.rule("1.3.5")
def test_strings_are_as_long_as_platforms_take(service: Json) -> None:
    texts = [each[name] for each in (service, *service["plans"]) for name in ("id", "name", "description")]
    assert all(1 <= len(text) <= 255 for text in texts)
    assert sum(map(len, service["tags"])) <= 2048


@pytest.mark.rule("1.3.5")
def test_booleans_and_numbers_are_no_strings(service: Json, plan: Json) -> None:
    flags = ("bindable", "instances_retrievable", "bindings_retrievable", "allow_context_updates", "plan_updateable")
    assert {type(service[flag]) for flag in flags} == {bool}
    assert {type(plan[flag]) for flag in ("free", "bindable", "binding_rotatable")} == {bool}
    assert type(plan["maximum_polling_duration"]) is int


@pytest.mark.rule("1.3.5")
def test_ids_are_unique_in_the_whole_catalog(several_plans: OsbClient) -> None:
    services = several_plans.catalog().json["services"]
    ids = [service["id"] for service in services] + [plan["id"] for service in services for plan in service["plans"]]
    assert len(set(ids)) == len(ids) == 14


@pytest.mark.rule("1.3.7")
def test_every_process_offers_the_same_catalog(client: OsbClient, one_process: OsbClient) -> None:
    ours, others = client.catalog(), one_process.catalog()
    assert ours.json == others.json
    assert ours.headers["ETag"] == others.headers["ETag"]


@pytest.mark.rule("1.4.7")
def test_no_field_of_the_catalog_is_null(client: OsbClient) -> None:
    assert "null" not in client.catalog().text
