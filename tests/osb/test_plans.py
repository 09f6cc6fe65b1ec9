"""0.19 and 0.20: what a plan decides cannot be left, and a plan that was taken out of the catalog."""

from functools import partial
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.offers import (
    ELSEWHERE,
    FIXED,
    ON_DEV,
    ON_TEST,
    OTHER_PLAN,
    OTHER_SERVICE,
    PRIVATE,
    SMALL,
    STRICT,
    UNBINDABLE,
    UPDATEABLE,
)
from tests.osb.steps import ON_CLUSTER, new_id
from tests.osb_client import PLAN_ID, Answer, Json, OsbClient
from tests.tenant import CLUSTER, together

Documents = Collection[dict[str, Any]]


def made(client: OsbClient, plan_id: str, parameters: Json | None = None, **fields: str) -> str:
    """The id of an instance of that plan that is there."""
    instance_id = new_id()
    assert client.provision(instance_id, parameters, fields={"plan_id": plan_id, **fields}).status == 202
    ended = client.wait(instance_id)
    assert ended.state == "succeeded", ended.text
    return instance_id


# --- what a plan decides ------------------------------------------------------------------------------------------


def _refused(client: OsbClient, instance_id: str, before: str, after: str, parameters: Json | None = None) -> Answer:
    for _ in range(2):
        answer = client.update(instance_id, parameters, fields={"plan_id": after})
        assert (answer.status, answer.json.get("error"), answer.json["update_repeatable"]) == (422, None, False)
        assert client.instance(instance_id).json["plan_id"] == before
    return answer


@pytest.mark.rule("0.19", "1.9.4")
@pytest.mark.parametrize(
    ("before", "parameters"), [(ON_DEV, None), (UPDATEABLE, ON_CLUSTER), (ON_DEV, {"x": 1})], ids=["pin", "own", "more"]
)
@pytest.mark.parametrize(("after", "what"), [(ON_TEST, "cluster"), (ELSEWHERE, "project")])
def test_a_plan_for_another_cluster_or_project_is_422(
    several_plans: OsbClient, before: str, parameters: Json | None, after: str, what: str
) -> None:
    instance_id = made(several_plans, before, parameters)
    answer = _refused(several_plans, instance_id, before, after)
    assert f"another {what}" in answer.description
    assert several_plans.update(instance_id, {"x": 2}).status == 202


@pytest.mark.rule("0.19", "1.9.4")
def test_a_plan_that_pins_what_the_instance_is_can_be_taken(several_plans: OsbClient) -> None:
    instance_id = made(several_plans, UPDATEABLE, ON_CLUSTER)
    for plan_id in (ON_DEV, UPDATEABLE, PRIVATE):
        assert several_plans.update(instance_id, fields={"plan_id": plan_id}).status == 202
        several_plans.wait(instance_id)
    assert several_plans.instance(instance_id).json["parameters"] == ON_CLUSTER


@pytest.mark.rule("0.19", "1.9.4")
def test_an_instance_without_parameters_keeps_its_cluster_when_the_new_plan_pins_none(
    several_plans: OsbClient, state: Documents
) -> None:
    instance_id = made(several_plans, ON_DEV)
    assert several_plans.update(instance_id, fields={"plan_id": UPDATEABLE}).status == 202
    assert several_plans.wait(instance_id).state == "succeeded"
    found = state.find_one({"instance_id": instance_id})
    assert found is not None
    assert (found["plan_id"], found["cluster"]) == (UPDATEABLE, CLUSTER)
    binding_id = new_id()
    several_plans.bind(instance_id, binding_id, fields={"plan_id": UPDATEABLE})
    assert several_plans.wait(instance_id, binding_id).state == "succeeded"


