"""0.15, 0.17 and 1.5: requests of platforms that cannot poll."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.steps import ON_CLUSTER, bound, held_bind, new_id, provisioned, release, statuses, users
from tests.osb_client import Answer, Flag, Json, OsbClient
from tests.tenant import eventually, together

PLACES = 64
LOOKS = 5
Documents = Collection[dict[str, Any]]


@pytest.mark.rule("0.15", "1.7.2", "1.10.3", "1.13.3", "1.5.2")
def test_a_whole_life_without_any_poll(client: OsbClient) -> None:
    """Default Service Catalog, eden and Cloud Foundry's older keys ask like this."""
    together(*[partial(_live, client, incomplete) for incomplete in (None, False)])


def _live(client: OsbClient, incomplete: Flag) -> None:
    instance_id, binding_id = new_id(), new_id()
    created = client.provision(instance_id, ON_CLUSTER, accepts_incomplete=incomplete)
    assert (created.status, set(created.json)) == (201, {"dashboard_url"})
    assert client.provision(instance_id, ON_CLUSTER, accepts_incomplete=incomplete).status == 200
    bind = client.bind(instance_id, binding_id, accepts_incomplete=incomplete)
    assert bind.status == 201
    assert bind.json["credentials"] == client.binding(instance_id, binding_id).json["credentials"]
    updated = client.update(instance_id, {"policy-on-delete": "drop"}, accepts_incomplete=incomplete)
    assert (updated.status, updated.json) == (200, created.json)
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
    assert "Try again" in answer.description
    assert "BROKER_" not in answer.description
    assert 0.5 <= answer.seconds < 20
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
    # What other tests have asked for may still be worked on; it must only not become more.
    at_rest = list(state.find({"operation.open": False}, sort=[("_id", 1)]))
    known = set(state.distinct("_id"))
    answers = [
        async_only.provision(new_id(), ON_CLUSTER, accepts_incomplete=None),
        async_only.bind(instance, new_id(), accepts_incomplete=None),
        async_only.update(instance, {"policy-on-delete": "drop"}, accepts_incomplete=None),
        async_only.deprovision(instance, accepts_incomplete=None),
    ]
    assert [(answer.status, answer.json["error"]) for answer in answers] == [(422, "AsyncRequired")] * 4
    assert set(state.distinct("_id")) == known
    assert list(state.find({"_id": {"$in": [each["_id"] for each in at_rest]}}, sort=[("_id", 1)])) == at_rest


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
def test_64_wait_by_one_query_while_others_are_answered_and_the_65th_is_told_to_poll(
    one_process: OsbClient, atlas: Emulator, state: Documents, instance: str
) -> None:
    client = one_process  # each process of the API has places of its own
    with _64_waiting(client, atlas, state) as waiting:
        queries = _profiled(state)
        polls = [client.last_operation(instance) for _ in range(50)]
        one_too_many = new_id()
        refused = [
            client.provision(one_too_many, ON_CLUSTER, accepts_incomplete=None),
            client.bind(instance, one_too_many, accepts_incomplete=None),
        ]
        gone = [
            client.deprovision(one_too_many, accepts_incomplete=None),
            client.unbind(instance, one_too_many, accepts_incomplete=None),
        ]
        taken = client.provision(new_id(), ON_CLUSTER)
        assert not [each for each in waiting if each.done()]
    moments = [moment for moment, _ in queries]
    seconds = (max(moments) - min(moments)).total_seconds()
    asked = [query for _, query in queries if _is_of_all(query)]
    of_one = [query for _, query in queries if isinstance(query.get("_id"), str)]
    assert LOOKS <= len(asked) <= seconds * 12 + 2
    assert len(of_one) < PLACES * (seconds + 1)
    assert {poll.state for poll in polls} == {"succeeded"}
    assert sorted(poll.seconds for poll in polls)[25] < 0.5
    assert [(answer.status, answer.json["error"]) for answer in refused] == [(422, "AsyncRequired")] * 2
    assert max(answer.seconds for answer in refused) < 20, "they have waited"
    assert [answer.status for answer in gone] == [410] * 2
    assert state.count_documents({"$or": [{"instance_id": one_too_many}, {"binding_id": one_too_many}]}) == 0
    assert taken.status == 202
    assert statuses(each.result(60) for each in waiting) == [201] * PLACES
    assert client.provision(new_id(), ON_CLUSTER, accepts_incomplete=None).status == 201


