"""By default an instance may use half of the database users of its Atlas project, as Atlas tells their number."""

import time
from collections.abc import Callable, Iterator

import pytest

from broker_api.state.bind_reads import ROOM
from broker_api.state.mongo import In
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.tenant import Tenant, works
from workers.clusters.user_limit import LEARN_SECONDS


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def tenant(broker: InThisProcess, stack: Stack, atlas: Emulator) -> Iterator[Tenant]:
    """Before the first instance in a project; its limit was not asked for."""
    name = f"{ROOM}{atlas.project_id}"
    broker.context.housekeeping.write(name, {"limit": None, "learn_again": In(-1)})
    with stack.client() as client:
        yield Tenant(client)


def test_one_instance_cannot_use_up_the_users_of_a_project(tenant: Tenant, atlas: Emulator) -> None:
    atlas.user_limit(4)
    tenant.provision()
    assert works(tenant.bind("1"))
    tenant.bind("2")
    refused = tenant.client.bind(tenant.instance_id, "3")
    assert refused.status == 400
    assert "has 2 bindings, and its plan atlas-mongodb-existing-cluster allows 2." in refused.description
    assert tenant.client.bind(tenant.instance_id, "2").status == 200  # it has its slot
    tenant.succeed(tenant.client.rotate(tenant.instance_id, "3", "2"), "3")
    Tenant(tenant.client).provision().bind()  # another instance has its own half
    tenant.unbind("2")
    tenant.unbind("1")
    tenant.bind("4")
    tenant.deprovision()


@pytest.mark.parametrize("status", [404, 501, 500, 403])
def test_where_atlas_does_not_tell_the_limit_nothing_is_refused(
    tenant: Tenant, broker: InThisProcess, atlas: Emulator, status: int
) -> None:
    atlas.user_limit(2)
    atlas.fail("GET", "/limits/", times=None, status=status, error_code="RESOURCE_NOT_FOUND")
    tenant.provision()
    for name in ("1", "2"):
        assert works(tenant.bind(f"{name}-{status}"))
    name = f"{ROOM}{atlas.project_id}"
    assert not broker.context.housekeeping.read(name).get("limit")
    assert "user_limit_unknown" in broker.log_text()


def test_the_limit_is_asked_for_once_in_a_while_for_many_instances(tenant: Tenant, atlas: Emulator) -> None:
    before, began = asked(atlas), time.monotonic()
    tenant.provision()
    for _ in range(3):
        Tenant(tenant.client).provision()
    assert 1 <= asked(atlas) - before <= 1 + (time.monotonic() - began) / LEARN_SECONDS


def asked(atlas: Emulator) -> int:
    return sum("/limits/" in call["path"] for call in atlas.calls())
