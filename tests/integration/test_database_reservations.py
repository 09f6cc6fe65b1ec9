"""The documents that say which instances have which database: every step holds when it is done twice."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from broker_api.state.database_reservations import ReservationRequest, Reservations
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.records import Instance, Operation, Phase
from broker_api.state.store import Store
from tests.dev.services import Mongod
from tests.tenant import together

Documents = MongoClient[dict[str, Any]]


@pytest.fixture
def documents(state_mongod: Mongod) -> Iterator[Documents]:
    with connect(state_mongod.uri, 20_000) as client:
        yield client


@pytest.fixture
def reserved(documents: Documents) -> Reservations:
    return Reservations(Housekeeping(Store(documents, f"reservations-{uuid4().hex}", "instances")))


def instance(name: str, owner: str = "a", database: str = "orders") -> Instance:
    return Instance(
        key=f"instance/{name}",
        instance_id=name,
        organization_guid=owner,
        space_guid="s",
        phase=Phase.CREATING,
        operation=Operation(id="provision-1", kind="provision"),
        project="p",
        cluster="c",
        database=database,
    )


def reserve(
    reserved: Reservations, who: Instance, *, owned: bool = True, used: bool = False, sharing: bool = False
) -> bool:
    """Reserve a database once more than needed; return whether that succeeded."""
    wanted = ReservationRequest(who, who.owner, owned, used=used, sharing=sharing)
    first, second = reserved.reserve(wanted), reserved.reserve(wanted)
    assert first == second
    return who.instance_id in second.instance_ids


def test_a_reservation_keeps_the_name_for_its_owner_in_one_spelling(reserved: Reservations) -> None:
    one, two = instance("1"), instance("2")
    assert reserve(reserved, one)
    assert reserve(reserved, two, owned=False)
    assert not reserve(reserved, instance("3", "b"))
    assert not reserve(reserved, instance("4", database="Orders"))
    assert reserve(reserved, instance("5", "b"), sharing=True)
    found = reserved.find(instance("6", database="ORDERS"))
    assert found
    assert (found.name, found.owner, found.owned, set(found.instance_ids)) == (
        "orders",
        ("a", "s"),
        True,
        {"1", "2", "5"},
    )


def test_an_instance_that_names_the_owner_whom_an_earlier_release_knew_does_not_join_it(
    reserved: Reservations,
) -> None:
    mine, theirs = instance("1"), instance("2", "b")
    reserve(reserved, mine)
    found = reserved.reserve(ReservationRequest(theirs, mine.owner, owned=True))
    assert found.instance_ids == ("1",)


def test_one_of_many_reservations_at_once_succeeds(reserved: Reservations) -> None:
    asked = [instance(str(number), f"owner-{number}", "Orders" if number % 2 else "orders") for number in range(8)]
    assert sum(together(*(lambda who=who: reserve(reserved, who) for who in asked))) == 1


def test_a_reservation_that_is_withdrawn_leaves_nothing(reserved: Reservations) -> None:
    one = instance("1")
    reserve(reserved, one)
    for _ in range(2):
        reserved.withdraw(one)
        assert reserved.find(one) is None
    assert reserve(reserved, instance("2", "b"))
    reserved.withdraw(one)
    assert not reserve(reserved, one)


@pytest.mark.parametrize("others", ["joined and is there", "joined and has left", "came before"])
def test_a_reservation_that_others_have_joined_is_remembered_when_it_is_withdrawn(
    reserved: Reservations, others: str
) -> None:
    one, two = instance("1"), instance("2")
    reserve(reserved, one, used=others == "came before")
    if others != "came before":
        reserve(reserved, two)
    if others == "joined and has left":
        reserved.leave(two)
    reserved.withdraw(one)
    reserved.withdraw(one)
    assert not reserve(reserved, instance("3", "b"))


def test_what_an_instance_left_behind_is_remembered_also_when_its_id_comes_again_and_fails(
    reserved: Reservations,
) -> None:
    one = instance("1")
    reserve(reserved, one)
    reserved.leave(one)
    reserved.leave(one)
    assert reserve(reserved, one)
    reserved.withdraw(one)
    assert not reserve(reserved, instance("2", "b"))
    found = reserved.find(one)
    assert found
    assert (found.owned, found.instance_ids) == (True, ())


def test_a_database_that_is_being_dropped_takes_no_new_user(reserved: Reservations) -> None:
    one, two = instance("1"), instance("2")
    reserve(reserved, one)
    assert reserved.begin_drop(one, [])
    assert reserved.begin_drop(one, [])
    assert not reserve(reserved, two)
    reserved.end_drop(one, "1")
    assert reserve(reserved, two)
    assert not reserved.begin_drop(one, [])
    assert reserved.begin_drop(one, ["2"])
    assert not reserved.begin_drop(two, ["1"])


def test_a_dropped_name_is_free_for_all_and_a_late_repetition_does_no_harm(reserved: Reservations) -> None:
    one, theirs = instance("1"), instance("2", "b", "ORDERS")
    reserve(reserved, one)
    reserved.begin_drop(one, [])
    reserved.dropped(one)
    reserved.dropped(one)
    found = reserved.find(one)
    assert found
    assert (found.dropped, found.instance_ids) == (True, ())
    assert not reserved.begin_drop(one, [])
    assert reserve(reserved, theirs, owned=False)
    for late in (reserved.dropped, reserved.leave, reserved.withdraw):
        late(one)
    found = reserved.find(theirs)
    assert found
    assert (found.dropped, found.owner, found.owned, found.instance_ids) == (False, ("b", "s"), False, ("2",))


def test_of_two_that_leave_both_drop_before_the_name_is_free(reserved: Reservations) -> None:
    one, two = instance("1"), instance("2")
    reserve(reserved, one)
    reserve(reserved, two)
    assert reserved.begin_drop(one, ["2"])
    reserved.dropped(one)
    assert not reserve(reserved, instance("3", "b"))
    assert reserved.begin_drop(two, [])
    reserved.dropped(two)
    assert reserve(reserved, instance("3", "b"))