def _is_of_all(query: Json) -> bool:
    wanted = query.get("_id")
    return isinstance(wanted, dict) and len(wanted.get("$in", [])) == PLACES


def _profiled(state: Documents) -> list[tuple[datetime, Json]]:
    """The filters of all queries of the collection, with their times, from MongoDB's own profiler.

    It runs until there were ``LOOKS`` queries for all that wait.
    """
    database = state.database
    profile = database["system.profile"]

    def seen() -> list[tuple[datetime, Json]]:
        entries = profile.find({"op": "query", "ns": state.full_name})
        queries = [(entry["ts"], entry["command"]["filter"]) for entry in entries]
        return [each for each in queries if isinstance(each[1].get("_id", {}), dict | str)]

    database.command("profile", 2)
    try:
        eventually(lambda: sum(_is_of_all(query) for _, query in seen()) >= LOOKS, "queries for all that wait")
    finally:
        database.command("profile", 0)
    queries = seen()
    database.drop_collection(profile.name)
    return queries


@pytest.mark.rule("0.15")
def test_those_who_wait_for_different_things_are_answered_as_each_ends(client: OsbClient, instance: str) -> None:
    calls = [lambda: client.bind(instance, new_id(), accepts_incomplete=None) for _ in range(8)]
    answers = together(*calls)
    assert statuses(answers) == [201] * 8