@pytest.mark.rule("0.19", "1.9.4")
@pytest.mark.parametrize(
    ("after", "parameters", "named"),
    [(PRIVATE, {"connection": "standard"}, "connection"), (STRICT, {"x": 1}, "parameters")],
    ids=["pin", "schema"],
)
def test_a_plan_that_does_not_take_the_instances_parameters_is_422(
    several_plans: OsbClient, after: str, parameters: Json, named: str
) -> None:
    instance_id = made(several_plans, UPDATEABLE, {**ON_CLUSTER, **parameters})
    assert named in _refused(several_plans, instance_id, UPDATEABLE, after).description
    if after == PRIVATE:
        assert several_plans.update(instance_id, {"connection": "private"}, fields={"plan_id": after}).status == 202


@pytest.mark.rule("0.19", "1.9.4")
@pytest.mark.parametrize(
    ("plan_id", "status", "why"),
    [(ON_TEST, 422, "another cluster"), (ELSEWHERE, 422, "another project"), (ON_DEV, 202, "")],
)
def test_what_the_old_broker_made_is_compared_by_where_it_is(
    several_plans: OsbClient, state: Documents, plan_id: str, status: int, why: str
) -> None:
    instance_id = new_id()
    state.insert_one({"instance_id": instance_id, "database": "db", "cluster": CLUSTER, "parameters": ON_CLUSTER})
    answer = several_plans.update(instance_id, fields={"plan_id": plan_id})
    assert (answer.status, why in answer.description) == (status, True)


# --- a plan that was taken out: ``client`` and the workers have the default one only ----------------------------------


@pytest.fixture(params=["plan", "service"])
def retired(request: pytest.FixtureRequest, several_plans: OsbClient) -> tuple[str, Json]:
    """An instance whose plan, or whose whole service, ``client`` does not offer, and what its requests name."""
    named = {"plan_id": UPDATEABLE} if request.param == "plan" else {"service_id": OTHER_SERVICE, "plan_id": OTHER_PLAN}
    service = {"service_id": OTHER_SERVICE} if request.param == "service" else {}
    return made(several_plans, named["plan_id"], ON_CLUSTER, **service), named


@pytest.mark.rule("0.20")
def test_what_exists_of_a_plan_that_was_taken_out_goes_on(client: OsbClient, retired: tuple[str, Json]) -> None:
    instance_id, named = retired
    service = {name: named[name] for name in ("service_id",) if name in named}
    assert client.instance(instance_id).json["plan_id"] == named["plan_id"]
    assert client.provision(instance_id, ON_CLUSTER, fields=named).status == 200
    assert client.provision(instance_id, {**ON_CLUSTER, "x": 1}, fields=named).status == 409
    assert client.update(instance_id, fields={**service, "context": {"platform": "cloudfoundry"}}).status == 200
    assert client.update(instance_id, {"policy-on-delete": "retain"}, fields=named).status == 202
    assert client.wait(instance_id).state == "succeeded"
    binding_id, rotated = new_id(), new_id()
    assert client.bind(instance_id, binding_id, {"role": "readOnly"}, fields=named).status == 202
    assert client.wait(instance_id, binding_id).state == "succeeded"
    assert client.bind(instance_id, binding_id, {"role": "readOnly"}, fields=named).status == 200
    assert client.bind(instance_id, new_id(), {"role": "king"}, fields=named).status == 400
    assert client.rotate(instance_id, rotated, binding_id).status == 202
    assert client.wait(instance_id, rotated).state == "succeeded"
    assert client.binding(instance_id, rotated).json["credentials"]["username"]
    assert client.unbind(instance_id, binding_id, query=named).status == 202
    assert client.wait(instance_id, binding_id).state == "succeeded"
    assert client.deprovision(instance_id, query=named).status == 202
    assert client.wait(instance_id).state == "succeeded"


@pytest.mark.rule("0.20", "1.7.9")
def test_nothing_new_comes_to_a_plan_that_was_taken_out(client: OsbClient, retired: tuple[str, Json]) -> None:
    instance_id, named = retired
    assert client.provision(new_id(), ON_CLUSTER, fields=named).status == 400
    assert client.bind(new_id(), new_id(), fields=named).status == 400
    assert client.update(instance_id, fields={**named, "plan_id": FIXED}).status == 400
    client.deprovision(instance_id)
    client.wait(instance_id)
    assert client.provision(instance_id, ON_CLUSTER, fields=named).status == 400
    other = made(client, PLAN_ID, ON_CLUSTER)
    assert client.update(other, fields={"plan_id": UPDATEABLE}).status == 400
    assert client.bind(other, new_id(), fields=named).status == 400


