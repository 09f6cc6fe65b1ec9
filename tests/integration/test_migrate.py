"""``atlas-broker migrate``: what atlasbroker 2.0.0 has left is completed and labelled, while both brokers may run."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from broker_api.state.database_reservations import RESERVATIONS
from broker_api.state.housekeeping import BROKER, RECONCILED
from broker_api.state.records import binding_key
from tests.books import call_users, held, make_user
from tests.dev.processes import CHECKOUT, clean_environment
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Json, Tenant, eventually, works
from workers.maintenance.migrate import migrate
from workers.maintenance.migration import Migration
from workers.maintenance.reconcile import reconcile

COMMAND = "from workers.maintenance.migrate import migrate; migrate()"


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def broker(broker: InThisProcess, atlas: Emulator) -> InThisProcess:
    """Without a document of the tests before."""
    assert atlas.users() == []
    broker.context.store.collection.delete_many({})
    return broker


class OldBroker:
    """Writes what atlasbroker 2.0.0 writes: these documents were recorded from it."""

    def __init__(self, stack: Stack, atlas: Emulator) -> None:
        self._stack, self._atlas = stack, atlas

    def provision(self, instance_id: str, **parameters: str) -> None:
        wanted: Json = {"cluster": CLUSTER, **parameters}
        database = parameters.get("database", f"instance-{instance_id}")
        made = {"instance_id": instance_id, "database": database, "cluster": CLUSTER, "parameters": wanted}
        with held(self._stack) as documents:
            documents.insert_one(made)

    def bind(self, instance_id: str, binding_id: str, *, user: bool = True, **more: Any) -> None:  # noqa: ANN401 - JSON
        """``more`` is what its user has otherwise than the old broker makes it."""
        if user:
            roles = ({"databaseName": f"instance-{instance_id}", "roleName": name} for name in ("dbAdmin", "readWrite"))
            make_user(self._atlas, binding_id, **({"roles": [*roles]} | more))
        with held(self._stack) as documents:
            documents.insert_one({"binding_id": binding_id, "parameters": None, "instance_id": instance_id})


@pytest.fixture
def old(stack: Stack, atlas: Emulator) -> OldBroker:
    return OldBroker(stack, atlas)


def run(stack: Stack, *options: str) -> Result:
    return CliRunner().invoke(migrate, ["--json", *options], env=stack.worker_settings, catch_exceptions=False)


def told(stack: Stack, *options: str, status: int = 0) -> Json:
    done = run(stack, *options)
    assert done.exit_code == status, done.output
    found: Json = json.loads(done.stdout)
    return found


def labels(atlas: Emulator) -> dict[str, Json]:
    return {user["username"]: {each["key"]: each["value"] for each in user["labels"]} for user in atlas.users()}


def everything(stack: Stack) -> Json:
    """All documents of the broker's database, without the leases, turns and reports that a running broker writes."""
    with stack.state.client() as client:
        database = client[stack.database]
        names = {name for name in database.list_collection_names() if name != "instances_reports"}
        lasting = {"instances_housekeeping": {"_id": {"$regex": f"^({BROKER}$|{RESERVATIONS})"}}}
        return {name: sorted(map(repr, database[name].find(lasting.get(name)))) for name in sorted(names)}


THEIRS: dict[str, Any] = {"labels": [{"key": "atlas-broker", "value": "another"}]}
OTHER_ROLES: dict[str, Any] = {"roles": [{"databaseName": "theirs", "roleName": "read"}]}


def test_documents_are_completed_and_users_labelled_once_and_a_dry_run_writes_nothing(
    stack: Stack, broker: InThisProcess, client: OsbClient, atlas: Emulator, old: OldBroker
) -> None:
    for _ in range(2):
        old.provision("twice")
    old.provision("served")
    old.bind("twice", "works")
    old.bind("twice", "without-user", user=False)
    old.bind("twice", "of-another-broker", **THEIRS)
    old.bind("twice", "with-other-roles", **OTHER_ROLES)
    old.bind("served", "served-before")
    old.bind("nowhere", "without-instance")
    assert client.binding("served", "served-before").status == 404  # converted, without a user name
    before = everything(stack)
    atlas.forget_calls()

    would = told(stack, "--dry-run")
    assert everything(stack) == before
    assert {call["method"] for call in atlas.calls()} == {"GET"}
    did = told(stack, "--batch", "2")
    counts = {"old_documents": 8, "converted": 7, "duplicates": 1, "completed": 8, "labelled": 2}
    assert {name: would[name] for name in counts} == {name: did[name] for name in counts} == counts
    assert would["left"] == 9
    assert did["left"] == 0
    assert did["findings"].keys() == would["findings"].keys()
    named = {kind: {each.get("binding") for each in found} for kind, found in did["findings"].items()}
    assert named == {
        "duplicates": {None},
        "without_user": {"without-user"},
        "without_instance": {"without-instance"},
        "user_of_others": {"of-another-broker", "with-other-roles"},
    }
    own = {"atlas-broker": broker.context.housekeeping.broker_id, "operation": "bind-legacy"}
    assert labels(atlas) == {
        "works": {**own, "instance_id": "twice", "binding_id": "works"},
        "served-before": {**own, "instance_id": "served", "binding_id": "served-before"},
        "of-another-broker": {"atlas-broker": "another"},
        "with-other-roles": {},
        "without-instance": {},
    }
    again = told(stack)
    assert [again[name] for name in ("converted", "completed", "labelled", "left")] == [0, 0, 0, 0]
    assert again["result"] == "Nothing of the old form is left."

    with held(stack) as documents:
        found = documents.find_one({"_id": binding_key("twice", "works")}) or {}
    settled = {"project": atlas.project_id, "cluster": CLUSTER, "database": "instance-twice", "username": "works"}
    assert {name: found[name] for name in settled} == settled
    assert (found["made"], found["phase"], found["parameters"]) == (True, "ready", {})
    tenant = Tenant(client, "twice")
    assert works(tenant.bind("new"))
    tenant.update(**{"policy-on-delete": "drop"})
    for each in ("works", "with-other-roles", "new"):
        tenant.unbind(each)
    refused = tenant.end(client.unbind("twice", "of-another-broker"), "of-another-broker")
    assert (refused.state, "not labelled" in refused.description) == ("failed", True)
    Tenant(client, "served").deprovision()
    Tenant(client, "nowhere").unbind("without-instance")
    assert labels(atlas).keys() == {"of-another-broker"}


