"""1.6: polling."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.steps import (
    ON_CLUSTER,
    UNKNOWN,
    bound,
    failed_bind,
    failed_provision,
    held_bind,
    held_provision,
    held_update,
    new_id,
    provisioned,
    release,
    users,
)
from tests.osb_client import OsbClient
from tests.tenant import eventually

Documents = Collection[dict[str, Any]]


@pytest.mark.rule("1.6.1")
def test_a_poll_needs_no_query_at_all(client: OsbClient, instance: str, binding: str) -> None:
    nothing: dict[str, str | None] = {"service_id": None, "plan_id": None, "operation": None}
    assert client.last_operation(instance, query=nothing).state == "succeeded"
    assert client.last_operation(instance, binding, query=nothing).state == "succeeded"


@pytest.mark.rule("1.6.1", "1.6.3")
@pytest.mark.parametrize("hint", [UNKNOWN, "", "x" * 300, '{"$ne": 1}'])
def test_service_and_plan_are_only_hints(client: OsbClient, instance: str, hint: str) -> None:
    """During a change of plan they are the old ones."""
    answer = client.last_operation(instance, query={"service_id": hint, "plan_id": hint})
    assert (answer.status, answer.state) == (200, "succeeded")


@pytest.mark.rule("1.6.1")
def test_without_an_operation_the_latest_is_told(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id = bound(client, instance)
    atlas.apply_by_hand()
    client.unbind(instance, binding_id)
    assert client.last_operation(instance, binding_id).state == "in progress"
    release(atlas)
    assert client.wait(instance, binding_id).state == "succeeded"


@pytest.mark.rule("1.6.1")
def test_an_earlier_operation_is_told_as_it_ended(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id, bind = held_bind(client, atlas, instance)
    release(atlas)
    client.wait(instance, binding_id)
    atlas.apply_by_hand()
    unbind = client.unbind(instance, binding_id)
    assert client.last_operation(instance, binding_id, bind.operation).state == "succeeded"
    assert client.last_operation(instance, binding_id, unbind.operation).state == "in progress"
    release(atlas)


@pytest.mark.rule("1.6.2")
def test_the_three_states_are_spelled_as_the_specification_has_them(client: OsbClient, atlas: Emulator) -> None:
    held, _ = held_provision(client, atlas)
    polls = [client.last_operation(each) for each in (held, provisioned(client), failed_provision(client))]
    assert [poll.json["state"] for poll in polls] == ["in progress", "succeeded", "failed"]
    assert all(poll.description for poll in polls)


@pytest.mark.rule("1.6.3")
@pytest.mark.parametrize("operation", ["unknown", "provision-0", "x" * 4000, "$where", "ü", "duplicate"])
def test_an_operation_that_is_not_known_is_never_400(
    client: OsbClient, instance: str, binding: str, operation: str
) -> None:
    """Service Catalog deletes a healthy instance when a poll is answered with 400."""
    assert client.last_operation(instance, None, operation).state == "succeeded"
    assert client.last_operation(instance, binding, operation).state == "succeeded"


@pytest.mark.rule("1.6.4")
def test_what_never_was_is_404(client: OsbClient, instance: str) -> None:
    assert client.last_operation(new_id()).status == 404
    assert client.last_operation(instance, new_id()).status == 404
    assert client.last_operation(new_id(), new_id(), "bind-1").status == 404


@pytest.mark.rule("0.3", "1.6.5", "1.6.6")
def test_a_finished_delete_is_succeeded_however_often_it_is_asked(client: OsbClient) -> None:
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    unbind = client.unbind(instance_id, binding_id)
    client.wait(instance_id, binding_id)
    deprovision = client.deprovision(instance_id)
    client.wait(instance_id)
    for operation in (None, deprovision.operation):
        polls = [client.last_operation(instance_id, None, operation) for _ in range(3)]
        assert [(poll.status, poll.state) for poll in polls] == [(200, "succeeded")] * 3
    poll = client.last_operation(instance_id, binding_id, unbind.operation)
    assert (poll.status, poll.state) == (200, "succeeded")


@pytest.mark.rule("0.3", "1.6.5")
def test_a_delete_that_is_forgotten_is_410_and_a_create_404(client: OsbClient, state: Documents) -> None:
    """Only the operation's id is left to tell."""
    instance_id = provisioned(client)
    operation = client.deprovision(instance_id).operation
    client.wait(instance_id)
    state.delete_one({"instance_id": instance_id})
    assert client.last_operation(instance_id, None, operation).status == 410
    assert client.last_operation(instance_id, "any", "unbind-1").status == 410
    assert client.last_operation(instance_id, None, "provision-1").status == 404


@pytest.mark.rule("0.3", "1.6.6")
def test_what_is_gone_is_remembered_for_a_day_and_then_removed_by_an_index(client: OsbClient, state: Documents) -> None:
    instance_id, binding_id = provisioned(client), new_id()
    client.bind(instance_id, binding_id)
    client.deprovision(instance_id)
    client.wait(instance_id)
    gone = list(state.find({"instance_id": instance_id}))
    assert {document.get("binding_id") for document in gone} == {None, binding_id}
    assert all(document["expire_at"] >= datetime.now(UTC) + timedelta(hours=23, minutes=59) for document in gone)
    assert state.index_information()["forget"]["expireAfterSeconds"] == 0
    assert state.index_information()["forget"]["key"] == [("expire_at", 1)]


