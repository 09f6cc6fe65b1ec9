"""Section 4 and the gotchas of section 8: what an answer of Atlas does to an operation."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from broker_api.state.records import EPOCH, binding_key
from tests.atlas.broker import MAIN, USERS, Broker, foreign_user, log_in, new_id
from tests.books import call_users
from tests.emulator.client import Emulator
from tests.osb_client import Json
from tests.tenant import eventually


@pytest.fixture(scope="module")
def instance(_broker: Broker) -> str:
    return _broker.instance(_broker.cluster())


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 500},
        {"status": 503, "html": True},
        {"status": 405, "error_code": "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES"},
        {"status": 409, "error_code": "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION"},
        {"status": 403, "error_code": "IP_ADDRESS_NOT_ON_ACCESS_LIST"},
        {"drop": "before"},
        {"drop": "after"},
        {"status": 500, "act": True},
        {"status": 200, "html": True},
    ],
    ids=str,
)
def test_a_bind_survives(broker: Broker, instance: str, rule: Json) -> None:
    binding = new_id()
    broker.atlas.rule(method="POST", path="/databaseUsers$", body=binding, times=1, **rule)
    log_in(broker.bind(instance, binding_id=binding))
    assert len([user for user in broker.atlas.users(MAIN) if user["username"] == binding]) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ATLAS_INVALID_USERNAME"),
        (400, "COMMON_PASSWORD"),
        (400, "ATLAS_INVALID_ROLE"),
        (400, "EXPIRATION_DATE_IN_PAST"),
        (400, "DATABASE_NAME_INVALID_ADMIN"),
        (400, "MISSING_ATTRIBUTE"),
        (403, "COLLECTION_ROLES_LIMIT_EXCEEDED"),
    ],
)
def test_a_bind_fails_at_once_with_atlass_reason(broker: Broker, instance: str, status: int, code: str) -> None:
    binding = new_id()
    broker.atlas.fail("POST", "/databaseUsers$", body=binding, times=None, status=status, error_code=code)
    mark = broker.mark()
    assert f"({status} {code})" in broker.failed_bind(instance, binding_id=binding)
    assert len(broker.posts(mark)) == 1
    assert broker.user(binding) is None


def test_a_name_that_somebody_elses_user_has_fails_and_that_user_is_not_touched(broker: Broker, instance: str) -> None:
    with foreign_user(broker.atlas, "cluster-dev") as name:
        before = broker.user(name)
        sentence = f"A database user {name} exists in the Atlas project and was not made for this binding."
        assert broker.failed_bind(instance, binding_id=name) == sentence
        assert broker.user(name) == before


@pytest.mark.parametrize(("status", "in_doubt"), [(500, False), (502, True), (503, False), (504, True)])
def test_a_gateway_does_not_know_whether_a_user_is_going_to_be_created(
    broker: Broker, instance: str, status: int, *, in_doubt: bool
) -> None:
    binding = new_id()
    broker.atlas.fail("POST", "/databaseUsers$", body=binding, status=status)
    log_in(broker.bind(instance, binding_id=binding))
    found = broker.context.store.binding(instance, binding)
    assert found
    assert bool(found.unsure_until) == in_doubt


def test_a_user_of_another_broker_with_the_same_ids_is_not_touched(broker: Broker, instance: str) -> None:
    name = new_id()
    ids = {"atlas-broker": "the id of another broker", "instance_id": instance, "binding_id": name}
    with foreign_user(broker.atlas, "cluster-dev", name, ids):
        before = broker.user(name)
        assert "was not made for this binding" in broker.failed_bind(instance, binding_id=name)
        assert broker.user(name) == before


def test_an_unbind_removes_its_user_after_the_broker_has_got_a_new_id(broker: Broker, instance: str) -> None:
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    user = broker.user(binding)
    assert user
    others = [each for each in user["labels"] if each["key"] != "atlas-broker"]
    labels = [{"key": "atlas-broker", "value": "the id that was lost"}, *others]
    call_users(broker.atlas, "PATCH", f"/admin/{binding}", {"labels": labels})
    broker.unbind(instance, binding)
    assert broker.user(binding) is None


@pytest.mark.parametrize(
    "rule",
    [{"status": 500}, {"drop": "after"}, {"status": 503, "html": True}, {"status": 200, "html": True}],
    ids=str,
)
def test_a_delete_is_repeated_until_the_user_is_really_gone(broker: Broker, instance: str, rule: Json) -> None:
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    broker.atlas.rule(method="DELETE", path=binding, times=1, **rule)
    broker.unbind(instance, binding)
    assert broker.user(binding) is None


def test_404_of_a_project_is_not_404_of_the_user(broker: Broker, instance: str) -> None:
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    broker.atlas.fail("DELETE", binding, status=404, error_code="GROUP_NOT_FOUND")
    broker.client.unbind(instance, binding)
    assert "(404 GROUP_NOT_FOUND)" in broker.failure(instance, binding)
    assert broker.user(binding)
    broker.unbind(instance, binding)
    assert broker.user(binding) is None


@pytest.mark.parametrize(("status", "code"), [(401, "NOT_IN_GROUP"), (403, "ORG_REQUIRES_ACCESS_LIST")])
def test_a_refused_key_is_never_read_as_gone(
    broker: Broker, atlas: Emulator, instance: str, status: int, code: str
) -> None:
    """An expired key's 401 was once read as "the user is gone"."""
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    atlas.fail("DELETE", binding, status=status, error_code=code, times=None)
    broker.client.unbind(instance, binding)
    refused = "Atlas refuses the broker's key"
    eventually(lambda: refused in broker.client.last_operation(instance, binding).description)
    assert broker.in_progress(instance, binding)
    assert broker.user(binding)
    atlas.heal()
    assert broker.client.wait(instance, binding).state in ("succeeded", "gone")
    assert broker.user(binding) is None