@pytest.mark.rule("0.15", "0.8")
def test_a_deprovision_that_waits_is_done_when_its_bindings_are_gone(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    bound(client, instance_id)
    assert client.deprovision(instance_id, accepts_incomplete=None).status == 200
    assert not users(atlas, "instance_id", instance_id)


# --- Service Catalog, which repeats what was refused and undoes what has timed out -----------------------------------

KUBERNETES: Json = {"context": {"platform": "kubernetes", "namespace": "default"}}
CONCURRENT = "The Service Broker does not support concurrent requests that mutate the same resource."


def _is_told_to_repeat(answer: Answer) -> bool:
    return (answer.status, answer.json.get("error"), answer.description) == (422, "ConcurrencyError", CONCURRENT)


@pytest.mark.rule("0.15", "1.10.2")
def test_a_bind_that_takes_longer_than_the_wait_succeeds_when_it_is_repeated(
    hasty: OsbClient, client: OsbClient, atlas: Emulator, instance: str
) -> None:
    atlas.apply_by_hand()
    binding_id = new_id()
    tries = [hasty.bind(instance, binding_id, fields=KUBERNETES, accepts_incomplete=None) for _ in range(2)]
    assert all(_is_told_to_repeat(each) and each.seconds >= 0.5 for each in tries)
    (user,) = eventually(lambda: users(atlas, "binding_id", binding_id))
    with ThreadPoolExecutor() as threads:
        third = threads.submit(client.bind, instance, binding_id, fields=KUBERNETES, accepts_incomplete=None)
        release(atlas)
    assert third.result().status == 201
    assert third.result().json["credentials"]["username"] == user["username"]
    assert hasty.bind(instance, binding_id, fields=KUBERNETES, accepts_incomplete=None).status == 200
    assert client.unbind(instance, binding_id).status == 202


@pytest.mark.rule("0.15")
def test_every_verb_of_service_catalog_is_told_to_repeat(hasty: OsbClient, client: OsbClient, atlas: Emulator) -> None:
    atlas.put_cluster("being-created", state="CREATING")
    held, changed = new_id(), new_id()
    create = partial(hasty.provision, held, {"cluster": "being-created"}, accepts_incomplete=None)
    assert _is_told_to_repeat(create(fields=KUBERNETES))
    client.provision(changed, ON_CLUSTER, fields=KUBERNETES)
    client.wait(changed)
    binding_id, _ = held_bind(client, atlas, changed)
    update = partial(hasty.update, changed, {"policy-on-delete": "drop"}, accepts_incomplete=None)
    assert _is_told_to_repeat(update(fields=KUBERNETES))
    assert _is_told_to_repeat(update())  # by the context of the instance
    release(atlas)
    client.wait(changed)
    client.wait(changed, binding_id)
    assert update().status == 200
    atlas.apply_by_hand()
    assert _is_told_to_repeat(hasty.unbind(changed, binding_id, accepts_incomplete=None))  # by that, too
    assert _is_told_to_repeat(hasty.deprovision(changed, accepts_incomplete=None))
    release(atlas)
    client.wait(changed)
    assert hasty.deprovision(changed, accepts_incomplete=None).status == 410


@pytest.mark.rule("0.15", "1.1.3")
@pytest.mark.parametrize(("identity", "status"), [("kubernetes e30=", 422), ("cloudfoundry e30=", 504), (None, 504)])
def test_the_originating_identity_tells_the_platform_of_an_unbind(
    hasty: OsbClient, atlas: Emulator, instance: str, identity: str | None, status: int
) -> None:
    binding_id = bound(hasty, instance)
    atlas.apply_by_hand()
    headers = {"X-Broker-API-Originating-Identity": identity}
    with hasty.expecting(504):
        answer = hasty.unbind(instance, binding_id, accepts_incomplete=None, headers=headers)
    release(atlas)
    assert answer.status == status
    assert status == 504 or _is_told_to_repeat(answer)


@pytest.mark.rule("0.15", "1.7.8")
def test_what_failed_between_two_tries_is_told_once_and_then_tried_anew(
    hasty: OsbClient, client: OsbClient, atlas: Emulator, state: Documents
) -> None:
    """Without it what fails more slowly than a request waits would begin again for ever, and never say why."""
    atlas.put_cluster("being-created", state="CREATING")
    instance_id = new_id()

    def create(platform: OsbClient) -> Answer:
        parameters = {"cluster": "being-created"}
        return platform.provision(instance_id, parameters, fields=KUBERNETES, accepts_incomplete=None)

    assert _is_told_to_repeat(create(hasty))
    atlas.delete_cluster("being-created")
    state.update_one({"instance_id": instance_id}, {"$currentDate": {"operation.due": True}})
    eventually(lambda: state.find_one({"instance_id": instance_id, "phase": "failed", "operation.open": False}))
    told = create(hasty)
    assert (told.status, "being-created" in told.description) == (400, True)
    atlas.put_cluster("being-created")
    assert create(client).status == 201


@pytest.mark.rule("0.15", "1.9.2")
def test_an_update_that_failed_between_two_tries_is_told_once(
    hasty: OsbClient, client: OsbClient, atlas: Emulator, state: Documents
) -> None:
    instance_id = provisioned(client)
    binding_id, _ = held_bind(client, atlas, instance_id)

    def change(platform: OsbClient) -> Answer:
        parameters = {"connection": "private"}
        return platform.update(instance_id, parameters, fields=KUBERNETES, accepts_incomplete=None)

    assert _is_told_to_repeat(change(hasty))
    release(atlas)
    client.wait(instance_id, binding_id)
    eventually(
        lambda: state.find_one({"instance_id": instance_id, "operation.kind": "update", "operation.open": False})
    )
    failed = client.last_operation(instance_id)
    assert failed.state == "failed"
    with hasty.expecting(500):
        told = change(hasty)
    assert told.description == failed.description
    with client.expecting(500):
        again = change(client)
    assert client.last_operation(instance_id).description == again.description
