import copy
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from jsonschema import Draft4Validator
from pydantic import BaseModel

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.catalog.parameter_checks import check_schema
from broker_api.catalog.service_definitions import MaintenanceDefinition, PlanDefinition, ServiceDefinition
from broker_api.config import Config
from broker_api.errors import BadRequest, ErrPlanUnsupported, SettingError
from broker_api.osb import body_schemas
from broker_api.service.plan_checks import check_ids
from broker_api.service.schemas import RotateRequest

SERVICE, PLAN = Config.UUID_SERVICES_CLUSTER, Config.UUID_PLANS_EXISTING_CLUSTER
DRAFT_04 = "http://json-schema.org/draft-04/schema#"


def a_config(**changes: object) -> Config:
    config = Config({}, {})
    config.broker.update(changes)
    return config


def with_plan(**changes: object) -> Config:
    config = a_config()
    config.broker["plans"][0].update(changes)
    return config


def a_plan(config: Config | None = None) -> tuple[Catalog, Plan]:
    catalog = Catalog(config or a_config())
    return catalog, catalog.plans[PLAN]


def creating(catalog: Catalog) -> Callable[[Plan, Any], None]:
    return partial(catalog.check_instance, creating=True)


def updating(catalog: Catalog) -> Callable[[Plan, Any], None]:
    return partial(catalog.check_instance, creating=False)


def refusal(check: Callable[[Plan, Any], None], plan: Plan, parameters: object) -> str:
    with pytest.raises(BadRequest) as caught:
        check(plan, parameters)
    return str(caught.value)


# --- the document -------------------------------------------------------------------------------------------------


def test_the_catalog_keeps_what_users_of_the_first_broker_know() -> None:
    (service,) = Catalog(a_config()).document["services"]
    (plan,) = service["plans"]
    assert (service["id"], service["name"]) == ("2a04f349-4aab-4fcb-af6d-8e1749a77c13", "atlas-mongodb-cluster")
    assert (service["tags"], service["metadata"]["displayName"]) == (
        ["atlas", "mongodb"],
        "Atlas - MongoDB Cloud Provider",
    )
    assert (plan["id"], plan["name"]) == ("8db474d1-3cc0-4f4d-b864-24e3bd49b874", "atlas-mongodb-existing-cluster")
    assert (service["bindable"], service["plan_updateable"], plan["bindable"], plan["free"]) == (
        True,
        False,
        True,
        False,
    )


def test_the_catalog_says_what_the_broker_can_do() -> None:
    (service,) = Catalog(a_config()).document["services"]
    able = ("instances_retrievable", "bindings_retrievable", "allow_context_updates")
    assert all(service[field] is True for field in able)
    assert service["plans"][0]["binding_rotatable"] is True
    assert service["plans"][0]["maximum_polling_duration"] == 1800


def test_schemas_are_draft_04_and_valid() -> None:
    schemas = Catalog(a_config()).document["services"][0]["plans"][0]["schemas"]
    for schema in (*schemas["service_instance"].values(), *schemas["service_binding"].values()):
        assert schema["parameters"]["$schema"] == DRAFT_04
        Draft4Validator.check_schema(schema["parameters"])
    assert schemas["service_instance"]["create"]["parameters"]["required"] == ["cluster"]
    assert "required" not in schemas["service_instance"]["update"]["parameters"]
    properties = schemas["service_binding"]["create"]["parameters"]["properties"]
    assert (properties["role"]["enum"], properties["role"]["default"]) == (["readWrite", "readOnly"], "readWrite")


def test_objects_with_attributes_are_plans_and_none_is_absent() -> None:
    plan = SimpleNamespace(id="p", name="n", description="d", metadata=None, free=True, schemas=None)
    config = a_config(plans=[plan], dashboard_client=None, metadata=SimpleNamespace(displayName="D", imageUrl=None))
    (service,) = Catalog(config).document["services"]
    assert service["metadata"] == {"displayName": "D"}
    assert "metadata" not in service["plans"][0]


def test_the_etag_follows_the_content() -> None:
    assert Catalog(a_config()).etag == Catalog(a_config()).etag
    assert Catalog(a_config()).etag != Catalog(a_config(description="other")).etag


def naming(service_id: str | None, plan_id: str | None) -> RotateRequest:
    return RotateRequest(predecessor_binding_id="b", service_id=service_id, plan_id=plan_id)


