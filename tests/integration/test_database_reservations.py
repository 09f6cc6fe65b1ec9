"""The documents that say which instances have which database: every step holds when it is done twice."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from broker_api.state.database_reservations import Databases, Reservation
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
def databases(documents: Documents) -> Databases:
    return Databases(Housekeeping(Store(documents, f"claims-{uuid4().hex}", "instances")))


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


def claim(
    databases: Databases, who: Instance, *, owned: bool = True, used: bool = False, sharing: bool = False
) -> bool:
    """Claim a database once more than needed; say whether that succeeded."""
    wanted = Reservation(who, who.owner, owned, used=used, sharing=sharing)
    first, second = databases.reserve(wanted), databases.reserve(wanted)
    assert first == second
    return who.instance_id in second.users


def test_a_claim_keeps_the_name_for_its_owner_in_one_spelling(databases: Databases) -> None:
    one, two = instance("1"), instance("2")
    assert claim(databases, one)
    assert claim(databases, two, owned=False)
    assert not claim(databases, instance("3", "b"))
    assert not claim(databases, instance("4", database="Orders"))
    assert claim(databases, instance("5", "b"), sharing=True)
    found = databases.find(instance("6", database="ORDERS"))
    assert found
    assert (found.name, found.owner, found.owned, set(found.users)) == ("orders", ("a", "s"), True, {"1", "2", "5"})


def test_an_instance_that_names_the_owner_whom_an_earlier_release_knew_does_not_join_it(databases: Databases) -> None:
    mine, theirs = instance("1"), instance("2", "b")
    claim(databases, mine)
    found = databases.reserve(Reservation(theirs, mine.owner, owned=True))
    assert found.users == ("1",)


def test_one_of_many_claims_at_once_succeeds(databases: Databases) -> None:
    asked = [instance(str(number), f"owner-{number}", "Orders" if number % 2 else "orders") for number in range(8)]
    assert sum(together(*(lambda who=who: claim(databases, who) for who in asked))) == 1


def test_a_claim_that_is_withdrawn_leaves_nothing(databases: Databases) -> None:
    one = instance("1")
    claim(databases, one)
    for _ in range(2):
        databases.withdraw(one)
        assert databases.find(one) is None
    assert claim(databases, instance("2", "b"))
    databases.withdraw(one)
    assert not claim(databases, one)


@pytest.mark.parametrize("others", ["joined and is there", "joined and has left", "came before"])
def test_a_claim_that_others_have_joined_is_remembered_when_it_is_withdrawn(databases: Databases, others: str) -> None:
    one, two = instance("1"), instance("2")
    claim(databases, one, used=others == "came before")
    if others != "came before":
        claim(databases, two)
    if others == "joined and has left":
        databases.leave(two)
    databases.withdraw(one)
    databases.withdraw(one)
    assert not claim(databases, instance("3", "b"))


def test_what_an_instance_left_behind_is_remembered_also_when_its_id_comes_again_and_fails(
    databases: Databases,
) -> None:
    one = instance("1")
    claim(databases, one)
    databases.leave(one)
    databases.leave(one)
    assert claim(databases, one)
    databases.withdraw(one)
    assert not claim(databases, instance("2", "b"))
    found = databases.find(one)
    assert found
    assert (found.owned, found.users) == (True, ())


def test_a_database_that_is_being_dropped_takes_no_new_user(databases: Databases) -> None:
    one, two = instance("1"), instance("2")
    claim(databases, one)
    assert databases.begin_drop(one, [])
    assert databases.begin_drop(one, [])
    assert not claim(databases, two)
    databases.end_drop(one, "1")
    assert claim(databases, two)
    assert not databases.begin_drop(one, [])
    assert databases.begin_drop(one, ["2"])
    assert not databases.begin_drop(two, ["1"])


def test_a_dropped_name_is_free_for_all_and_a_late_repetition_does_no_harm(databases: Databases) -> None:
    one, theirs = instance("1"), instance("2", "b", "ORDERS")
    claim(databases, one)
    databases.begin_drop(one, [])
    databases.dropped(one)
    databases.dropped(one)
    found = databases.find(one)
    assert found
    assert (found.dropped, found.users) == (True, ())
    assert not databases.begin_drop(one, [])
    assert claim(databases, theirs, owned=False)
    for late in (databases.dropped, databases.leave, databases.withdraw):
        late(one)
    found = databases.find(theirs)
    assert found
    assert (found.dropped, found.owner, found.owned, found.users) == (False, ("b", "s"), False, ("2",))


def test_of_two_that_leave_both_drop_before_the_name_is_free(databases: Databases) -> None:
    one, two = instance("1"), instance("2")
    claim(databases, one)
    claim(databases, two)
    assert databases.begin_drop(one, ["2"])
    databases.dropped(one)
    assert not claim(databases, instance("3", "b"))
    assert databases.begin_drop(two, [])
    databases.dropped(two)
    assert claim(databases, instance("3", "b"))