@pytest.mark.rule("0.20", "1.7.3")
def test_a_provision_and_a_bind_under_way_go_on_when_their_plan_is_taken_out(
    several_plans: OsbClient, client: OsbClient, atlas: Emulator
) -> None:
    atlas.put_cluster("being-created", state="CREATING")
    instance_id, asked = new_id(), {"plan_id": UPDATEABLE}
    first = several_plans.provision(instance_id, {"cluster": "being-created"}, fields=asked)
    again = client.provision(instance_id, {"cluster": "being-created"}, fields=asked)
    assert (again.status, again.json) == (202, first.json)
    assert client.deprovision(instance_id, query=asked).status == 202


@pytest.mark.rule("0.20", "1.10.3")
def test_a_binding_goes_on_when_its_instance_has_left_the_plan_that_was_taken_out(
    several_plans: OsbClient, client: OsbClient
) -> None:
    instance_id, binding_id, asked = made(several_plans, UPDATEABLE, ON_CLUSTER), new_id(), {"plan_id": UPDATEABLE}
    several_plans.bind(instance_id, binding_id, fields=asked)
    several_plans.wait(instance_id, binding_id)
    several_plans.update(instance_id, fields={"plan_id": PLAN_ID})
    several_plans.wait(instance_id)
    assert client.bind(instance_id, binding_id, fields=asked).status == 200
    assert client.bind(instance_id, new_id(), fields=asked).status == 400
    assert client.bind(instance_id, new_id()).status == 202


@pytest.mark.rule("0.20")
def test_a_plan_that_was_taken_out_decides_what_it_did(several_plans: OsbClient, client: OsbClient) -> None:
    """Workers find in the instance what its plan pinned; so does the API."""
    pinned = made(several_plans, ON_DEV)
    assert client.instance(pinned).json["dashboard_url"].endswith(CLUSTER)
    assert client.update(pinned, {"cluster": "cluster-test"}).status == 400
    unbindable = made(several_plans, UNBINDABLE, ON_CLUSTER)
    answer = client.bind(unbindable, new_id(), fields={"plan_id": UNBINDABLE})
    assert (answer.status, "unbindable" in answer.description) == (400, True)


# --- its quota ----------------------------------------------------------------------------------------------------


def test_concurrent_binds_cannot_exceed_the_quota_of_a_plan(several_plans: OsbClient) -> None:
    instance_id = made(several_plans, SMALL, ON_CLUSTER)
    fields = {"plan_id": SMALL}

    def bind(binding_id: str) -> Answer:
        return several_plans.bind(instance_id, binding_id, fields=fields)

    names = [new_id() for _ in range(8)]
    answers = dict(zip(names, together(*(partial(bind, name) for name in names)), strict=True))
    accepted = [name for name, answer in answers.items() if answer.status == 202]
    assert len(accepted) == 2
    refused = [answer for answer in answers.values() if answer.status != 202]
    assert {answer.status for answer in refused} == {400}
    assert all("has 2 bindings, and its plan small allows 2." in answer.description for answer in refused)
    for name in accepted:
        assert several_plans.wait(instance_id, name).state == "succeeded"
    assert bind(accepted[0]).status == 200  # repeated
    replaced = new_id()
    assert several_plans.rotate(instance_id, replaced, accepted[0]).status == 202
    assert several_plans.wait(instance_id, replaced).state == "succeeded"
    for name in accepted:
        several_plans.unbind(instance_id, name)
        several_plans.wait(instance_id, name)
    assert bind(accepted[0]).status == 202
    assert several_plans.wait(instance_id, accepted[0]).state == "succeeded"
    assert bind(new_id()).status == 400