@pytest.mark.rule("1.6.6")
def test_what_lives_is_not_removed_by_that_index(client: OsbClient, state: Documents) -> None:
    instance_id = failed_provision(client)
    client.deprovision(instance_id)
    client.wait(instance_id)
    provisioned(client, instance_id=instance_id)
    found = state.find_one({"instance_id": instance_id})
    assert found is not None
    assert found.get("expire_at") is None


@pytest.mark.rule("0.16", "1.6.7")
def test_nobody_is_told_to_poll_more_slowly_than_it_is_worth(client: OsbClient, atlas: Emulator, instance: str) -> None:
    """Cloud Foundry makes 60 s of any Retry-After; a manifest's bind may take no longer than that."""
    held, _ = held_provision(client, atlas)
    binding_id, _ = held_bind(client, atlas, instance)
    answers = [client.last_operation(held), client.last_operation(instance, binding_id)]
    assert [answer.state for answer in answers] == ["in progress", "in progress"]
    assert not [answer for answer in answers if "Retry-After" in answer.headers]
    release(atlas)


def _past_its_deadline(state: Documents, instance_id: str, binding_id: str | None = None) -> None:
    late = {"operation.deadline": datetime.now(UTC) - timedelta(seconds=1)}
    state.update_one({"instance_id": instance_id, "binding_id": binding_id}, {"$set": late})


@pytest.mark.rule("1.6.8", "1.9.4", "0.13", "1.6.11")
def test_a_failed_update_leaves_an_instance_that_can_be_used(
    client: OsbClient, atlas: Emulator, state: Documents
) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    _past_its_deadline(state, instance_id)
    ended = client.wait(instance_id)
    assert (ended.state, ended.json["instance_usable"]) == ("failed", True)
    assert client.instance(instance_id).json["parameters"] == ON_CLUSTER
    release(atlas)
    assert client.update(instance_id, {"policy-on-delete": "drop"}).status == 202


@pytest.mark.rule("1.6.8", "1.13.10")
def test_a_failed_deprovision_says_why_and_that_the_instance_can_be_used(client: OsbClient) -> None:
    shared = {"database": f"shared-{new_id()}", "policy-on-delete": "drop"}
    first, second = provisioned(client, shared), provisioned(client, shared)
    client.deprovision(first)
    ended = client.wait(first)
    assert (ended.state, ended.json["instance_usable"]) == ("failed", True)
    assert second in ended.description
    assert client.instance(first).status == 200
    client.update(second, {"policy-on-delete": "retain"})
    client.wait(second)
    client.deprovision(second)
    client.wait(second)
    again = client.deprovision(first)
    assert again.status == 202
    assert client.wait(first, None, again.operation).state == "succeeded"


@pytest.mark.rule("1.6.8")
def test_a_failed_create_says_nothing_of_that(client: OsbClient, atlas: Emulator, instance: str) -> None:
    instance_poll = client.last_operation(failed_provision(client))
    binding_poll = client.last_operation(instance, failed_bind(client, atlas, instance))
    for poll in (instance_poll, binding_poll):
        assert set(poll.json) == {"state", "description"}


@pytest.mark.rule("1.6.2")
def test_a_failure_says_what_it_is_about(client: OsbClient, atlas: Emulator, instance: str) -> None:
    assert "nowhere" in client.last_operation(failed_provision(client)).description
    description = client.last_operation(instance, failed_bind(client, atlas, instance)).description
    assert "cluster-dev" in description
    assert "users" in description


@pytest.mark.rule("1.6.10")
def test_the_first_poll_may_come_with_the_answer(client: OsbClient, instance: str, *, long_form: bool) -> None:
    """Cloud Foundry polls in the same job, milliseconds later."""
    for _ in range(20 if long_form else 8):
        instance_id, binding_id = new_id(), new_id()
        accepted = client.provision(instance_id, ON_CLUSTER)
        assert client.last_operation(instance_id, None, accepted.operation).status == 200
        accepted = client.bind(instance, binding_id)
        assert client.last_operation(instance, binding_id, accepted.operation).status == 200
        client.unbind(instance, binding_id)


@pytest.mark.rule("0.13", "1.6.11")
def test_an_operation_has_a_deadline_before_platforms_give_up(
    client: OsbClient, atlas: Emulator, state: Documents
) -> None:
    instance_id, _ = held_provision(client, atlas)
    found = state.find_one({"instance_id": instance_id})
    assert found is not None
    assert found["operation"]["deadline"] - found["operation"]["accepted"] == timedelta(seconds=1500)


@pytest.mark.rule("0.13", "1.6.11")
def test_a_bind_that_is_stuck_fails_at_its_deadline_and_leaves_nothing(
    client: OsbClient, atlas: Emulator, state: Documents, instance: str
) -> None:
    binding_id, bind = held_bind(client, atlas, instance)
    _past_its_deadline(state, instance, binding_id)
    ended = client.wait(instance, binding_id, bind.operation)
    assert ended.state == "failed"
    assert "deadline" in ended.description
    eventually(lambda: not users(atlas, "binding_id", binding_id))
    assert client.binding(instance, binding_id).status == 404
