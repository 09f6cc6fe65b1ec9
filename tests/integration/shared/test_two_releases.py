"""Two releases side by side during a rolling update: what one writes the other understands, or leaves to it."""

from datetime import UTC, datetime, timedelta

import pytest

from broker_api.state.records import binding_key, instance_key
from tests.books import document, held
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import Json, Tenant, eventually, works

HOUR = timedelta(hours=1)
BINDING = "two-releases"

pytestmark = pytest.mark.usefixtures("atlas")  # which removes the users in the end


def change(stack: Stack, key: str, fields: Json) -> None:
    """Write fields as another release would."""
    with held(stack) as documents:
        assert documents.update_one({"_id": key}, {"$set": fields}).matched_count == 1


def test_a_document_without_the_newest_fields_is_worked_on(stack: Stack, client: OsbClient) -> None:
    tenant = Tenant(client).provision()
    credentials = tenant.bind(BINDING)
    newest = [
        "operation.sends",
        "operation.refused",
        "operation.failure",
        "operation.overlapped",
        "unsure_until",
        "past",
    ]
    with held(stack) as documents:
        documents.update_many({"instance_id": tenant.instance_id}, {"$unset": dict.fromkeys(newest, "")})
    assert tenant.credentials(BINDING) == credentials
    tenant.unbind(BINDING)
    tenant.deprovision()


def test_fields_of_a_newer_release_are_kept_and_ignored(stack: Stack, client: OsbClient) -> None:
    tenant = Tenant(client).provision()
    change(stack, instance_key(tenant.instance_id), {"colour": "blue", "operation.colour": ["of", "the", "sea"]})
    tenant.update(**{"policy-on-delete": "drop"})
    assert document(stack, tenant.instance_id)["colour"] == "blue"
    assert works(tenant.bind(BINDING))


def test_a_step_of_a_newer_release_is_left_to_it_and_not_lost(stack: Stack, client: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(client).provision()
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, BINDING)
    key = binding_key(tenant.instance_id, BINDING)
    eventually(lambda: document(stack, tenant.instance_id, BINDING)["operation"]["step"] == "apply", "the bind waits")
    past = datetime.now(UTC) - HOUR
    change(stack, key, {"operation.step": "polish", "operation.fence": 9, "operation.due": past})
    eventually(
        lambda: "another release" in client.last_operation(tenant.instance_id, BINDING).description,
        "the platform reads why it waits",
    )
    change(stack, key, {"operation.step": "apply"})
    atlas.apply_at_once()
    atlas.apply_now()
    tenant.succeed(begun, BINDING)


def test_a_kind_of_operation_of_a_newer_release_stops_no_sweep_and_ends_at_its_deadline(
    stack: Stack, client: OsbClient
) -> None:
    tenant = Tenant(client).provision()
    key = instance_key(tenant.instance_id)
    past, later = datetime.now(UTC) - HOUR, datetime.now(UTC) + HOUR
    newer = {"kind": "resize", "id": "resize-1", "open": True, "state": "in progress", "due": past, "dispatched": past}
    change(stack, key, {f"operation.{name}": value for name, value in {**newer, "deadline": later}.items()})
    assert client.last_operation(tenant.instance_id, None, "resize-1").state == "in progress"
    assert works(Tenant(client).provision().bind(BINDING))  # the others go on
    change(stack, key, {"operation.deadline": past})
    eventually(lambda: client.last_operation(tenant.instance_id, None, "resize-1").state == "failed", "it has ended")
    change(stack, key, {"operation.open": False})
