"""Which slot a binding gets."""

from functools import cache
from random import Random

import pytest

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.config import Config
from broker_api.errors import BadRequest, SettingError
from broker_api.service.binding_quota import free_slot


@cache
def plan(quota: object) -> Plan:
    config = Config(None, None)
    config.broker["plans"][0]["max_bindings"] = quota
    (made,) = Catalog(config).plans.values()
    return made


@pytest.mark.parametrize(("quota", "most"), [("half", 20), (0, 0), (1, 1), (7, 7)])
def test_an_instance_has_as_many_bindings_as_its_plan_allows_and_one_more_for_a_rotation(
    quota: object, most: int
) -> None:
    taken = set[int]()
    for _ in range(most):
        slot = free_slot(plan(quota), 40, taken, rotates=False)
        assert slot in range(most)
        assert slot not in taken
        taken.add(slot)
    with pytest.raises(BadRequest, match=f"has {most} bindings, and its plan .* allows {most}\\."):
        free_slot(plan(quota), 40, taken, rotates=False)
    taken.add(free_slot(plan(quota), 40, taken, rotates=True))
    with pytest.raises(BadRequest):
        free_slot(plan(quota), 40, taken, rotates=True)


@pytest.mark.parametrize("seed", range(20))
def test_concurrent_requests_cannot_exceed_a_quota_that_was_greater_before(seed: int) -> None:
    random = Random(seed)
    taken = set(random.sample(range(30), random.randint(0, 12)))
    before, quota = len(taken), 10
    given = set[int]()
    for _ in range(200):  # none of them sees what the others choose; the index lets one of each slot through
        if before < quota:
            given.add(free_slot(plan(quota), 100, taken, rotates=False))
    assert len(taken | given) == max(before, quota)
    assert not taken & given


def test_without_a_quota_a_slot_is_one_of_many() -> None:
    slots = {free_slot(plan("none"), 100, set(range(1000)), rotates=False) for _ in range(1000)}
    assert len(slots) == 1000


def test_without_max_bindings_the_quota_is_half_of_the_users_that_atlas_allows_if_it_tells() -> None:
    (default,) = Catalog(Config(None, None)).plans.values()
    assert free_slot(default, 4, {0}, rotates=False) == 1
    with pytest.raises(BadRequest, match=r"has 2 bindings, and its plan .* allows 2\."):
        free_slot(default, 4, {0, 1}, rotates=False)
    assert free_slot(default, 1, set(), rotates=False) == 0
    for unknown in (None, 0):
        assert free_slot(default, unknown, set(range(1000)), rotates=False) not in range(1000)


def test_a_plan_that_was_removed_and_had_no_quota_when_it_was_stored_has_none() -> None:
    removed = Catalog(Config(None, None)).plan_of("service", "removed", {})
    assert free_slot(removed, 4, set(range(4)), rotates=False) not in range(4)


@pytest.mark.parametrize("quota", [-1, "all", 1.5])
def test_a_quota_of_another_form_is_refused(quota: object) -> None:
    with pytest.raises(SettingError, match="max_bindings"):
        plan(quota)
