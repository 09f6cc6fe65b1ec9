"""0.15, 0.17 and 1.5: requests of platforms that cannot poll."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.steps import (
    ON_CLUSTER,
    at_once,
    bound,
    eventually,
    held_bind,
    new_id,
    provisioned,
    release,
    statuses,
    users,
)
from tests.osb_client import Answer, Flag, OsbClient

PLACES = 64
Documents = Collection[dict[str, Any]]


@pytest.mark.rule("0.15", "1.7.2", "1.10.3", "1.13.3", "1.5.2")
def test_a_whole_life_without_any_poll(client: OsbClient) -> None:
    """Default Service Catalog, eden and Cloud Foundry's older keys ask like this."""
    at_once([partial(_live, client, incomplete) for incomplete in (None, False)])


def _live(client: OsbClient, incomplete: Flag) -> None:
    instance_id, binding_id = new_id(), new_id()
    created = client.provision(instance_id, ON_CLUSTER, accepts_incomplete=incomplete)
    assert (created.status, set(created.json)) == (201, {"dashboard_url"})
    assert client.provision(instance_id, ON_CLUSTER, accepts_incomplete=incomplete).status == 200
    bind = client.bind(instance_id, binding_id, accepts_incomplete=incomplete)
    assert bind.status == 201
    assert bind.json["credentials"] == client.binding(instance_id, binding_id).json["credentials"]
    assert client.update(instance_id, {"policy-on-delete": "drop"}, accepts_incomplete=incomplete).json == {}
    unbind = client.unbind(instance_id, binding_id, accepts_incomplete=incomplete)
    assert (unbind.status, unbind.json) == (200, {})
    deprovision = client.deprovision(instance_id, accepts_incomplete=incomplete)
    assert (deprovision.status, deprovision.json) == (200, {})
    assert client.deprovision(instance_id, accepts_incomplete=incomplete).status == 410


@pytest.mark.rule("0.15")
def test_what_can_never_be_is_400_and_says_why(client: OsbClient) -> None:
    answer = client.provision(new_id(), {"cluster": "nowhere"}, accepts_incomplete=None)
    assert answer.status == 400
    assert "nowhere" in answer.description


@pytest.mark.rule("0.15", "1.4.4")
def test_what_fails_at_atlas_is_500_and_says_why(client: OsbClient, atlas: Emulator, instance: str) -> None:
    """Platforms take that for a reason to clean up."""
    atlas.user_limit(0)
    binding_id = new_id()
    with client.expecting(500):
        answer = client.bind(instance, binding_id, accepts_incomplete=None)
    assert answer.status == 500
    assert "users" in answer.description
    assert client.unbind(instance, binding_id, accepts_incomplete=None).status == 200


@pytest.mark.rule("0.15", "1.14.2")
def test_what_takes_too_long_is_504_and_a_delete_stops_it(
    hasty: OsbClient, client: OsbClient, atlas: Emulator, instance: str
) -> None:
    atlas.apply_by_hand()
    binding_id = new_id()
    with hasty.expecting(504):
        answer = hasty.bind(instance, binding_id, accepts_incomplete=None)
    assert answer.status == 504
    assert "accepts_incomplete" in answer.description
    assert 2 <= answer.seconds < 20
    assert client.last_operation(instance, binding_id).state == "in progress"
    assert client.unbind(instance, binding_id).status == 202
    release(atlas)
    assert client.wait(instance, binding_id).state == "succeeded"
    assert not users(atlas, "binding_id", binding_id)


@pytest.mark.rule("0.15", "1.10.2")
def test_a_request_that_comes_later_waits_for_the_same_operation(
    client: OsbClient, atlas: Emulator, instance: str
) -> None:
    binding_id, first = held_bind(client, atlas, instance)
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(client.bind, instance, binding_id, accepts_incomplete=None) for _ in range(3)]
        eventually(lambda: client.last_operation(instance, binding_id).state == "in progress")
        release(atlas)
        answers = [each.result(60) for each in waiting]
    assert statuses(answers) <= [201] * 3
    assert len({answer.json["credentials"]["password"] for answer in answers}) == 1
    assert client.last_operation(instance, binding_id, first.operation).state == "succeeded"