def test_several_services_are_possible() -> None:
    config = a_config()
    second = copy.deepcopy(config.broker) | {"id": "s2", "name": "second"}
    second["plans"][0]["id"] = "p2"
    config.broker = [config.broker, second]  # type: ignore[assignment]  # the Config says one, the catalog takes more
    catalog = Catalog(config)
    assert [service["id"] for service in catalog.document["services"]] == [SERVICE, "s2"]
    assert catalog.plans["p2"].service_id == "s2"
    check_ids(catalog, naming("s2", "p2"))
    with pytest.raises(ErrPlanUnsupported):
        check_ids(catalog, naming(SERVICE, "p2"))


def test_pins_are_not_published() -> None:
    catalog, plan = a_plan(with_plan(cluster="shared", project="0123456789abcdef01234567", endpoint="vpce-1"))
    published = catalog.document["services"][0]["plans"][0]
    assert (plan.cluster, plan.project) == ("shared", "0123456789abcdef01234567")
    assert plan.endpoint == "vpce-1"
    assert "vpce-1" not in repr(published)
    assert "shared" not in repr(published)
    assert "0123456789abcdef01234567" not in repr(published)


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_plan_takes_from_its_service_what_it_does_not_say() -> None:
    _, plan = a_plan(a_config(plan_updateable=True))
    assert (plan.updateable, plan.bindable, plan.maintenance_version) == (True, True, None)
    _, plan = a_plan(with_plan(plan_updateable=True, bindable=False, maintenance_info={"version": "1.0.0"}))
    assert (plan.updateable, plan.bindable, plan.maintenance_version) == (True, False, "1.0.0")


def test_unknown_services_and_plans_are_refused() -> None:
    catalog = Catalog(a_config())
    with pytest.raises(BadRequest, match="bogus"):
        check_ids(catalog, naming("bogus", PLAN))
    with pytest.raises(ErrPlanUnsupported, match="bogus"):
        check_ids(catalog, naming(SERVICE, "bogus"))


def test_ids_that_were_not_named_are_not_checked() -> None:
    catalog = Catalog(a_config())
    check_ids(catalog, naming(None, PLAN))
    check_ids(catalog, naming(SERVICE, None))
    with pytest.raises(ErrPlanUnsupported):
        check_ids(catalog, naming(None, "bogus"))


# --- mistakes -----------------------------------------------------------------------------------------------------

SCHEMA = {"$schema": DRAFT_04, "type": "object"}


def create_schema(schema: object) -> dict[str, object]:
    return {"service_instance": {"create": {"parameters": schema}}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": ""}, "Service atlas-mongodb-cluster: id"),
        ({"name": None}, f"Service {SERVICE}: name: must be given"),
        ({"description": ""}, "Service atlas-mongodb-cluster: description"),
        ({"bindable": "yes"}, "Service atlas-mongodb-cluster: bindable"),
        ({"bindable": None}, "Service atlas-mongodb-cluster: bindable: must be given"),
        ({"bindings_retrievable": False}, "Service atlas-mongodb-cluster: bindings_retrievable"),
        ({"plan_updateable": 1}, "Service atlas-mongodb-cluster: plan_updateable"),
        ({"plans": []}, "Service atlas-mongodb-cluster: plans"),
        ({"plans": None}, "Service atlas-mongodb-cluster: plans: must be given"),
        ({"plans": ["x"]}, "Plan without a name"),
        ({"tags": "x"}, "Service atlas-mongodb-cluster: tags"),
        ({"tags": ["x" * 200] * 20}, "tags must have at most 2048 characters together"),
        ({"requires": ["magic"]}, "Service atlas-mongodb-cluster: requires"),
        ({"metadata": object()}, "must hold JSON values only"),
        ({"plan_updatable": True}, "Service atlas-mongodb-cluster: plan_updatable: must be left out"),
        ({"name": "atlas-mongodb-cluster", "id": PLAN}, "must be unique"),
    ],
)
def test_a_mistake_in_a_service_names_it(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingError) as caught:
        Catalog(a_config(**changes))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": None}, "id: must be given"),
        ({"description": None}, "description: must be given"),
        ({"free": "no"}, "free"),
        ({"bindable": 0}, "bindable"),
        ({"maximum_polling_duration": "1800"}, "maximum_polling_duration"),
        ({"maximum_polling_duration": 0}, "maximum_polling_duration"),
        ({"maintenance_info": {}}, "maintenance_info.version: must be given"),
        ({"maintenance_info": {"version": "1.0"}}, "maintenance_info.version: must be a semantic version"),
        ({"maintenance_info": {"version": "01.0.0"}}, "maintenance_info.version: must be a semantic version"),
        ({"maintenance_info": {"version": "1.0.0\n"}}, "maintenance_info.version: must be a semantic version"),
        ({"maintenance_info": {"version": "1.0.0", "more": 1}}, "maintenance_info.more: must be left out"),
        ({"project": "x"}, "project"),
        ({"cluster": ""}, "cluster"),
        ({"schemas": create_schema("x")}, "schemas.service_instance.create.parameters"),
        ({"schemas": create_schema({"type": "object"})}, "$schema must be"),
        ({"schemas": create_schema({**SCHEMA, "$schema": "http://json-schema.org/draft-07/schema#"})}, "$schema must"),
        ({"schemas": create_schema({**SCHEMA, "type": "thing"})}, "must be valid for draft-04"),
        ({"schemas": create_schema({**SCHEMA, "x": {"$ref": "http://example.com/a"}})}, "must point into"),
        ({"schemas": create_schema({**SCHEMA, "x": [{"$ref": "other.json"}]})}, "must point into"),
        ({"schemas": create_schema({**SCHEMA, "x": {"$ref": "#/definitions/no"}})}, "must point into"),
        ({"schemas": create_schema({**SCHEMA, "description": "x" * 70_000})}, "65536 characters"),
        ({"schemas": {"service_instances": {}}}, "schemas.service_instances: must be left out"),
    ],
)
def test_a_mistake_in_a_plan_names_it(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingError) as caught:
        Catalog(with_plan(**changes))
    assert str(caught.value).startswith("Plan atlas-mongodb-existing-cluster: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": PLAN, "name": "second"}, "Service or plan second: id"),
        ({"id": SERVICE, "name": "second"}, "id"),
        ({"id": "p2"}, "Plan atlas-mongodb-existing-cluster: name"),
    ],
)
def test_ids_and_names_are_unique(changes: dict[str, str], complaint: str) -> None:
    config = a_config()
    config.broker["plans"].append({**config.broker["plans"][0], **changes})
    with pytest.raises(SettingError) as caught:
        Catalog(config)
    assert complaint in str(caught.value)
    assert "must be unique" in str(caught.value)


