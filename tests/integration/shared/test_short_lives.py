"""Bindings with ``expires_in``: what was settled at the start is looked at again before the credentials are given."""

from datetime import UTC, datetime, timedelta

import pytest

from broker_api.state.records import EPOCH, binding_key
from tests.books import document, held, sign
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import Answer, OsbClient
from tests.tenant import Json, Tenant, eventually, works

BINDING = "short"
NEARLY_OVER = timedelta(seconds=5)


def set_end(stack: Stack, tenant: Tenant, expires: datetime, renew_before: datetime) -> None:
    """Age the stored binding: its end and its renewal come nearer."""
    fields: Json = {"expires": expires, "renew_before": renew_before}
    with held(stack) as documents:
        key = binding_key(tenant.instance_id, BINDING)
        assert documents.update_one({"_id": key}, {"$set": fields}).matched_count == 1
        sign(stack, {"_id": key})


def waiting_bind(stack: Stack, client: OsbClient, atlas: Emulator, tenant: Tenant) -> Answer:
    """A bind whose user is made and waits for the cluster."""
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, BINDING, {"expires_in": 60})
    eventually(
        lambda: document(stack, tenant.instance_id, BINDING)["operation"]["step"] == "apply",
        "the bind waits for the cluster",
    )
    return begun


@pytest.mark.parametrize("left", [-NEARLY_OVER, NEARLY_OVER], ids=["over", "nearly over"])
def test_a_bind_whose_life_is_over_before_it_is_applied_fails_and_leaves_no_user(
    stack: Stack, client: OsbClient, atlas: Emulator, left: timedelta
) -> None:
    tenant = Tenant(client).provision()
    begun = waiting_bind(stack, client, atlas, tenant)
    now = datetime.now(UTC)
    set_end(stack, tenant, now + left, now - timedelta(seconds=1))
    atlas.apply_at_once()
    atlas.apply_now()
    ended = tenant.end(begun, BINDING)
    assert ended.state == "failed", ended.text
    assert "life of 60 seconds" in ended.description
    assert "longer expires_in" in ended.description
    assert client.binding(tenant.instance_id, BINDING).status == 404
    assert atlas.users() == []


def test_a_bind_that_is_applied_well_within_its_life_succeeds(stack: Stack, client: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(client).provision()
    begun = waiting_bind(stack, client, atlas, tenant)
    atlas.apply_at_once()
    atlas.apply_now()
    tenant.succeed(begun, BINDING)
    assert works(tenant.credentials(BINDING))


@pytest.mark.parametrize("code", ["EXPIRATION_DATE_IN_PAST", "ALREADY_EXPIRED"])
def test_an_end_that_has_passed_by_atlass_clock_fails_with_the_same_sentence(
    client: OsbClient, atlas: Emulator, code: str
) -> None:
    tenant = Tenant(client).provision()
    atlas.fail("POST", "databaseUsers", status=400, error_code=code)
    ended = tenant.end(client.bind(tenant.instance_id, BINDING, {"expires_in": 60}), BINDING)
    assert ended.state == "failed"
    assert "longer expires_in" in ended.description
    assert atlas.users() == []


def test_a_bind_that_waited_for_atlas_longer_than_its_life_makes_no_user(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    rule = atlas.fail("POST", "databaseUsers", times=None, status=503)
    begun = client.bind(tenant.instance_id, BINDING, {"expires_in": 60})
    key, now = {"_id": binding_key(tenant.instance_id, BINDING)}, datetime.now(UTC)
    waits = {"operation.attempts": {"$gt": 0}, "operation.lease_token": None, "expires": {"$ne": None}}
    with held(stack) as documents:
        # No worker runs it while it changes.
        later = {"$set": {"operation.due": now + timedelta(hours=1)}}
        eventually(lambda: documents.update_one({**key, **waits}, later).modified_count, "it waits for another attempt")
        set_end(stack, tenant, now - NEARLY_OVER, now - NEARLY_OVER)
        atlas.heal(rule)
        documents.update_one(key, {"$set": {"operation.due": EPOCH}})
    ended = tenant.end(begun, BINDING)
    assert ended.state == "failed"
    assert "longer expires_in" in ended.description
    assert not [call for call in atlas.calls() if call["method"] == "POST" and call["status"] == 201]