def test_a_user_that_is_lost_afterwards_is_reported_and_cannot_be_made_again(
    stack: Stack, broker: InThisProcess, atlas: Emulator, old: OldBroker
) -> None:
    old.provision("i")
    old.bind("i", "lost")
    old.bind("i", "there")
    told(stack)
    call_users(atlas, "DELETE", "/admin/lost")
    broker.lines.clear()
    reconcile(broker.context, repair=True)
    left = json.loads(broker.context.housekeeping.read(RECONCILED)["left"])
    assert (left["orphans"], left["missing"]) == (0, 1)
    assert "did not keep its password" in broker.log_text()
    assert labels(atlas).keys() == {"there"}


def test_what_cannot_be_read_is_named_and_stops_nothing_else(
    stack: Stack, broker: InThisProcess, old: OldBroker
) -> None:
    del broker
    with held(stack) as documents:
        documents.insert_one({"instance_id": 7, "database": "d", "cluster": CLUSTER, "parameters": {}})
    old.provision("fine")
    did = told(stack, status=1)
    assert (did["converted"], did["left"]) == (1, 1)
    assert did["findings"]["not_converted"][0]["instance"] == 7
    with held(stack) as documents:
        documents.delete_one({"instance_id": 7})
    assert told(stack)["left"] == 0


def test_it_goes_on_where_it_was_killed(stack: Stack, broker: InThisProcess, atlas: Emulator, old: OldBroker) -> None:
    del broker
    old.provision("i")
    names = {f"b-{number}" for number in range(4)}
    for name in names:
        old.bind("i", name)
    rule = atlas.hang("PATCH", "databaseUsers/admin/b-2", seconds=30)
    command = [sys.executable, "-c", COMMAND, "--batch", "1"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=clean_environment(stack.worker_settings), stderr=subprocess.DEVNULL
    ) as process:
        try:
            eventually(lambda: [call for call in atlas.calls() if call["fault"] == rule], "it labels b-2", 100)
        finally:
            process.send_signal(signal.SIGKILL)
    atlas.heal()
    did = told(stack)
    assert (did["converted"], did["left"], did["findings"]) == (0, 0, {})
    assert did["labelled"] in (1, 2)
    assert {name for name, found in labels(atlas).items() if found} == names


def test_requests_and_the_old_broker_go_on_meanwhile(
    stack: Stack, broker: InThisProcess, client: OsbClient, atlas: Emulator, old: OldBroker
) -> None:
    """Between two documents, one binding is unbound by a request, and the old broker makes another one."""
    old.provision("i")
    names = [f"b-{number}" for number in range(6)]
    for name in names:
        old.bind("i", name)
    tenant, unbound = Tenant(client, "i"), list[str]()
    migration = Migration(broker.context, 1, dry_run=False)
    for number, _ in enumerate(migration.run()):
        if number % 4 == 1:
            unbound.append(names.pop())
            tenant.unbind(unbound[-1])
            names.insert(0, f"late-{number}")
            old.bind("i", names[0])
    assert unbound
    assert not {kind for kind in migration.progress.findings if kind.startswith("not_")}
    told(stack, status=0)
    assert {name for name, found in labels(atlas).items() if found} == set(names)
    for name in names:
        tenant.unbind(name)
    assert labels(atlas) == {}
    assert all(client.unbind("i", name).status == 410 for name in unbound)


def test_a_wrong_key_and_an_atlas_that_refuses_change_nothing(
    stack: Stack, broker: InThisProcess, atlas: Emulator, old: OldBroker
) -> None:
    del broker
    old.provision("i")
    old.bind("i", "b")
    atlas.put_key(atlas.public_key, "another", [atlas.project_id])
    try:
        done = run(stack)
    finally:
        atlas.put_key(atlas.public_key, atlas.private_key, [atlas.project_id])
    assert done.exit_code == 1
    assert (done.stdout, "run this again" in done.stderr.splitlines()[-1]) == ("", True)
    other = {"BROKER_ENCRYPTION_KEYS": "A" * 43 + "="}
    done = CliRunner().invoke(migrate, [], env=stack.worker_settings | other)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert labels(atlas) == {"b": {}}
    assert told(stack)["labelled"] == 1