def test_an_unknown_field_of_an_instance_is_no_secret_in_a_log(broker: Broker, instance: str) -> None:
    credentials = broker.bind(instance, {"remark": "nobody-else-should-read-this"})
    assert credentials["password"] not in broker.logs()
    assert "nobody-else-should-read-this" not in broker.logs()


def test_429_with_retry_after_is_honoured(broker: Broker, instance: str) -> None:
    binding, mark = new_id(), broker.mark()
    headers = {"Retry-After": "4"}
    broker.atlas.rule(method="POST", path="/databaseUsers$", body=binding, times=1, status=429, headers=headers)
    log_in(broker.bind(instance, binding_id=binding))
    first, second = broker.posts(mark)
    assert (first["status"], second["status"]) == (429, 201)
    assert second["start"] - first["end"] >= 4


def test_429_without_retry_after_is_no_storm(broker: Broker, instance: str) -> None:
    mark = broker.mark()
    broker.atlas.limit_rate("POST", "/databaseUsers$", times=2)
    log_in(broker.bind(instance))
    posts = broker.posts(mark)
    assert [call["status"] for call in posts] == [429, 429, 201]
    assert posts[2]["start"] - posts[0]["start"] >= 0.7  # two pauses, the second one twice as long


@pytest.mark.parametrize(("refusals", "state"), [(0, "succeeded"), (12, "failed")])
def test_only_500s_in_a_row_are_a_refusal(broker: Broker, instance: str, refusals: int, state: str) -> None:
    """A 500 after an outage of many attempts is not."""
    rule = broker.atlas.limit_rate("POST", "/databaseUsers$", times=None)
    binding = broker.start_bind(instance)
    key, records = {"_id": binding_key(instance, binding)}, broker.context.store.collection
    waits = {"operation.attempts": {"$gt": 0}, "operation.lease_token": None}
    later = {"due": datetime.now(UTC) + timedelta(hours=1), "attempts": 50, "refusals": refusals}
    outage = {"$set": {f"operation.{name}": value for name, value in later.items()}}
    eventually(lambda: records.update_one({**key, **waits}, outage).modified_count, "Atlas has refused once")
    broker.atlas.heal(rule)
    broker.atlas.fail("POST", "/databaseUsers$", body=binding)
    records.update_one(key, {"$set": {"operation.due": EPOCH}})
    assert broker.client.wait(instance, binding).state == state


def test_a_500_that_never_ends_is_refused_in_disguise_when_others_succeed(
    broker: Broker, instance: str, *, long_form: bool
) -> None:
    """Some bad inputs give 500 (a wrong databaseName did): retries of it are counted."""
    if not long_form:
        pytest.skip("with --long: takes two minutes")
    binding, mark = new_id(), broker.mark()
    broker.atlas.fail("POST", "/databaseUsers$", body=binding, times=None)
    broker.start_bind(instance, binding_id=binding)
    deadline = time.monotonic() + 300
    while broker.in_progress(instance, binding):
        assert time.monotonic() < deadline
        log_in(broker.bind(instance))
    assert "(500 UNEXPECTED_ERROR)" in broker.failure(instance, binding)
    failed = [call for call in broker.calls(mark) if call["status"] == 500 and call["template"] == USERS]
    assert 10 <= len(failed) <= 16