@pytest.mark.parametrize("broker", [None, "x", 1, [[]], [None]])
def test_what_is_no_service_is_a_setting_error(broker: object) -> None:
    config = a_config()
    config.broker = broker  # type: ignore[assignment]  # the mistake
    with pytest.raises(SettingError):
        Catalog(config)


@pytest.mark.parametrize("version", ["0.0.1", "1.2.3-rc.1+build.5", "10.20.30"])
def test_semantic_versions_are_taken(version: str) -> None:
    _, plan = a_plan(with_plan(maintenance_info={"version": version, "description": "new"}))
    assert plan.maintenance_version == version


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"cluster": "c"},
        {"cluster": "c", "database": "shared", "policy-on-delete": "drop", "connection": "private"},
        {"cluster": "c", "database": "x" * 63, "project": "0" * 24, "ns": {"unknown": [1]}},
        {"cluster": "c", "database": "administration"},
        {"cluster": "c", "connection": "private-endpoint", "endpoint": "vpce-0a1b"},
    ],
)
def test_good_instance_parameters_pass(parameters: dict[str, object]) -> None:
    catalog, plan = a_plan()
    catalog.check_instance(plan, parameters, creating=True)
    catalog.check_instance(plan, parameters, creating=False)


def test_an_update_and_a_bind_need_no_parameters() -> None:
    catalog, plan = a_plan()
    catalog.check_instance(plan, {}, creating=False)
    catalog.check_binding(plan, {})
    assert refusal(creating(catalog), plan, {}) == "parameters.cluster is required."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster", ""),
        ("cluster", None),
        ("cluster", {"$ne": ""}),
        ("cluster", "x" * 65),
        *(("database", f"a{character}b") for character in '/\\. "$*<>:|?\x00\n'),
        *(("database", name) for name in ("", "admin", "Local", "CONFIG", "x" * 64, "ä" * 32, "x\n")),
        ("policy-on-delete", "delete"),
        ("connection", "public"),
        ("endpoint", ""),
        ("endpoint", 7),
        ("project", "0" * 23),
        ("project", "0" * 24 + "\n"),
        ("project", "X" * 24),
    ],
)
def test_bad_instance_parameters_are_named(name: str, value: object) -> None:
    catalog, plan = a_plan()
    parameters = {"cluster": "c", name: value}
    assert refusal(creating(catalog), plan, parameters).startswith(f"parameters.{name}")
    assert refusal(updating(catalog), plan, parameters).startswith(f"parameters.{name}")


