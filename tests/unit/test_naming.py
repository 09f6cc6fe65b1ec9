from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_api.naming import MAX_DATABASE_BYTES, database_name, database_problem, username
from broker_api.state.records import binding_key, instance_key

ids = st.text(min_size=1, max_size=255)


def test_plain_ids_make_the_names_of_the_seed() -> None:
    plain = str(uuid4())
    assert database_name(plain) == f"instance-{plain}"
    assert username(plain) == plain


@given(ids)
def test_any_id_makes_a_database_name_that_mongodb_takes(instance_id: str) -> None:
    name = database_name(instance_id)
    assert database_problem(name) is None
    assert name.startswith("instance-")


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
