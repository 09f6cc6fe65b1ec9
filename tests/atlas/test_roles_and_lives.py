"""Section 5: what a database user is: its names, roles, scopes, labels, and how long it lives."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from broker_api.state.records import binding_key
from tests.atlas.broker import MAIN, Broker, can_write, cancel, log_in, new_id, operation_of
from tests.atlas.operator_config import OperatorConfig
from tests.books import call_users, held, make_user, sign
from tests.emulator.client import Emulator
from tests.osb_client import Json
from tests.tenant import eventually, works


@pytest.fixture
def instance(broker: Broker) -> str:
    """On a database of its own, since several of these tests write."""
    return broker.instance(broker.cluster(), database=f"shop-{new_id()}")


def roles(broker: Broker, binding: str) -> list[Json]:
    user = broker.user(binding)
    assert user is not None
    return [{name: value for name, value in role.items() if value} for role in user["roles"]]


def roles_in_mongodb(broker: Broker, instance: str, binding: str) -> list[dict[str, str]]:
    found = broker.context.store.binding(instance, binding)
    assert found
    return found.roles


def test_a_user_is_scoped_to_the_cluster_and_labelled_with_ids_as_the_platform_knows_them(broker: Broker) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster, database="shop")
    binding = new_id()
    accepted = broker.client.bind(instance, binding)
    broker.credentials(instance, binding)
    user = broker.user(binding)
    assert user
    labels = {label["key"]: label["value"] for label in user["labels"]}
    assert labels.items() >= {"instance_id": instance, "binding_id": binding, "operation": accepted.operation}.items()
    assert user["scopes"] == [{"name": cluster, "type": "CLUSTER"}]
    assert user["databaseName"] == "admin"
    assert user["description"]


def test_credentials_have_the_keys_of_the_service_binding_specification(broker: Broker, instance: str) -> None:
    credentials = broker.bind(instance)
    assert (credentials["type"], credentials["provider"]) == ("mongodb", "atlas")


@pytest.mark.parametrize(
    ("parameters", "names", "writes"),
    [
        (None, ["dbAdmin", "readWrite"], True),
        ({"role": "readOnly"}, ["read"], False),
        ({"roles": ["readWrite"]}, ["readWrite"], True),
        ({"roles": [{"roleName": "read"}]}, ["read"], False),
    ],
)
def test_presets_and_explicit_roles(
    broker: Broker, instance: str, parameters: Json | None, names: list[str], *, writes: bool
) -> None:
    binding = broker.start_bind(instance, parameters)
    credentials = broker.credentials(instance, binding)
    assert [role["roleName"] for role in roles(broker, binding)] == names
    assert can_write(credentials) is writes


def test_a_custom_role_is_given_on_admin_and_alone(broker: Broker, instance: str) -> None:
    actions = [{"action": "FIND", "resources": [{"db": "", "collection": "", "cluster": False}]}]
    broker.atlas.put_role("reporting", actions=actions)
    binding = broker.start_bind(instance, {"roles": ["reporting"]})
    credentials = broker.credentials(instance, binding)
    assert roles(broker, binding) == [{"roleName": "reporting", "databaseName": "admin"}]
    assert works(credentials)
    assert not can_write(credentials)
    refused = broker.client.bind(instance, new_id(), {"roles": ["reporting", "read"]})
    assert refused.status == 400
    assert "A custom role (reporting) stands alone." in refused.description


def test_a_custom_role_that_the_project_does_not_have_fails_with_atlass_reason(broker: Broker) -> None:
    instance = broker.instance(broker.cluster(project="0" * 23 + "2"), project="0" * 23 + "2")
    assert "ATLAS_INVALID_ROLE" in broker.failed_bind(instance, {"roles": ["reporting"]})


def test_a_role_on_another_database_is_refused(broker: Broker, instance: str) -> None:
    sentence = broker.failed_bind(instance, {"roles": [{"roleName": "read", "databaseName": "theirs"}]})
    assert sentence.startswith("The role read is given on the database shop-")
    assert sentence.endswith("only, not on theirs.")


def test_roles_that_follow_from_an_update_reach_the_users_that_exist(broker: Broker, instance: str) -> None:
    bindings = [broker.start_bind(instance) for _ in range(3)]
    credentials = [broker.credentials(instance, binding) for binding in bindings]
    broker.atlas.apply_after(seconds=0.5)
    assert broker.client.update(instance, {"level": "reading"}).status == 202
    assert broker.client.wait(instance).state == "succeeded"
    assert not any(can_write(each) for each in credentials)
    assert all(works(each) for each in credentials)


def test_a_cancelled_update_restores_roles_also_if_the_answers_to_their_change_were_lost(
    broker: Broker, instance: str
) -> None:
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    before = roles(broker, binding)
    broker.atlas.drop("PATCH", binding, when="after", times=None)
    assert broker.client.update(instance, {"level": "reading"}).status == 202
    eventually(lambda: [role["roleName"] for role in roles(broker, binding)] == ["read"], "Atlas changes the roles")
    cancel(broker, instance)
    broker.atlas.heal()
    eventually(lambda: not operation_of(broker, instance).open, "all is restored", 30)
    assert roles(broker, binding) == before


def test_an_update_that_fails_restores_roles_that_an_earlier_one_has_left(broker: Broker, instance: str) -> None:
    """The earlier one had no time to: this one has replaced its undo."""
    left, bad = broker.start_bind(instance), broker.start_bind(instance)
    for binding in (left, bad):
        broker.credentials(instance, binding)
    before = roles(broker, left)
    call_users(broker.atlas, "PATCH", f"/admin/{left}", {"roles": [{"roleName": "read", "databaseName": "other"}]})
    key = {"_id": binding_key(instance, left)}
    with held(broker.stack) as documents:
        documents.update_one(key, {"$set": {"roles": "[]"}})
    sign(broker.stack, key)
    config = broker.context.settings.config
    assert isinstance(config, OperatorConfig)
    config.failing.add(bad)
    try:
        assert broker.client.update(instance, {"level": "reading"}).status == 202
        assert broker.client.wait(instance).state == "failed"
    finally:
        config.failing.clear()
    eventually(lambda: not operation_of(broker, instance).open, "the update has ended")
    assert roles(broker, left) == before
    assert roles_in_mongodb(broker, instance, left)


@pytest.mark.parametrize("trouble", ["hook", "Atlas"])
def test_roles_that_cannot_be_restored_do_not_keep_an_update_open(broker: Broker, instance: str, trouble: str) -> None:
    good, bad = broker.start_bind(instance), broker.start_bind(instance)
    for binding in (good, bad):
        broker.credentials(instance, binding)
    before = roles(broker, good)
    rule = broker.atlas.drop("PATCH", bad, when="after", times=None)
    assert broker.client.update(instance, {"level": "reading"}).status == 202
    eventually(lambda: roles_in_mongodb(broker, instance, bad) == [], "the roles are being changed")
    config = broker.context.settings.config
    assert isinstance(config, OperatorConfig)
    if trouble == "hook":
        config.failing.add(bad)  # which fails the update, too
        eventually(lambda: operation_of(broker, instance).undo, "the roles are being restored")
    else:
        broker.atlas.fail("PATCH", bad, times=None, status=400, error_code="ATLAS_INVALID_ROLE")
        cancel(broker, instance)
    broker.atlas.heal(rule)
    try:
        eventually(lambda: not operation_of(broker, instance).open, "the update has ended", 60)
    finally:
        config.failing.clear()
    assert roles(broker, good) == before
    assert any("roles_not_restored" in line and bad in line for line in broker.logs().splitlines())
    broker.atlas.heal()
    assert broker.client.update(instance, {"note": "of nothing that concerns roles"}).status == 202
    assert broker.client.wait(instance).state == "succeeded"
    assert roles(broker, bad) == before


@pytest.mark.parametrize("end", [timedelta(minutes=5), None], ids=["for minutes", "for ever"])
def test_a_user_that_a_bind_takes_over_lives_as_long_as_this_bind_asks_for(
    broker: Broker, instance: str, end: timedelta | None
) -> None:
    """As after a bind that was purged, whose user is still there when the platform binds again."""
    binding = new_id()
    life = {"deleteAfterDate": f"{datetime.now(UTC) + end:%Y-%m-%dT%H:%M:%SZ}"} if end else {}
    ours = [{"key": "instance_id", "value": instance}, {"key": "binding_id", "value": binding}]
    make_user(broker.atlas, binding, labels=ours, **life)
    broker.bind(instance, {"expires_in": 3600}, binding)
    user, expires = broker.user(binding), broker.client.binding(instance, binding).json["metadata"]["expires_at"]
    assert user
    assert abs(datetime.fromisoformat(user["deleteAfterDate"]) - datetime.fromisoformat(expires)) < timedelta(seconds=2)


def test_a_user_that_atlas_does_not_show_yet_is_waited_for(broker: Broker, instance: str) -> None:
    broker.atlas.drop("POST", "/databaseUsers$", when="after")
    broker.atlas.fail("GET", "/databaseUsers/admin/", times=2, status=404, error_code="USERNAME_NOT_FOUND")
    assert works(broker.bind(instance))
    broker.atlas.fail("POST", "/certs$", times=1, status=404, error_code="USERNAME_NOT_FOUND")
    assert "certificate" in broker.bind(instance, {"auth": "x509"})


def test_an_update_that_concerns_no_user_costs_no_call(broker: Broker, instance: str) -> None:
    broker.bind(instance)
    mark = broker.mark()
    broker.client.update(instance, {"policy-on-delete": "retain", "note": "unknown parameters are kept"})
    assert broker.client.wait(instance).state == "succeeded"
    assert not [call for call in broker.calls(mark) if MAIN in call["path"]]


ODD = ["a/b", "a:b", "a b", "a%2Fb", "ä€", "a+b@c", "a?b#c", "a;b=c,d", "'\"\\"]


def test_users_with_odd_names_are_made_used_and_removed(broker: Broker, instance: str) -> None:
    """Names that are encoded wrongly, or twice, made four tools fail with 404."""
    names = [f"{odd} {new_id()}" for odd in ODD]
    bindings = [broker.start_bind(instance, {"name": name}) for name in names]
    for name, binding in zip(names, bindings, strict=True):
        credentials = broker.credentials(instance, binding)
        assert credentials["username"] == name
        log_in(credentials)
        assert broker.user(name)
        broker.client.unbind(instance, binding)
    assert all(broker.client.wait(instance, binding).state in ("succeeded", "gone") for binding in bindings)
    assert not any(broker.user(name) for name in names)


def test_a_binding_id_that_no_uri_could_hold_becomes_a_plain_name(broker: Broker, instance: str) -> None:
    credentials = broker.bind(instance, binding_id=f"a/b {new_id()}?")
    assert credentials["username"].replace("-", "").isalnum()
    log_in(credentials)


# --- users that expire


def test_expires_in_becomes_the_users_end_and_the_bindings_metadata(broker: Broker, instance: str) -> None:
    binding, before = new_id(), datetime.now(UTC)
    broker.start_bind(instance, {"expires_in": 3600}, binding)
    log_in(broker.credentials(instance, binding))
    metadata = broker.client.binding(instance, binding).json["metadata"]
    expires, renew = (datetime.fromisoformat(metadata[name]) for name in ("expires_at", "renew_before"))
    assert timedelta(seconds=3590) < expires - before < timedelta(seconds=3630)
    assert timedelta(seconds=1) < expires - renew < timedelta(seconds=3600)
    user = broker.user(binding)
    assert user
    assert abs(datetime.fromisoformat(user["deleteAfterDate"]) - expires) < timedelta(seconds=2)


def test_the_longest_life_is_not_more_than_a_week_by_a_clock_that_is_behind(broker: Broker, instance: str) -> None:
    now = datetime.now(UTC)
    binding = broker.start_bind(instance, {"expires_in": 604_800})
    broker.credentials(instance, binding)
    user = broker.user(binding)
    assert user
    left = datetime.fromisoformat(user["deleteAfterDate"]) - now
    assert timedelta(days=7) - timedelta(minutes=1) < left < timedelta(days=7) - timedelta(seconds=10)


def test_more_than_a_week_is_refused_before_atlas_is_asked(broker: Broker, instance: str) -> None:
    refused = broker.client.bind(instance, new_id(), {"expires_in": 7 * 86_400 + 1})
    assert (refused.status, refused.description) == (400, "parameters.expires_in must be at most 604800.")
    log_in(broker.bind(instance, {"expires_in": 7 * 86_400}))


def test_rotation_renews_a_binding_that_expires(broker: Broker, instance: str) -> None:
    old, new = new_id(), new_id()
    broker.start_bind(instance, {"expires_in": 600}, old)
    first = broker.credentials(instance, old)
    time.sleep(1)  # ends are told in whole seconds
    assert broker.client.rotate(instance, new, old).status == 202
    second = broker.credentials(instance, new)
    ends = [broker.client.binding(instance, each).json["metadata"]["expires_at"] for each in (old, new)]
    assert ends[0] < ends[1]
    assert first["password"] != second["password"]
    log_in(first)
    log_in(second)


def test_a_binding_whose_user_atlas_has_removed_can_be_unbound(broker: Broker, instance: str, atlas: Emulator) -> None:
    """DELETE of a missing user says USER_NOT_FOUND where GET says USERNAME_NOT_FOUND: both mean done."""
    binding = broker.start_bind(instance, {"expires_in": 60})
    broker.credentials(instance, binding)
    rule = atlas.fail("DELETE", binding, status=404, error_code="USER_NOT_FOUND", act=True)
    broker.unbind(instance, binding)
    assert not [each for each in atlas.rules() if each["id"] == rule and each["times"]]


def test_an_update_of_roles_passes_over_a_binding_that_has_expired(
    broker: Broker, instance: str, atlas: Emulator
) -> None:
    """Atlas removes expired users when it likes to, and refuses changes of them until then."""
    binding = broker.start_bind(instance, {"expires_in": 60})
    broker.credentials(instance, binding)
    past = datetime.now(UTC) - timedelta(seconds=5)
    with held(broker.stack) as documents:
        documents.update_one({"_id": binding_key(instance, binding)}, {"$set": {"expires": past}})
    sign(broker.stack, {"_id": binding_key(instance, binding)})
    atlas.fail("PATCH", binding, times=None, status=400, error_code="ALREADY_EXPIRED")
    assert broker.client.update(instance, {"level": "reading"}).status == 202
    assert broker.client.wait(instance).state == "succeeded"