def test_a_refusal_lists_what_is_possible() -> None:
    catalog, plan = a_plan()
    sentence = refusal(creating(catalog), plan, {"cluster": "c", "policy-on-delete": "x"})
    assert sentence == "parameters.policy-on-delete must be one of retain, drop."


def test_a_refusal_does_not_quote_the_value() -> None:
    catalog, plan = a_plan()
    assert "hunter2" not in refusal(creating(catalog), plan, {"cluster": "c", "database": "hunter2/"})


def test_a_pin_replaces_the_parameter() -> None:
    catalog, plan = a_plan(with_plan(cluster="shared"))
    catalog.check_instance(plan, {}, creating=True)
    catalog.check_instance(plan, {"cluster": "shared"}, creating=True)
    assert refusal(creating(catalog), plan, {"cluster": "other"}).startswith("parameters.cluster cannot be chosen")


def test_parameter_names_are_those_of_the_config() -> None:
    class Renamed(Config):
        PARAMETER_CLUSTER = "where"
        PARAMETER_DATABASE = "db"

    catalog, plan = a_plan(Renamed({}, {}))
    catalog.check_instance(plan, {"where": "c", "db": "d"}, creating=True)
    assert refusal(creating(catalog), plan, {"cluster": "c"}) == "parameters.where is required."


@pytest.mark.parametrize(
    "parameters",
    [
        {"role": "readOnly"},
        {"roles": ["read", {"roleName": "readWrite", "databaseName": "d", "collectionName": "c"}]},
        {"expires_in": 60},
        {"expires_in": 604_800, "unknown": None},
    ],
)
def test_good_binding_parameters_pass(parameters: dict[str, object]) -> None:
    catalog, plan = a_plan()
    catalog.check_binding(plan, parameters)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"role": "root"}, "parameters.role must be one of readWrite, readOnly."),
        ({"role": None}, "parameters.role must be"),
        ({"role": "readOnly", "roles": ["read"]}, "parameters: role and roles exclude each other."),
        ({"roles": []}, "parameters.roles must have at least"),
        ({"roles": ["read"] * 101}, "parameters.roles must have at most"),
        ({"roles": ["root"]}, "parameters.roles[0] must be one of dbAdmin, read, readWrite."),
        ({"roles": [{"roleName": "root"}]}, "parameters.roles[0].roleName must be one of"),
        ({"roles": [{"roleName": "read", "database": "x"}]}, "parameters.roles[0] has a field"),
        ({"roles": ["read", 1]}, "parameters.roles[1] is not allowed. One of dbAdmin"),
        ({"roles": "read"}, "parameters.roles must be of the type array."),
        ({"expires_in": 59}, "parameters.expires_in must be at least 60."),
        ({"expires_in": 604_801}, "parameters.expires_in must be at most 604800."),
        ({"expires_in": True}, "parameters.expires_in must be of the type integer."),
        ({"expires_in": "60"}, "parameters.expires_in must be of the type integer."),
    ],
)
def test_bad_binding_parameters_are_named(parameters: dict[str, object], complaint: str) -> None:
    catalog, plan = a_plan()
    assert refusal(catalog.check_binding, plan, parameters).startswith(complaint)


def test_a_list_that_is_far_too_long_is_refused_without_a_look_at_its_items() -> None:
    catalog, plan = a_plan()
    began = time.thread_time()
    complaint = refusal(catalog.check_binding, plan, {"roles": [0] * 130_000})
    assert complaint.startswith("parameters.roles must have at most")
    any_length = {"properties": {"roles": {"type": "array", "items": {"anyOf": [{"enum": ["a"]}, {"enum": ["b"]}]}}}}
    with pytest.raises(BadRequest, match=r"^parameters\.roles\[\d+\] is not allowed"):
        check_schema(any_length, {"roles": [0] * 130_000})
    assert time.thread_time() - began < 1  # ten seconds with a look at each


def test_a_length_beside_a_reference_does_not_count() -> None:
    a_list = {"$ref": "#/definitions/list", "maxItems": 1}
    check_schema({"properties": {"x": a_list}, "definitions": {"list": {"type": "array"}}}, {"x": [1, 2]})


def test_a_custom_role_may_be_asked_for_and_stands_alone() -> None:
    class WithCustomRole(Config):
        CUSTOM_ROLES = frozenset({"reporting"})

    catalog, plan = a_plan(WithCustomRole({}, {}))
    catalog.check_binding(plan, {"roles": ["reporting"]})
    catalog.check_binding(plan, {"roles": [{"roleName": "reporting"}]})
    for roles in (["reporting", "read"], ["read", {"roleName": "reporting"}]):
        assert "A custom role (reporting) stands alone." in refusal(catalog.check_binding, plan, {"roles": roles})