@pytest.mark.rule("0.15", "1.13.5", "1.5.1")
def test_with_0_nobody_waits_and_nothing_is_stored(async_only: OsbClient, instance: str, state: Documents) -> None:
    before = list(state.find(sort=[("_id", 1)]))
    answers = [
        async_only.provision(new_id(), ON_CLUSTER, accepts_incomplete=None),
        async_only.bind(instance, new_id(), accepts_incomplete=None),
        async_only.update(instance, {"policy-on-delete": "drop"}, accepts_incomplete=None),
        async_only.deprovision(instance, accepts_incomplete=None),
    ]
    assert [(answer.status, answer.json["error"]) for answer in answers] == [(422, "AsyncRequired")] * 4
    assert list(state.find(sort=[("_id", 1)])) == before


@contextmanager
def _64_waiting(client: OsbClient, atlas: Emulator, state: Documents) -> Iterator[list[Future[Answer]]]:
    """So many provisions that wait for a cluster; at the end it is there, and all are answered."""
    atlas.put_cluster("being-created", state="CREATING")
    ids = [new_id() for _ in range(PLACES)]
    parameters = {"cluster": "being-created"}
    query = {"instance_id": {"$in": ids}}
    with ThreadPoolExecutor(PLACES) as threads:
        asked = [threads.submit(client.provision, each, parameters, accepts_incomplete=None) for each in ids]
        looked = {"operation.description": {"$regex": "Waiting"}}
        eventually(lambda: state.count_documents(query | looked) == PLACES)
        try:
            yield asked
        finally:
            atlas.put_cluster("being-created", state="IDLE")
            state.update_many(query, {"$currentDate": {"operation.due": True}})


@pytest.mark.rule("0.17", "0.15")
def test_64_wait_at_once_while_others_are_answered_and_the_65th_is_told_to_poll(
    client: OsbClient, atlas: Emulator, state: Documents, instance: str
) -> None:
    with _64_waiting(client, atlas, state) as waiting:
        polls = [client.last_operation(instance) for _ in range(50)]
        one_too_many = new_id()
        refused = [
            client.provision(one_too_many, ON_CLUSTER, accepts_incomplete=None),
            client.bind(instance, one_too_many, accepts_incomplete=None),
        ]
        taken = client.provision(new_id(), ON_CLUSTER)
        assert not [each for each in waiting if each.done()]
    assert {poll.state for poll in polls} == {"succeeded"}
    assert sorted(poll.seconds for poll in polls)[25] < 0.5
    assert [(answer.status, answer.json["error"]) for answer in refused] == [(422, "AsyncRequired")] * 2
    assert max(answer.seconds for answer in refused) < 2
    assert state.count_documents({"$or": [{"instance_id": one_too_many}, {"binding_id": one_too_many}]}) == 0
    assert taken.status == 202
    assert statuses(each.result(60) for each in waiting) == [201] * PLACES
    assert client.provision(new_id(), ON_CLUSTER, accepts_incomplete=None).status == 201


@pytest.mark.rule("0.15")
def test_one_query_serves_all_who_wait(client: OsbClient, atlas: Emulator, state: Documents) -> None:
    with _64_waiting(client, atlas, state) as waiting:
        seconds, queries = 2.0, _profiled(state, 2.0)
        assert not [each for each in waiting if each.done()]
    asked = [query for query in queries if len(query.get("_id", {}).get("$in", [])) == PLACES]
    of_one = [query for query in queries if isinstance(query.get("_id"), str)]
    assert 1 <= len(asked) <= seconds * 12
    assert len(of_one) < PLACES
    assert statuses(each.result(60) for each in waiting) == [201] * PLACES


def _profiled(state: Documents, seconds: float) -> list[dict[str, Any]]:
    """The filters of all queries of the collection in so many seconds, from MongoDB's own profiler."""
    database = state.database
    database.command("profile", 2)
    time.sleep(seconds)
    database.command("profile", 0)
    seen = database["system.profile"].find({"op": "query", "ns": state.full_name})
    filters = [entry["command"]["filter"] for entry in seen]
    database.drop_collection("system.profile")
    return [each for each in filters if isinstance(each.get("_id", {}), dict | str)]


@pytest.mark.rule("0.15")
def test_those_who_wait_for_different_things_are_answered_as_each_ends(client: OsbClient, instance: str) -> None:
    calls = [lambda: client.bind(instance, new_id(), accepts_incomplete=None) for _ in range(8)]
    answers = at_once(calls)
    assert statuses(answers) == [201] * 8


@pytest.mark.rule("0.15", "0.8")
def test_a_deprovision_that_waits_is_done_when_its_bindings_are_gone(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    bound(client, instance_id)
    assert client.deprovision(instance_id, accepts_incomplete=None).status == 200
    assert not users(atlas, "instance_id", instance_id)
