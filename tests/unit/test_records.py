from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_api.errors import MissingKeyError, UndecryptableError
from broker_api.service.serializers import last_operation
from broker_api.state.encryption import Vault
from broker_api.state.mongo import In, as_datetime, assignments
from broker_api.state.new_operation import NewOperation
from broker_api.state.records import Binding, Instance, Kind, Operation, Place, State, canonical, record

texts = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def stored(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - of any type
    operation = {"id": "provision-1", "kind": "provision"}
    return {"_id": "instance/i", "instance_id": "i", "phase": "creating", "operation": operation, **fields}


def test_a_document_is_a_binding_when_it_has_a_binding_id() -> None:
    assert isinstance(record(stored()), Instance)
    assert isinstance(record(stored(binding_id="b")), Binding)


def test_fields_of_a_newer_release_are_ignored_and_missing_ones_have_defaults() -> None:
    found = record(stored(invented_later={"x": 1}))
    assert (found.parameters, found.cluster, found.operation.state) == ({}, None, State.IN_PROGRESS)


def test_an_operation_of_a_kind_that_only_a_newer_release_knows_can_be_read() -> None:
    assert Operation.model_validate({"id": "rotate-1", "kind": "rotate"}).kind == "rotate"


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        record(stored()).cluster = "other"  # type: ignore[misc]  # mypy refuses it too


@given(st.dictionaries(texts, json_values, max_size=4))
def test_what_users_chose_the_keys_of_is_kept_as_text_and_read_back_the_same(parameters: dict[str, Any]) -> None:
    kept = assignments({"parameters": parameters})["parameters"]["$literal"]
    assert isinstance(kept, str)
    assert record(stored(parameters=kept)).parameters == parameters


def test_equal_values_have_the_same_canonical_text() -> None:
    assert canonical({"a": 1, "b": {"c": 2, "d": 3}}) == canonical({"b": {"d": 3, "c": 2}, "a": 1})


def test_text_of_users_never_becomes_an_operator_or_the_name_of_a_field() -> None:
    assert assignments({"x": "$$NOW", "y": "$phase"}) == {"x": {"$literal": "$$NOW"}, "y": {"$literal": "$phase"}}


def test_times_are_told_from_the_databases_clock() -> None:
    assert assignments({"due": In(1.5)}) == {"due": {"$add": ["$$NOW", 1500]}}
    assert as_datetime(datetime(2026, 1, 1)) == datetime(2026, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - as BSON gives it
    with pytest.raises(TypeError):
        as_datetime(None)


def test_each_start_of_an_operation_has_an_id_of_its_own_that_says_its_kind() -> None:
    ids = {NewOperation(Kind.PROVISION).fields()["id"]["$literal"] for _ in range(10)}
    assert len(ids) == 10
    assert all(one.startswith("provision-") for one in ids)


def test_a_late_poll_is_answered_about_the_operation_that_it_asks_for() -> None:
    past = [{"id": "provision-0", "kind": "provision", "state": "failed", "description": "Stopped."}]
    found = record(stored(past=past))
    assert last_operation(found, "provision-0").state == "failed"
    assert last_operation(found, "provision-1").state == "in progress"
    assert last_operation(found, "forgotten").state == "in progress"


@pytest.mark.parametrize(
    ("kind", "phase", "usable"),
    [("update", "ready", True), ("deprovision", "ready", True), ("deprovision", "deleting", False)],
)
def test_a_failed_operation_says_whether_the_instance_can_still_be_used(kind: str, phase: str, *, usable: bool) -> None:
    operation = {"id": f"{kind}-1", "kind": kind, "state": "failed"}
    assert last_operation(record({**stored(operation=operation), "phase": phase}), None).instance_usable is usable


# --- encryption -------------------------------------------------------------------------------------------------

HERE = Place("binding/i/b", "secret")
OLD, NEW = "Zm9yLXRlc3RzLW9ubHktZm9yLXRlc3RzLW9ubHktMDA=", "Zm9yLXRlc3RzLW9ubHktZm9yLXRlc3RzLW9ubHktMTE="


@given(json_values)
def test_what_is_sealed_is_opened_the_same_and_not_to_be_read(value: Any) -> None:  # noqa: ANN401 - any JSON value
    vault = Vault((OLD,))
    assert vault.open(vault.seal(value, HERE), HERE) == value
    assert vault.open(vault.seal_for_all_releases(value), HERE) == value
    assert "hunter2" not in vault.seal("hunter2", HERE)


def test_the_first_key_seals_and_all_open_so_that_keys_can_be_changed() -> None:
    old, both, new = Vault((OLD,)), Vault((NEW, OLD)), Vault((NEW,))
    assert both.open(old.seal("kept", HERE), HERE) == "kept"
    assert new.open(both.seal("kept", HERE), HERE) == "kept"
    written = old.macs(HERE.document, {HERE.field: "kept"})
    assert both.macs(HERE.document, {HERE.field: "kept"}, written) == written
    for sealed in (old.seal("kept", HERE), old.seal_for_all_releases("kept")):
        with pytest.raises(MissingKeyError, match="BROKER_ENCRYPTION_KEYS"):
            new.open(sealed, HERE)
    with pytest.raises(MissingKeyError, match=old.ids[0]):
        new.macs(HERE.document, {HERE.field: "kept"}, written)


@pytest.mark.parametrize("there", [Place("binding/i/c", "secret"), Place("binding/i/b", "other")])
def test_what_is_copied_to_another_document_or_field_does_not_open(there: Place) -> None:
    vault = Vault((OLD,))
    with pytest.raises(UndecryptableError, match="copied from another document or field"):
        vault.open(vault.seal("kept", HERE), there)
    here_and_there = (vault.macs(place.document, {place.field: "kept"}) for place in (HERE, there))
    assert len({mac for macs in here_and_there for mac in macs.values()}) == 2


@given(st.integers(0, 1000), st.binary(min_size=1, max_size=4))
def test_what_was_changed_does_not_open_and_raises_nothing_else(at: int, noise: bytes) -> None:
    sealed = Vault((OLD,)).seal("kept", HERE)
    at %= len(sealed)
    changed = sealed[:at] + noise.decode("latin-1") + sealed[at + 1 :]
    assert changed == sealed or not Vault((OLD,)).opens(changed, HERE)
