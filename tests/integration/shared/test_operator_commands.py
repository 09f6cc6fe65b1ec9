"""The operator's commands on a running broker: what they set going in Atlas."""

import pytest

from tests.books import document
from tests.console import Console
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually


@pytest.fixture
def console(stack: Stack) -> Console:
    return Console.of(stack)


def names(atlas: Emulator) -> set[str]:
    """Of users whose removal Atlas has not accepted."""
    return {user["username"] for user in atlas.users() if not user["deleted"]}


def test_a_bind_that_hangs_is_cancelled_and_leaves_no_user(
    console: Console, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    atlas.apply_by_hand()
    begun = client.bind(tenant.instance_id, "hangs")
    eventually(lambda: names(atlas) == {"hangs"}, "the user is there and not applied")
    (listed,) = console.json("operations", "list", "--instance", tenant.instance_id, "--type", "bind")
    assert (listed["operation"], listed["state"]) == (begun.operation, "in progress")
    console.json("operations", "cancel", begun.operation)
    polled = client.last_operation(tenant.instance_id, "hangs", begun.operation)
    assert polled.state == "failed"
    assert polled.description.startswith("The operator of the broker has cancelled the operation.")
    eventually(lambda: not names(atlas), "the user is removed")
    eventually(
        lambda: console.json("operations", "show", begun.operation)["state"] == "failed", "nothing is left to remove"
    )
    atlas.apply_at_once()
    atlas.apply_now()
    tenant.bind("hangs")


def test_an_unbind_that_has_failed_is_retried_and_ends(console: Console, client: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(client).provision()
    tenant.bind("sticks")
    rule = atlas.fail("DELETE", "sticks", times=None, status=400, error_code="INVALID_ATTRIBUTE")
    begun = client.unbind(tenant.instance_id, "sticks")
    assert tenant.end(begun, "sticks").state == "failed"
    atlas.heal(rule)
    eventually(lambda: not console.json("operations", "show", begun.operation)["next_look"], "the undo has ended")
    console.json("operations", "retry", begun.operation[:16])
    assert client.wait(tenant.instance_id, "sticks", begun.operation).state in ("succeeded", "gone")
    assert names(atlas) == set()


def test_a_deprovision_whose_unbind_has_failed_is_retried_with_it(
    console: Console, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind("sticks")
    rule = atlas.fail("DELETE", "sticks", times=None, status=400, error_code="INVALID_ATTRIBUTE")
    begun = client.deprovision(tenant.instance_id)
    assert tenant.end(begun).state == "failed"
    atlas.heal(rule)
    eventually(lambda: not console.json("operations", "show", begun.operation)["next_look"], "the undo has ended")
    console.json("operations", "retry", begun.operation)
    assert client.wait(tenant.instance_id, None, begun.operation).state in ("succeeded", "gone")
    assert names(atlas) == set()


def test_a_purged_instance_asks_nothing_of_atlas_and_its_id_can_be_used_again(
    stack: Stack, console: Console, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client).provision()
    tenant.bind("lost")
    atlas.forget_calls()
    assert console.json("purge", "instance", tenant.instance_id, "--yes", "--with-bindings")["bindings"] == 1
    assert not atlas.calls("DELETE")
    assert client.deprovision(tenant.instance_id).status == 410
    assert client.unbind(tenant.instance_id, "lost").status == 410
    assert "sealed_credentials" in document(stack, tenant.instance_id, "lost")
    assert document(stack, tenant.instance_id, "lost")["sealed_credentials"] is None
    found = console.json("reconcile", "--repair")
    assert {"user_without_binding": "lost", "project": atlas.project_id} in found["differences"]
    assert (found["repaired"], found["not_compared"]) == (True, {})
    assert "lost" not in names(atlas)
    tenant.provision()
    tenant.bind("lost")
