"""atlasbroker 2.0.0 itself, from PyPI, beside this broker on the same collection: the way here, and the way back."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from tests.bench.servers import OldBroker, install_old_broker, is_old_broker_installed
from tests.books import held
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.integration.old_atlas_api import old_atlas_api
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Json, Tenant, works
from workers.maintenance.migrate import migrate

ON_CLUSTER = {"cluster": CLUSTER}


@pytest.fixture
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def client(stack: Stack) -> Iterator[OsbClient]:
    with in_this_process(stack), stack.client() as client:
        yield client


@pytest.fixture
def old(stack: Stack, atlas: Emulator, *, long_form: bool) -> Iterator[OsbClient]:
    """A platform of atlasbroker 2.0.0, which is installed only in the long form."""
    if not long_form and not is_old_broker_installed():
        pytest.skip("with --long: installs atlasbroker 2.0.0; documents recorded from it are always tried")
    python = install_old_broker()
    with (
        old_atlas_api(atlas) as address,
        OldBroker(python, stack.state, address, atlas.project_id, stack.database) as server,
        OsbClient(server.uri, "", "") as platform,
    ):
        yield platform


def bound(old: OsbClient, instance_id: str, binding_id: str) -> Json:
    """The credentials of a new binding of the old broker."""
    answer = old.bind(instance_id, binding_id)
    assert answer.status == 201, answer.text
    found: Json = answer.json["credentials"]
    assert works(found)
    return found


def names(atlas: Emulator) -> set[str]:
    return {user["username"] for user in atlas.users() if not user["deleted"]}


def run_migrate(stack: Stack) -> Json:
    done = CliRunner().invoke(migrate, ["--json"], env=stack.worker_settings, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told: Json = json.loads(done.stdout)
    return told


def test_both_brokers_work_side_by_side_before_and_after_migrate(
    stack: Stack, client: OsbClient, atlas: Emulator, old: OsbClient
) -> None:
    assert old.provision("i", ON_CLUSTER).status == 201
    given = {name: bound(old, "i", name) for name in ("first", "second", "third")}
    assert client.provision("i", ON_CLUSTER).status == 200  # this broker serves them at once
    Tenant(client, "i").unbind("first")
    assert old.provision("late", ON_CLUSTER).status == 201  # ... and what is written afterwards
    given["late"] = bound(old, "late", "late")
    assert client.unbind("late", "unknown").status == 410
    assert works(Tenant(client, "late").bind("new"))

    assert run_migrate(stack)["labelled"] == 3
    assert all(works(given[name]) for name in ("second", "third", "late"))
    # The old broker goes on: with an instance that is converted, and with bindings that are labelled.
    assert old.provision("i", ON_CLUSTER).status == 200
    bound(old, "i", "afterwards")
    assert old.unbind("i", "second").status == 200
    assert client.unbind("i", "second").status == 410
    assert old.unbind("i", "second").status == 410
    assert run_migrate(stack)["labelled"] == 1
    Tenant(client, "i").unbind("afterwards")
    Tenant(client, "i").deprovision()
    Tenant(client, "late").deprovision()
    assert names(atlas) == set()


def test_the_way_back(stack: Stack, client: OsbClient, atlas: Emulator, old: OsbClient) -> None:
    """The old broker removes what this one has made; it binds to what it has made itself."""
    assert old.provision("own", ON_CLUSTER).status == 201
    bound(old, "own", "kept")
    run_migrate(stack)
    tenant = Tenant(client, "made-here").provision()
    tenant.bind("made-here")
    Tenant(client, "own").bind("made-here-on-own")

    bound(old, "own", "new")
    for instance_id, binding_id in (("own", "kept"), ("own", "made-here-on-own"), ("made-here", "made-here")):
        assert old.unbind(instance_id, binding_id).status == 200
    assert names(atlas) == {"new"}
    with old.expecting(500):
        assert old.bind("made-here", "refused").status == 500
    assert old.deprovision("made-here").status == 200
    assert old.unbind("own", "new").status == 200
    assert old.deprovision("own").status == 200
    assert names(atlas) == set()
    with held(stack) as documents:
        assert documents.count_documents({}) == 0