@pytest.mark.parametrize("name", ["role", "roles"])
def test_what_a_config_does_not_offer_is_refused(name: str) -> None:
    class Nothing(Config):
        ROLE_PRESETS: ClassVar[dict[str, list[str]]] = {}
        ALLOWED_ROLES = frozenset()

    catalog, plan = a_plan(Nothing({}, {}))
    value = "readOnly" if name == "role" else ["read"]
    assert (
        refusal(catalog.check_binding, plan, {name: value}) == f"parameters.{name} is not allowed. It is not offered."
    )


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"auth": "ldap"}, "parameters.auth must be one of password."),
        ({"expires_in": "1h"}, "parameters.expires_in must be of the type integer."),
        ({"role": ["readOnly"]}, "parameters.role must be of the type string."),
    ],
)
def test_an_own_schema_of_bindings_lets_through_nothing_that_it_does_not_describe(
    parameters: dict[str, object], complaint: str
) -> None:
    roles = {"roles": {"type": ["array", "string"]}}
    own = {**SCHEMA, "properties": {"role": {"description": "Any."}}, "anyOf": [{"properties": roles}, {}]}
    catalog, plan = a_plan(with_plan(schemas={"service_binding": {"create": {"parameters": own}}}))
    assert refusal(catalog.check_binding, plan, parameters).startswith(complaint)
    catalog.check_binding(plan, {"role": "whatever the hook knows", "roles": "all", "expires_in": 60})


@pytest.mark.parametrize(
    "own",
    [
        {"properties": {"roles": {"$ref": "#/definitions/r"}}, "definitions": {"r": {"type": "string"}}},
        {
            "properties": {"roles": {"type": "string"}},
            "oneOf": [{"properties": {"roles": {"enum": ["all"]}}}, {"properties": {"roles": {"enum": ["none"]}}}],
        },
        {"properties": {"roles": {"enum": ["all", "none"]}}},
    ],
)
def test_an_own_schema_may_give_a_parameter_another_type_in_any_way(own: dict[str, object]) -> None:
    catalog, plan = a_plan(with_plan(schemas={"service_binding": {"create": {"parameters": SCHEMA | own}}}))
    catalog.check_binding(plan, {"roles": "all"})


def test_an_own_schema_may_hold_any_default() -> None:
    own = {**SCHEMA, "properties": {"ns": {"default": {"properties": 5}}}, "enum": [{"properties": 5}]}
    catalog, plan = a_plan(with_plan(schemas=create_schema(own)))
    assert refusal(creating(catalog), plan, {}).startswith("parameters must be one of")


@pytest.mark.parametrize("parameters", [{"cluster": 5}, {"endpoint": 5}, {"project": []}, {"database": {}}])
def test_an_own_schema_of_instances_lets_no_wrong_type_through(parameters: dict[str, object]) -> None:
    catalog, plan = a_plan(with_plan(schemas=create_schema(SCHEMA)))
    (name,) = parameters
    assert refusal(creating(catalog), plan, parameters) == f"parameters.{name} must be of the type string."
    kept = catalog.kept[plan.id]
    assert "rules" not in kept
    without = Catalog(Config({}, {}))
    retired = without.plan_of(plan.service_id, "retired", kept | {"id": "retired"})
    assert refusal(creating(without), retired, parameters) == f"parameters.{name} must be of the type string."


def test_a_plan_may_bring_its_own_schema() -> None:
    own = {**SCHEMA, "properties": {"size": {"enum": [1, 2]}}, "required": ["size"]}
    catalog, plan = a_plan(with_plan(schemas=create_schema(own)))
    catalog.check_instance(plan, {"size": 1}, creating=True)
    assert refusal(creating(catalog), plan, {"size": 3}) == "parameters.size must be one of 1, 2."
    assert refusal(catalog.check_binding, plan, {"role": "x"}).startswith("parameters.role")


@pytest.mark.parametrize(
    ("checked", "described"),
    [
        (ServiceDefinition, body_schemas.Service),
        (PlanDefinition, body_schemas.Plan),
        (MaintenanceDefinition, body_schemas.PlanVersion),
    ],
)
def test_the_openapi_description_has_each_field_that_is_published(
    checked: type[BaseModel], described: type[BaseModel]
) -> None:
    published = {name for name, field in checked.model_fields.items() if not field.exclude}
    assert published == set(described.model_fields)
