import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_api.naming import (
    MAX_DATABASE_BYTES,
    MAX_SHARED_TIER_DATABASE_BYTES,
    database_name,
    database_problem,
    is_default_database,
    tag_value,
    username,
)
from broker_api.state.records import binding_key, instance_key

ids = st.text(min_size=1, max_size=255)


def test_plain_ids_make_the_names_of_atlasbroker_2() -> None:
    plain = str(uuid4())
    assert database_name(plain) == f"instance-{plain}"
    assert username(plain) == plain


@given(ids)
def test_any_id_makes_a_database_name_that_mongodb_takes(instance_id: str) -> None:
    name = database_name(instance_id)
    assert database_problem(name) is None
    assert name.startswith("instance-")


@given(ids)
def test_any_id_makes_a_database_name_that_fits_the_small_tiers(instance_id: str) -> None:
    name = database_name(instance_id, MAX_SHARED_TIER_DATABASE_BYTES)
    assert database_problem(name, MAX_SHARED_TIER_DATABASE_BYTES) is None
    assert name.startswith("instance-")
    assert is_default_database(name, instance_id)
    assert name == database_name(instance_id, MAX_SHARED_TIER_DATABASE_BYTES)


def test_a_short_name_of_a_small_tier_is_that_of_atlasbroker_2_and_a_long_one_stays_readable() -> None:
    limit = MAX_SHARED_TIER_DATABASE_BYTES
    assert database_name("a" * 29, limit) == "instance-" + "a" * 29
    one, other = (database_name(f"6b02f1b4-63ae-4a36-9e2d-00000000000{n}", limit) for n in (1, 2))
    assert one == "instance-6b02f1b4-63a-5196d3a9619e7fad"
    assert one != other
    assert len(one) == len(other) == 38


@given(ids)
def test_any_id_makes_a_user_name_that_needs_no_escaping_anywhere(binding_id: str) -> None:
    name = username(binding_id)
    assert 0 < len(name) <= 255
    assert name.isascii()
    assert all(letter.isalnum() or letter in "._-" for letter in name)


@given(ids, ids)
def test_two_ids_never_share_a_name(one: str, other: str) -> None:
    same = one == other
    assert (database_name(one) == database_name(other)) is same
    small = MAX_SHARED_TIER_DATABASE_BYTES
    assert (database_name(one, small) == database_name(other, small)) is same
    assert is_default_database(database_name(one), other) is same
    assert (username(one) == username(other)) is same


@given(ids, ids, ids, ids)
def test_keys_of_two_bindings_are_the_same_only_if_both_ids_are(i: str, b: str, j: str, c: str) -> None:
    assert (binding_key(i, b) == binding_key(j, c)) is ((i, b) == (j, c))
    assert instance_key(i) != binding_key(i, b)


@pytest.mark.parametrize(
    ("unsafe", "database", "user"),
    [
        ("a/b", "instance-a-b-c14cddc033f64b9d", "a-b-c14cddc033f64b9d"),
        ("a b", "instance-a-b-c8687a08aa5d6ed2", "a-b-c8687a08aa5d6ed2"),
        ("ä", "instance---33e6d73fee82904c", "--33e6d73fee82904c"),
    ],
)
def test_names_stay_the_same_in_all_releases_since_things_are_found_again_by_them(
    unsafe: str, database: str, user: str
) -> None:
    assert (database_name(unsafe), username(unsafe)) == (database, user)


@pytest.mark.parametrize("name", ["shared", "a", "Ünïcode", "x" * MAX_DATABASE_BYTES, "with-dash_and_line"])
def test_a_database_may_be_called(name: str) -> None:
    assert database_problem(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "1 to 63 bytes"),
        (None, "1 to 63 bytes"),
        (7, "1 to 63 bytes"),
        ("x" * 64, "1 to 63 bytes"),
        ("ä" * 32, "1 to 63 bytes"),
        ("admin", "belongs to MongoDB"),
        ("Local", "belongs to MongoDB"),
        ("CONFIG", "belongs to MongoDB"),
        *[(f"a{letter}b", "does not allow") for letter in '/\\. "$*<>:|?\x00'],
    ],
)
def test_a_database_may_not_be_called(name: object, says: str) -> None:
    assert says in (database_problem(name) or "")


@pytest.mark.parametrize("plain", ["0a1b-2c", "a @;_.+", "x" * 255])
def test_an_id_that_atlas_takes_is_a_tag_as_it_is(plain: str) -> None:
    assert tag_value(plain) == plain


@pytest.mark.parametrize("unsafe", ["a/b", "a:b", "ä", "x" * 256, ""])
def test_an_id_that_atlas_does_not_take_is_a_tag_with_a_digest(unsafe: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9 ;@_.+-]{1,255}", tag_value(unsafe))
    assert tag_value(unsafe) != tag_value(unsafe + "/")
