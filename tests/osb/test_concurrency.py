"""What happens at the same moment, on real processes: two APIs and two workers."""

from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.steps import ON_CLUSTER, bound, held_bind, new_id, provisioned, release, statuses, users
from tests.osb_client import Answer, Json, OsbClient
from tests.tenant import eventually, together

MANY, RACES = 16, 8
Documents = Collection[dict[str, Any]]
Call = Callable[[OsbClient], Answer]


@pytest.fixture
def platforms(client: OsbClient, one_process: OsbClient) -> list[OsbClient]:
    """Two, each talking to a server of the API of its own."""
    return [client, one_process]


def _together(platforms: list[OsbClient], calls: list[Call]) -> list[Answer]:
    """The calls at the same moment, in turns over the platforms."""
    return together(*[partial(call, platform) for call, platform in zip(calls, cycle(platforms), strict=False)])


@pytest.mark.rule("1.7.14", "1.7.3")
def test_16_identical_provisions_are_one_operation(
    platforms: list[OsbClient], atlas: Emulator, state: Documents
) -> None:
    atlas.put_cluster("being-created", state="CREATING")
    instance_id = new_id()

    def same(api: OsbClient) -> Answer:
        return api.provision(instance_id, {"cluster": "being-created"})

    answers = _together(platforms, [same] * MANY)
    assert statuses(answers) == [202] * MANY
    assert len({answer.operation for answer in answers}) == 1
    assert state.count_documents({"instance_id": instance_id}) == 1


def _provision(instance_id: str, number: int) -> Call:
    return lambda api: api.provision(instance_id, {"cluster": "being-created", "number": number})


@pytest.mark.rule("1.7.14", "1.7.5")
def test_16_different_provisions_of_one_id_are_one_202_and_fifteen_409(
    platforms: list[OsbClient], atlas: Emulator
) -> None:
    atlas.put_cluster("being-created", state="CREATING")
    instance_id = new_id()
    answers = _together(platforms, [_provision(instance_id, number) for number in range(MANY)])
    assert statuses(answers) == [202] + [409] * (MANY - 1)


@pytest.mark.rule("1.10.2", "1.7.14")
def test_16_identical_binds_are_one_operation_and_one_user(
    platforms: list[OsbClient], atlas: Emulator, instance: str, state: Documents
) -> None:
    atlas.apply_by_hand()
    atlas.forget_calls()
    binding_id = new_id()

    def same(api: OsbClient) -> Answer:
        return api.bind(instance, binding_id)

    answers = _together(platforms, [same] * MANY)
    assert statuses(answers) == [202] * MANY
    assert len({answer.operation for answer in answers}) == 1
    assert state.count_documents({"binding_id": binding_id}) == 1
    eventually(lambda: users(atlas, "binding_id", binding_id))
    release(atlas)
    assert platforms[0].wait(instance, binding_id).state == "succeeded"
    fetched = _together(platforms, [same] * MANY)
    assert statuses(fetched) == [200] * MANY
    assert len({answer.json["credentials"]["password"] for answer in fetched}) == 1
    assert atlas.counts()["POST /groups/{groupId}/databaseUsers"] == 1


def _bind(instance: str, binding_id: str, number: int) -> Call:
    return lambda api: api.bind(instance, binding_id, {"number": number})


@pytest.mark.rule("1.10.4", "1.7.14")
def test_16_different_binds_of_one_id_are_one_202_and_fifteen_409(
    platforms: list[OsbClient], atlas: Emulator, instance: str
) -> None:
    atlas.apply_by_hand()
    binding_id = new_id()
    answers = _together(platforms, [_bind(instance, binding_id, number) for number in range(MANY)])
    assert statuses(answers) == [202] + [409] * (MANY - 1)
    release(atlas)
    assert platforms[0].wait(instance, binding_id).state == "succeeded"


@pytest.mark.rule("1.13.2")
def test_16_deletes_are_one_operation(platforms: list[OsbClient], atlas: Emulator) -> None:
    instance_id = provisioned(platforms[0])
    binding_id = bound(platforms[0], instance_id)
    atlas.apply_by_hand()
    unbinds = _together(platforms, [lambda api: api.unbind(instance_id, binding_id)] * MANY)
    deletes = _together(platforms, [lambda api: api.deprovision(instance_id)] * MANY)
    for answers in (unbinds, deletes):
        assert statuses(answers) == [202] * MANY
        assert len({answer.operation for answer in answers}) == 1
    release(atlas)
    assert platforms[0].wait(instance_id).state == "succeeded"


