"""1.12: rotation."""

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from tests.books import sign
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb.offers import FIXED
from tests.osb.steps import UNKNOWN, bound, failed_bind, held_bind, new_id, provisioned, release
from tests.osb_client import PLAN_ID, SERVICE_ID, Json, OsbClient
from tests.tenant import together

pytestmark = pytest.mark.rule("1.12")


def _rotated(client: OsbClient, instance: str, predecessor: str) -> str:
    binding_id = new_id()
    assert client.rotate(instance, binding_id, predecessor).status == 202
    assert client.wait(instance, binding_id).state == "succeeded"
    return binding_id


def test_the_new_one_takes_over_the_parameters_and_both_work(client: OsbClient, atlas: Emulator, instance: str) -> None:
    del atlas
    old = bound(client, instance, {"role": "readOnly"})
    new = _rotated(client, instance, old)
    before, after = client.binding(instance, old).json, client.binding(instance, new).json
    assert after["parameters"] == {"role": "readOnly"}
    assert before["credentials"]["password"] != after["credentials"]["password"]
    for body in (before, after):
        with MongoClient[dict[str, Any]](body["credentials"]["uri"]) as application:
            assert application.get_default_database()["visits"].find_one({"x": "none"}) is None


def test_the_old_one_can_be_unbound_and_the_new_one_stays(client: OsbClient, instance: str) -> None:
    old = bound(client, instance)
    new = _rotated(client, instance, old)
    client.unbind(instance, old)
    assert client.wait(instance, old).state == "succeeded"
    assert client.binding(instance, new).status == 200


def test_a_repeated_rotation_is_answered_like_a_repeated_bind(
    client: OsbClient, atlas: Emulator, instance: str
) -> None:
    old, new = bound(client, instance), new_id()
    atlas.apply_by_hand()
    first = client.rotate(instance, new, old)
    again = client.rotate(instance, new, old)
    assert (again.status, again.operation) == (202, first.operation)
    release(atlas)
    client.wait(instance, new)
    assert client.rotate(instance, new, old).status == 200
    client.unbind(instance, old)
    client.wait(instance, old)
    done = client.rotate(instance, new, old)
    assert (done.status, done.json["credentials"]["username"]) == (200, new)


def test_an_id_that_is_taken_is_409(client: OsbClient, instance: str, binding: str) -> None:
    assert client.rotate(instance, binding, bound(client, instance)).status == 409


def test_a_life_begins_anew(client: OsbClient, instance: str) -> None:
    old = bound(client, instance, {"expires_in": 600})
    time.sleep(0.1)  # answers tell tenths of a second
    new = _rotated(client, instance, old)
    before, after = (client.binding(instance, each).json["metadata"]["expires_at"] for each in (old, new))
    assert before < after


def test_only_a_binding_of_this_instance_that_lives_can_be_replaced(
    stack: Stack, client: OsbClient, atlas: Emulator, instance: str, state: Collection[dict[str, Any]]
) -> None:
    other = provisioned(client)
    made = [partial(bound, client, *each) for each in ((other,), (instance,), (instance, {"expires_in": 60}))]
    foreign, gone, expired = together(*made)
    client.unbind(instance, gone)
    client.wait(instance, gone)
    past = {"expires": datetime.now(UTC) - timedelta(seconds=1)}
    state.update_one({"instance_id": instance, "binding_id": expired}, {"$set": past})
    sign(stack, {"instance_id": instance, "binding_id": expired})
    failed, (held, _) = failed_bind(client, atlas, instance), held_bind(client, atlas, instance)
    for predecessor in (new_id(), foreign, gone, expired, failed, held):
        answer = client.rotate(instance, new_id(), predecessor)
        assert answer.status == 400
        assert "predecessor_binding_id" in answer.description
    assert client.binding(instance, expired).status == 404
    release(atlas)


@pytest.mark.parametrize("predecessor", [7, "", []], ids=str)
def test_a_malformed_predecessor_is_400(client: OsbClient, instance: str, predecessor: object) -> None:
    answer = client.rotate(instance, new_id(), "x", fields={"predecessor_binding_id": predecessor})
    assert answer.status == 400
    assert "predecessor_binding_id" in answer.description


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"service_id": SERVICE_ID, "plan_id": PLAN_ID}, 202),
        ({"plan_id": FIXED}, 400),
        ({"plan_id": UNKNOWN}, 400),
        ({"service_id": UNKNOWN}, 400),
    ],
    ids=str,
)
def test_a_plan_need_not_be_named_but_must_be_the_right_one(
    several_plans: OsbClient, instance: str, binding: str, fields: Json, status: int
) -> None:
    assert several_plans.rotate(instance, new_id(), binding, fields=fields).status == status
