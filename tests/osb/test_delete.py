"""1.13 and 1.14: unbind, deprovision, and what platforms do to clean up."""

from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from tests.emulator.client import Emulator
from tests.osb.steps import (
    ON_CLUSTER,
    UNKNOWN,
    bound,
    failed_bind,
    failed_provision,
    held_bind,
    held_deprovision,
    held_provision,
    held_update,
    new_id,
    provisioned,
    release,
    users,
)
from tests.osb_client import Answer, OsbClient
from tests.tenant import eventually

POST_USER = "/groups/{groupId}/databaseUsers"
GET_CLUSTER = "/groups/{groupId}/clusters/{clusterName}"
HANG_SECONDS = 7.5
"""How long a request hangs at most; the worker gives up after 8 s without an answer."""
Documents = Collection[dict[str, Any]]


@pytest.mark.rule("1.13.1")
def test_a_delete_is_202_and_what_is_deleted_works_no_more(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    uri = client.binding(instance_id, binding_id).json["credentials"]["uri"]
    for accepted, binding in (client.unbind(instance_id, binding_id), binding_id), (None, None):
        answer = accepted or client.deprovision(instance_id)
        assert (answer.status, set(answer.json)) == (202, {"operation"})
        assert client.wait(instance_id, binding, answer.operation).state == "succeeded"
    assert not users(atlas, "instance_id", instance_id)
    with MongoClient[dict[str, Any]](uri) as application, pytest.raises(OperationFailure):
        application.get_default_database()["visits"].find_one()


@pytest.mark.rule("1.13.2")
def test_the_same_again_while_it_runs_is_202_with_the_same_operation(client: OsbClient, atlas: Emulator) -> None:
    instance_id, first = held_deprovision(client, atlas)
    again = client.deprovision(instance_id)
    assert (again.status, again.operation) == (202, first.operation)
    release(atlas)


@pytest.mark.rule("1.13.2")
def test_the_same_unbind_again_is_202_with_the_same_operation(
    client: OsbClient, atlas: Emulator, instance: str
) -> None:
    binding_id = bound(client, instance)
    atlas.apply_by_hand()
    first, again = client.unbind(instance, binding_id), client.unbind(instance, binding_id)
    assert (again.status, again.operation) == (202, first.operation)
    release(atlas)


@pytest.mark.rule("1.13.4", "1.14.1")
def test_what_never_was_or_is_gone_is_410_however_often_it_is_asked(client: OsbClient, instance: str) -> None:
    gone, binding_id = provisioned(client), new_id()
    client.bind(gone, binding_id)
    client.deprovision(gone)
    client.wait(gone)
    for _ in range(3):
        answers = [
            client.deprovision(new_id()),
            client.deprovision(gone),
            client.unbind(instance, new_id()),
            client.unbind(new_id(), new_id()),
            client.unbind(gone, binding_id),
        ]
        assert [answer.status for answer in answers] == [410] * 5
        assert all(isinstance(answer.json, dict) for answer in answers)


@pytest.mark.rule("1.13.5")
def test_without_polling_nothing_is_deleted_where_nobody_may_wait(async_only: OsbClient, instance: str) -> None:
    assert async_only.deprovision(instance, accepts_incomplete=None).json["error"] == "AsyncRequired"
    assert async_only.instance(instance).status == 200


@pytest.mark.rule("1.13.6")
def test_while_an_update_runs_it_is_422(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    assert client.deprovision(instance_id).json["error"] == "ConcurrencyError"
    release(atlas)
    client.wait(instance_id)
    assert client.deprovision(instance_id).status == 202


@pytest.mark.rule("0.6", "1.13.7")
def test_a_create_that_waits_is_stopped_by_a_delete_and_then_reads_failed(client: OsbClient, atlas: Emulator) -> None:
    instance_id, create = held_provision(client, atlas)
    delete = client.deprovision(instance_id)
    assert delete.status == 202
    assert client.wait(instance_id, None, delete.operation).state == "succeeded"
    poll = client.last_operation(instance_id, None, create.operation)
    assert (poll.status, poll.state) == (200, "failed")
    assert client.last_operation(instance_id).state == "succeeded"
    assert client.deprovision(instance_id).status == 410


@pytest.mark.rule("0.6", "1.13.7")
def test_a_bind_that_waits_is_stopped_by_an_unbind_and_its_user_removed(
    client: OsbClient, atlas: Emulator, instance: str
) -> None:
    binding_id, bind = held_bind(client, atlas, instance)
    unbind = client.unbind(instance, binding_id)
    release(atlas)
    _stopped(client, atlas, (instance, binding_id), bind, unbind)


def _stopped(client: OsbClient, atlas: Emulator, binding: tuple[str, str], bind: Answer, unbind: Answer) -> None:
    instance, binding_id = binding
    assert unbind.status == 202
    assert client.last_operation(instance, binding_id, bind.operation).state == "failed"
    assert client.wait(instance, binding_id, unbind.operation).state == "succeeded"
    assert client.last_operation(instance, binding_id, bind.operation).state == "failed"
    assert client.binding(instance, binding_id).status == 404
    assert not users(atlas, "binding_id", binding_id)


@pytest.mark.rule("0.6", "1.13.7", "1.13.12")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_bind_whose_request_hangs_at_atlas_is_stopped_by_an_unbind(
    client: OsbClient, atlas: Emulator, instance: str, when: str
) -> None:
    """The worker finishes its request after the delete was accepted; its user must not stay."""
    atlas.apply_by_hand()  # so that the bind has not ended either where accepting the delete takes longer than the hang
    rule = atlas.rule(method="POST", path="databaseUsers", **{f"hang_{when}": HANG_SECONDS})
    binding_id = new_id()
    bind = client.bind(instance, binding_id)
    eventually(lambda: [call for call in atlas.calls("POST", POST_USER) if call["fault"]])
    unbind = client.unbind(instance, binding_id)
    release(atlas)
    atlas.let_go(rule)
    _stopped(client, atlas, (instance, binding_id), bind, unbind)


@pytest.mark.rule("0.6", "1.13.7", "1.13.12")
def test_a_create_whose_request_hangs_at_atlas_is_stopped_by_a_delete(client: OsbClient, atlas: Emulator) -> None:
    rule = atlas.hang("GET", "/clusters/being-created", seconds=HANG_SECONDS)
    instance_id, create = held_provision(client, atlas)
    eventually(lambda: [call for call in atlas.calls("GET", GET_CLUSTER) if call["fault"]])
    delete = client.deprovision(instance_id)
    assert delete.status == 202
    assert client.provision(instance_id, ON_CLUSTER).json["error"] == "ConcurrencyError"
    atlas.let_go(rule)
    assert client.wait(instance_id, None, delete.operation).state == "succeeded"
    assert client.last_operation(instance_id, None, create.operation).state == "failed"
    assert client.instance(instance_id).status == 404


@pytest.mark.rule("0.10", "1.13.8", "1.14.1")
def test_what_failed_can_be_deleted(client: OsbClient, atlas: Emulator, instance: str) -> None:
    instance_id, binding_id = failed_provision(client), failed_bind(client, atlas, instance)
    assert client.deprovision(instance_id).status == 202
    assert client.unbind(instance, binding_id).status == 202
    assert client.wait(instance_id).state == "succeeded"
    assert client.wait(instance, binding_id).state == "succeeded"
    assert client.deprovision(instance_id).status == 410
    assert client.unbind(instance, binding_id).status == 410


@pytest.mark.rule("0.8", "1.13.9")
def test_a_deprovision_removes_the_bindings_that_are_left_and_stops_those_in_the_making(
    client: OsbClient, atlas: Emulator
) -> None:
    instance_id = provisioned(client)
    made = [bound(client, instance_id) for _ in range(2)]
    running, bind = held_bind(client, atlas, instance_id)
    deprovision = client.deprovision(instance_id)
    assert deprovision.status == 202
    eventually(lambda: not users(atlas, "instance_id", instance_id))
    assert client.last_operation(instance_id).state == "in progress"
    release(atlas)
    assert client.wait(instance_id, None, deprovision.operation).state == "succeeded"
    assert client.last_operation(instance_id, running, bind.operation).state == "failed"
    assert [client.binding(instance_id, each).status for each in (*made, running)] == [404] * 3
    assert [client.unbind(instance_id, each).status for each in (*made, running)] == [410] * 3


@pytest.mark.rule("1.13.10", "1.6.8")
def test_after_a_failed_delete_all_answers_agree(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    refusal = atlas.fail("DELETE", "databaseUsers", status=400, times=None)
    client.unbind(instance_id, binding_id)
    assert client.wait(instance_id, binding_id).state == "failed"
    answers = [client.binding(instance_id, binding_id), client.bind(instance_id, binding_id)]
    assert [(answer.status, "removal" in answer.description) for answer in answers] == [(404, True), (409, True)]
    client.deprovision(instance_id)
    ended = client.wait(instance_id)
    assert (ended.state, ended.json["instance_usable"]) == ("failed", True)
    assert client.instance(instance_id).status == 200
    assert client.bind(instance_id, new_id()).status == 202
    atlas.heal(refusal)
    assert client.unbind(instance_id, binding_id).status == 202
    assert client.wait(instance_id, binding_id).state == "succeeded"
    assert client.deprovision(instance_id).status == 202
    assert client.wait(instance_id).state == "succeeded"


@pytest.mark.rule("1.13.11")
def test_service_and_plan_are_only_hints(client: OsbClient) -> None:
    """After a half-failed update the platform may send the old plan."""
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    hints = {"service_id": UNKNOWN, "plan_id": "an old plan"}
    assert client.unbind(instance_id, binding_id, query=hints).status == 202
    assert client.deprovision(instance_id, query=hints).status == 202
    assert client.wait(instance_id).state == "succeeded"


@pytest.mark.rule("1.13.12")
def test_a_create_that_comes_after_the_delete_waits_for_its_end(client: OsbClient, atlas: Emulator) -> None:
    instance_id, delete = held_deprovision(client, atlas)
    assert client.provision(instance_id, ON_CLUSTER).json["error"] == "ConcurrencyError"
    assert client.last_operation(instance_id).state == "in progress"
    release(atlas)
    assert client.wait(instance_id, None, delete.operation).state == "succeeded"


@pytest.mark.rule("1.13.13")
@pytest.mark.parametrize("name", ["service_id", "plan_id"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_delete_must_name_service_and_plan(client: OsbClient, instance: str, name: str, value: str | None) -> None:
    for answer in (
        client.deprovision(instance, query={name: value}),
        client.unbind(instance, new_id(), query={name: value}),
    ):
        assert answer.status == 400
        assert name in answer.description


@pytest.mark.rule("1.14.2")
def test_a_timeout_is_answered_with_a_delete_and_the_same_id_again(client: OsbClient, atlas: Emulator) -> None:
    """What Service Catalog does to a broker that did not answer in time."""
    instance_id, _ = held_provision(client, atlas)
    client.deprovision(instance_id)
    assert client.wait(instance_id).state == "succeeded"
    assert client.provision(instance_id, ON_CLUSTER).status == 202
    assert client.wait(instance_id).state == "succeeded"
    assert client.instance(instance_id).json["parameters"] == ON_CLUSTER


@pytest.mark.rule("1.14.3")
def test_a_delete_that_nobody_polls_ends_by_itself(client: OsbClient, atlas: Emulator, state: Documents) -> None:
    """Cloud Foundry sends it and never asks again; the broker tries again when Atlas fails."""
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    atlas.fail("DELETE", "databaseUsers", status=503, times=2)
    client.deprovision(instance_id)
    gone = {"instance_id": instance_id, "binding_id": None, "phase": "gone"}
    eventually(lambda: state.count_documents(gone) == 1)
    assert not users(atlas, "binding_id", binding_id)


@pytest.mark.rule("0.5", "1.14.4")
def test_a_failed_bind_leaves_nothing_in_atlas_without_any_delete(
    client: OsbClient, atlas: Emulator, instance: str, state: Documents
) -> None:
    """Service Catalog does not unbind after a bind that failed."""
    binding_id, _ = held_bind(client, atlas, instance)
    query = {"instance_id": instance, "binding_id": binding_id}
    state.update_one(query, {"$currentDate": {"operation.deadline": True}})
    assert client.wait(instance, binding_id).state == "failed"
    eventually(lambda: not users(atlas, "binding_id", binding_id))
    release(atlas)


@pytest.mark.rule("1.14.1")
def test_a_binding_that_was_never_polled_is_unbound(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id = new_id()
    client.bind(instance, binding_id)
    client.unbind(instance, binding_id)
    assert client.wait(instance, binding_id).state == "succeeded"
    eventually(lambda: all(call["end"] for call in atlas.calls()), "no call is under way that could make the user")
    assert not users(atlas, "binding_id", binding_id)