@pytest.mark.rule("1.9.2", "1.9.7")
def test_16_different_updates_are_one_202_and_fifteen_422(platforms: list[OsbClient], atlas: Emulator) -> None:
    instance_id = provisioned(platforms[0])
    held_bind(platforms[0], atlas, instance_id)
    different: list[Call] = [
        partial(lambda api, number: api.update(instance_id, {"number": number}), number=number)
        for number in range(MANY)
    ]
    answers = _together(platforms, different)
    assert statuses(answers) == [202] + [422] * (MANY - 1)
    assert {answer.json["error"] for answer in answers if answer.status == 422} == {"ConcurrencyError"}
    release(atlas)


def _race(platforms: list[OsbClient], instance_id: str, binding_id: str) -> list[Answer]:
    return _together(
        platforms,
        [lambda api: api.bind(instance_id, binding_id), lambda api: api.deprovision(instance_id)],
    )


@pytest.mark.rule("0.8", "1.13.9", "1.14.1")
def test_a_bind_that_races_a_deprovision_leaves_nothing_whoever_wins(
    platforms: list[OsbClient], atlas: Emulator, state: Documents, *, long_form: bool
) -> None:
    for turned in islice(cycle([platforms, platforms[::-1]]), 10 if long_form else 2):
        instances = together(*[partial(provisioned, platforms[0]) for _ in range(RACES)])
        bindings = [new_id() for _ in instances]
        raced = together(*[partial(_race, turned, *pair) for pair in zip(instances, bindings, strict=True)])
        for instance_id, binding_id, (bind, deprovision) in zip(instances, bindings, raced, strict=True):
            assert bind.status in (202, 404, 422), bind.text
            assert deprovision.status == 202
            assert platforms[0].wait(instance_id).state == "succeeded"
            if bind.status == 202:
                ended = platforms[0].wait(instance_id, binding_id, bind.operation)
                assert ended.state in ("failed", "succeeded")
            assert platforms[0].binding(instance_id, binding_id).status == 404
            assert not users(atlas, "instance_id", instance_id)
        eventually(partial(_all_over, state, instances))


def _all_over(state: Documents, instances: list[str]) -> bool:
    live = {"phase": {"$nin": ["gone", "failed"]}}
    return not state.count_documents({"instance_id": {"$in": instances}, "$or": [live, {"operation.open": True}]})


@pytest.mark.rule("0.6", "1.13.7", "1.14.1")
def test_a_bind_that_races_its_own_unbind_leaves_nothing_or_a_working_binding(
    platforms: list[OsbClient], atlas: Emulator, instance: str
) -> None:
    bindings = [new_id() for _ in range(RACES)]

    def race(binding_id: str) -> list[Answer]:
        return _together(platforms, [lambda api: api.bind(instance, binding_id)] * 1 + [_unbind(instance, binding_id)])

    for binding_id, (bind, unbind) in zip(bindings, together(*[partial(race, each) for each in bindings]), strict=True):
        assert bind.status in (202, 422)
        assert unbind.status in (202, 410)
        ended = platforms[0].wait(instance, binding_id)
        assert ended.state == "succeeded"
        alive = platforms[0].binding(instance, binding_id).status == 200
        assert alive == (unbind.status == 410)
        assert len(users(atlas, "binding_id", binding_id)) == int(alive)


def _unbind(instance: str, binding_id: str) -> Call:
    return lambda api: api.unbind(instance, binding_id)


@pytest.mark.rule("0.6", "1.13.7", "1.13.12")
def test_a_provision_that_races_its_own_delete_ends_one_way_or_the_other(platforms: list[OsbClient]) -> None:
    def race(instance_id: str) -> list[Answer]:
        return _together(
            platforms,
            [lambda api: api.provision(instance_id, ON_CLUSTER), lambda api: api.deprovision(instance_id)],
        )

    instances = [new_id() for _ in range(RACES)]
    for instance_id, (create, delete) in zip(instances, together(*[partial(race, i) for i in instances]), strict=True):
        assert create.status in (202, 422)
        assert delete.status in (202, 410)
        assert platforms[0].wait(instance_id).state == "succeeded"
        assert platforms[0].instance(instance_id).status == (200 if delete.status == 410 else 404)


@pytest.mark.rule("1.10.7")
def test_many_binds_of_one_instance_at_once_all_come_into_being(
    platforms: list[OsbClient], atlas: Emulator, instance: str
) -> None:
    atlas.forget_calls()
    bindings = [new_id() for _ in range(MANY)]
    answers = _together(platforms, [_bind(instance, each, 0) for each in bindings])
    assert statuses(answers) == [202] * MANY
    assert {platforms[0].wait(instance, each).state for each in bindings} == {"succeeded"}
    credentials: list[Json] = [platforms[0].binding(instance, each).json["credentials"] for each in bindings]
    assert len({each["password"] for each in credentials}) == MANY
    assert atlas.counts()["POST /groups/{groupId}/databaseUsers"] == MANY
