"""The plans that make clusters, as catalogs show them and as requests are checked."""

import pytest
from jsonschema import Draft4Validator

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.catalog.cluster_plans import check_changes, chosen
from broker_api.config import Config
from broker_api.errors import BadRequest, SettingError
from broker_api.json_types import JsonObject
from broker_api.naming import cluster_name, cluster_problem

DEDICATED, FLEX = Config.UUID_PLANS_DEDICATED_CLUSTER, Config.UUID_PLANS_FLEX_CLUSTER
ALL = ("existing", "dedicated", "flex")


def built_in(plan_id: str) -> tuple[Plan, JsonObject]:
    """A built-in plan, and what the catalog publishes of it."""
    catalog = Catalog(Config({}, {}), ALL)
    (service,) = catalog.document["services"]
    return catalog.plans[plan_id], next(plan for plan in service["plans"] if plan["id"] == plan_id)


def with_new_cluster(**fields: object) -> Config:
    config = Config({}, {})
    config.broker["plans"][0]["new_cluster"] = fields
    return config


def test_the_built_in_plans_are_those_that_are_turned_on() -> None:
    for plans in (("existing",), ("flex", "dedicated"), ALL):
        (service,) = Catalog(Config({}, {}), plans).document["services"]
        assert [plan["name"] for plan in service["plans"]] == [
            f"atlas-mongodb-{'existing' if plan == 'existing' else plan}-cluster" for plan in ALL if plan in plans
        ]
    own = Config({}, {})
    own.broker["description"] = "our own"
    assert len(Catalog(own, ALL).plans) == 1


@pytest.mark.parametrize("plan_id", [DEDICATED, FLEX])
def test_plans_that_make_clusters_may_take_three_hours(plan_id: str) -> None:
    plan, published = built_in(plan_id)
    assert published["maximum_polling_duration"] == 10_800
    assert "new_cluster" not in published
    create = plan.schemas["service_instance"]["create"]["parameters"]
    Draft4Validator.check_schema(create)
    assert create["properties"]["policy-on-delete"]["default"] == "drop"
    assert {"cluster", "kind"}.isdisjoint(create["properties"])
    assert "required" not in create
    assert ("tier" in create["properties"]) is (plan_id == DEDICATED)
    assert "default" not in plan.schemas["service_instance"]["update"]["parameters"]["properties"]["provider"]


def test_what_a_plan_fixes_is_not_in_its_schema() -> None:
    fixed = {"provider": "GCP", "tier": "M50", "database": "shop", "policy-on-delete": "retain", "project": "a" * 24}
    (plan,) = Catalog(with_new_cluster(kind="dedicated", **fixed)).plans.values()
    create = plan.schemas["service_instance"]["create"]["parameters"]
    assert fixed.keys().isdisjoint(create["properties"])
    assert create["required"] == ["region"]
    assert plan.project == "a" * 24


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "new_cluster.kind: must be given"),
        ({"kind": "serverless"}, "new_cluster.kind"),
        ({"kind": "flex", "tier": "M10"}, "new_cluster: tier must be left out, a flex cluster has none"),
        ({"kind": "flex", "provider": "aws"}, "new_cluster.provider"),
        ({"kind": "dedicated", "disk_size_gb": 5}, "new_cluster.disk_size_gb"),
        ({"kind": "dedicated", "size": "M10"}, "new_cluster.size: must be left out"),
    ],
)
def test_a_mistake_in_new_cluster_names_it(fields: JsonObject, complaint: str) -> None:
    with pytest.raises(SettingError, match="Plan atlas-mongodb-existing-cluster") as caught:
        Catalog(with_new_cluster(**fields))
    assert complaint in str(caught.value)


def test_other_mistakes_of_plans_are_named() -> None:
    config = with_new_cluster(kind="flex")
    config.broker["plans"][0]["cluster"] = "c"
    with pytest.raises(SettingError, match="cluster and new_cluster exclude each other"):
        Catalog(config)
    config = Config({}, {})
    config.broker["plans"][0]["access_list"] = ["203.0.113.7/24"]
    with pytest.raises(SettingError, match="must be blocks of IP addresses"):
        Catalog(config)
    for offered in ((), ("ldap",), ("password", "password")):
        config = Config({}, {})
        config.AUTHENTICATION = offered  # type: ignore[misc]  # as a subclass would
        with pytest.raises(SettingError, match=r"Config\.AUTHENTICATION: must be one or more of"):
            Catalog(config)


def test_an_operators_own_schema_does_not_let_wrong_types_through() -> None:
    config = with_new_cluster(kind="dedicated")
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"}
    config.broker["plans"][0]["schemas"] = {"service_instance": {"create": {"parameters": schema}}}
    catalog = Catalog(config)
    (plan,) = catalog.plans.values()
    with pytest.raises(BadRequest, match="disk_size_gb"):
        catalog.check_instance(plan, {"disk_size_gb": "40"}, creating=True)


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [
        ({}, {"disk_size_gb": 10}, True),
        ({"disk_size_gb": 9}, {"disk_size_gb": 10}, True),
        ({"disk_size_gb": 100}, {"disk_size_gb": 20}, False),
        ({"mongodb_version": "9.0"}, {"mongodb_version": "10.0"}, True),
        ({"mongodb_version": "8.0"}, {"mongodb_version": "7.0"}, False),
        ({"provider": "AWS"}, {"provider": "GCP"}, False),
        ({"tier": "M30"}, {"tier": "M10"}, True),
    ],
)
def test_changes_that_a_cluster_cannot_make_are_refused(before: JsonObject, after: JsonObject, *, fits: bool) -> None:
    if fits:
        check_changes(before, after)
        return
    with pytest.raises(BadRequest):
        check_changes(before, after)


def test_the_plan_decides_before_the_user() -> None:
    new_cluster = {"kind": "dedicated", "tier": "M50", "database": "shop"}
    assert chosen(new_cluster, {"tier": "M10", "backup": False, "x": 1}) == {"tier": "M50", "backup": False}


@pytest.mark.parametrize("instance_id", ["", "3f0cdb1c-6f0e-4c58", "ä/ö", "atlas-abcdef", "-" * 100])
def test_names_of_clusters_are_short_and_unlike(instance_id: str) -> None:
    name = cluster_name(instance_id)
    assert (len(name), cluster_problem(name)) == (23, None)
    assert name != cluster_name(instance_id + "x")
