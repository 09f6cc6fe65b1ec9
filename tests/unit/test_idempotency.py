"""How a repeated request is answered, by what is stored."""

from typing import Any

import pytest

from broker_api.errors import ConcurrencyError, Conflict
from broker_api.service.idempotency import repeated_create, repeated_delete, repeated_update, require_restored
from broker_api.service.schemas import Accepted, Complete
from broker_api.state.records import Binding, Instance, Kind

ASKED = {
    "service_id": "s",
    "plan_id": "p",
    "organization_guid": "o",
    "space_guid": "sp",
    "parameters": {"cluster": "c", "n": 1},
    "context": {"platform": "x"},
    "maintenance_version": "2.0.0",
}
BIND = {"service_id": "s", "plan_id": "p", "app_guid": "a", "bind_resource": {"app_guid": "a"}, "predecessor": None}


def operation(kind: str = "provision", state: str = "succeeded", **more: object) -> dict[str, Any]:
    return {"id": f"{kind}-1", "kind": kind, "state": state, "open": state == "in progress", **more}


def an_instance(phase: str = "ready", **fields: Any) -> Instance:  # noqa: ANN401 - of any type
    stored = {
        "service_id": "s",
        "plan_id": "p",
        "organization_guid": "o",
        "space_guid": "sp",
        "parameters": '{"cluster":"c","n":1}',
        "operation": operation(),
    }
    return Instance.model_validate({"_id": "instance/i", "instance_id": "i", "phase": phase, **stored, **fields})


def a_binding(**fields: Any) -> Binding:  # noqa: ANN401 - of any type
    stored = {"service_id": "s", "plan_id": "p", "app_guid": "a", "bind_resource": '{"app_guid":"a"}'}
    ids = {"_id": "binding/i/b", "instance_id": "i", "binding_id": "b"}
    return Binding.model_validate({**ids, "phase": "ready", "operation": operation("bind"), **stored, **fields})


@pytest.mark.parametrize(
    ("phase", "answer"),
    [("creating", Accepted("provision-1")), ("ready", Complete()), ("failed", None), ("gone", None)],
)
def test_an_identical_create_is_answered_by_what_is_there(phase: str, answer: Accepted | Complete | None) -> None:
    assert repeated_create(an_instance(phase), ASKED) == answer


def test_contexts_and_maintenance_versions_may_differ() -> None:
    assert repeated_create(an_instance(maintenance_version="1.0.0"), ASKED | {"context": {}}) == Complete()


@pytest.mark.parametrize("name", ["service_id", "plan_id", "organization_guid", "space_guid", "parameters"])
@pytest.mark.parametrize("phase", ["creating", "ready", "failed"])
def test_a_create_with_another_attribute_is_a_conflict(phase: str, name: str) -> None:
    with pytest.raises(Conflict, match="other attributes"):
        repeated_create(an_instance(phase), {**ASKED, name: {"cluster": "other"}})


def test_true_is_not_1_and_1_0_is() -> None:
    assert repeated_create(an_instance(), ASKED | {"parameters": {"cluster": "c", "n": 1.0}}) == Complete()
    with pytest.raises(Conflict):
        repeated_create(an_instance(), ASKED | {"parameters": {"cluster": "c", "n": True}})


@pytest.mark.parametrize("name", ["service_id", "plan_id", "parameters", "app_guid", "bind_resource", "predecessor"])
def test_a_bind_with_another_attribute_is_a_conflict(name: str) -> None:
    assert repeated_create(a_binding(), BIND | {"parameters": {}}) == Complete()
    with pytest.raises(Conflict):
        repeated_create(a_binding(), {**BIND, "parameters": {}, name: {"other": "value"}})


def test_owners_are_not_compared_where_none_were_kept() -> None:
    legacy = an_instance(legacy=True, organization_guid="", space_guid="")
    assert repeated_create(legacy, ASKED) == Complete()


def test_a_create_of_what_is_being_deleted_waits_and_of_what_was_not_removed_is_a_conflict() -> None:
    with pytest.raises(ConcurrencyError):
        repeated_create(an_instance("deleting", operation=operation("deprovision", "in progress")), ASKED)
    with pytest.raises(Conflict, match="removal has failed"):
        repeated_create(an_instance("deleting", operation=operation("deprovision", "failed")), ASKED)


def test_a_create_waits_until_the_cluster_of_a_failed_one_is_removed() -> None:
    undoing = operation("provision", "failed") | {"open": True}
    with pytest.raises(ConcurrencyError):
        repeated_create(an_instance("failed", operation=undoing, cluster_operation="o"), ASKED)
    assert repeated_create(an_instance("failed", operation=undoing), ASKED) is None
    assert repeated_create(a_binding(phase="failed", operation=undoing), BIND | {"parameters": {}}) is None


@pytest.mark.parametrize("kind", ["update", "deprovision"])
def test_an_update_waits_until_a_failed_operation_has_restored_the_cluster(kind: str) -> None:
    undoing = operation(kind, "failed", request="{1}") | {"open": True}
    with pytest.raises(ConcurrencyError):
        require_restored(an_instance(operation=undoing, cluster_operation="o"))
    require_restored(an_instance(operation=undoing))


def test_only_an_identical_update_joins_the_running_one() -> None:
    running = an_instance(operation=operation("update", "in progress", request="{1}"))
    assert repeated_update(running, "{1}") == Accepted("update-1")
    with pytest.raises(ConcurrencyError):
        repeated_update(running, "{2}")
    assert repeated_update(an_instance(), "{1}") is None


@pytest.mark.parametrize(
    ("kind", "state", "answer"),
    [
        ("deprovision", "in progress", Accepted("deprovision-1")),
        ("provision", "in progress", None),
        ("deprovision", "failed", None),
        ("update", "succeeded", None),
    ],
)
def test_a_delete_joins_a_delete_and_stops_a_create(kind: str, state: str, answer: Accepted | None) -> None:
    assert repeated_delete(an_instance(operation=operation(kind, state)), Kind.DEPROVISION) == answer


@pytest.mark.parametrize("kind", ["update", "of-another-release"])
def test_a_delete_does_not_stop_anything_else(kind: str) -> None:
    with pytest.raises(ConcurrencyError):
        repeated_delete(an_instance(operation=operation(kind, "in progress")), Kind.DEPROVISION)
