"""Every job delivered more than once, every step run more than once: the effect in Atlas is one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

import pytest

from broker_api.jobs.queue import JOBS
from tests.books import document
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.messages import Messages
from tests.osb_client import Answer, OsbClient
from tests.tenant import CLUSTER, Json, Tenant, eventually, log_in, together, works

DUPLICATES = 8


# --- messages delivered twice, at once, late, or after the end --------------------------------------------------


@dataclass
class Deliveries:
    """Sends each job's message again and again, and sees that nothing changes by it."""

    stack: Stack
    tenant: Tenant
    sent: list[tuple[str, list[object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages = Messages(self.stack)

    def run(self, kind: str, accepted: Answer, binding_id: str | None = None) -> None:
        """Duplicates come to both workers while the job is under way, and once more when it has ended."""
        self.sent.append((JOBS[kind], [self.tenant.instance_id, binding_id, accepted.operation]))
        again = together(*[lambda: self.messages.send(*self.sent[-1]) for _ in range(DUPLICATES)])
        self.tenant.succeed(accepted, binding_id)
        self.messages.done(*again)
        self.repeat_all(binding_id)

    def repeat_all(self, binding_id: str | None) -> None:
        before = self._held(binding_id)
        self.messages.done(*[self.messages.send(*message) for message in self.sent])
        assert self._held(binding_id) == before

    def _held(self, binding_id: str | None) -> list[Json]:
        return [document(self.stack, self.tenant.instance_id, each) for each in (None, binding_id)]


def effects(atlas: Emulator) -> Counter[str]:
    """What Atlas has done, by method: changes of users that it said yes to."""
    calls = [call for call in atlas.calls() if "databaseUsers" in call["path"] and not call["challenge"]]
    return Counter(f"{call['method']} {call['status']}" for call in calls if call["method"] != "GET")


def test_messages_delivered_many_times_at_once_late_or_after_the_end_have_one_effect(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(client)
    jobs = Deliveries(stack, tenant)
    jobs.run("provision", client.provision(tenant.instance_id, {"cluster": CLUSTER, "policy-on-delete": "retain"}))
    jobs.run("bind", client.bind(tenant.instance_id, "b"), "b")
    assert effects(atlas) == {"POST 201": 1}
    assert works(tenant.credentials("b"))
    jobs.run("update", client.update(tenant.instance_id, {"policy-on-delete": "drop"}))
    jobs.run("unbind", client.unbind(tenant.instance_id, "b"), "b")
    assert effects(atlas) == {"POST 201": 1, "DELETE 204": 1}
    jobs.run("deprovision", client.deprovision(tenant.instance_id))
    jobs.repeat_all("b")
    assert effects(atlas) == {"POST 201": 2, "DELETE 204": 2}  # the second user has dropped the database
    eventually(lambda: atlas.users() == [], "the user that dropped the database is gone")


def test_two_reconciliations_at_once_and_a_third_later_do_no_harm(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    credentials = Tenant(client).provision().bind()
    messages = Messages(stack)
    at_once = together(*[lambda: messages.reconcile(repair=True) for _ in range(2)])
    messages.done(*at_once, messages.reconcile(repair=False))
    # Users of bindings that other tests left are made again, too; nobody's user is made twice.
    names = [user["username"] for user in atlas.users()]
    assert credentials["username"] in names
    assert len(names) == len(set(names))
    assert works(credentials)


def test_a_message_with_more_arguments_than_this_release_knows_is_worked_on(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    atlas.fail("POST", "databaseUsers", status=503, html=True)
    tenant = Tenant(client).provision()
    accepted = client.bind(tenant.instance_id, "b")
    messages = Messages(stack)
    more = messages.send("atlas.bind", [tenant.instance_id, "b", accepted.operation, "2.0", {"new": True}], {"new": 1})
    messages.done(more)
    assert not any(f"[{more}] raised" in worker.log_text() for worker in stack.workers)
    tenant.succeed(accepted, "b")
    assert works(tenant.credentials("b"))


# --- workers killed while Atlas holds a call --------------------------------------------------------------------

HELD: dict[str, dict[str, object]] = {
    "never reaches Atlas": {"hang_before": 12, "drop": "before"},
    "reaches Atlas when the worker is dead": {"hang_before": 9},
    "has reached Atlas, and its answer is lost": {"hang_after": 12},
}
"""What becomes of the call that a worker waits for when it is killed; the client would wait 8 s."""


@dataclass
class Interrupted:
    """An operation whose worker dies during one call. ``check`` is what must be true at the end."""

    tenant: Tenant
    binding_id: str | None
    begin: Callable[[], Answer]
    check: Callable[[], None]


class Interruptions:
    """Operations, each of which gets to one call that the emulator holds."""

    def __init__(self, stack: Stack, client: OsbClient, atlas: Emulator) -> None:
        self.stack, self.client, self.atlas = stack, client, atlas
        self.operations: list[Interrupted] = []
        self.rules = 0

    def hold(self, method: str, path: str, how: dict[str, object], body: str = "") -> None:
        self.atlas.rule(method=method, path=path, body=body, **how)
        self.rules += 1

    def tenant(self, name: str, cluster: str = CLUSTER, **parameters: object) -> Tenant:
        """With an instance that is there; a cluster of its own when it is asked for."""
        self.atlas.put_cluster(cluster)
        return Tenant(self.client, name).provision(cluster=cluster, **parameters)

    def post_user(self, name: str, how: dict[str, object]) -> None:
        tenant = self.tenant(f"i-{name}")
        self.hold("POST", "databaseUsers$", how, body=f'"b-{name}"')
        self._bind(tenant, name)

    def status(self, name: str, how: dict[str, object]) -> None:
        tenant = self.tenant(f"i-{name}", cluster=f"c-{name}")
        self.hold("GET", f"/c-{name}/status$", how)
        self._bind(tenant, name)

    def _bind(self, tenant: Tenant, name: str) -> None:
        bound = f"b-{name}"

        def usable() -> None:
            assert works(tenant.credentials(bound))

        self._add(tenant, bound, lambda: self.client.bind(tenant.instance_id, bound), usable)

    def get_cluster(self, name: str, how: dict[str, object]) -> None:
        tenant = Tenant(self.client, f"i-{name}")
        self.atlas.put_cluster(f"c-{name}")
        self.hold("GET", f"/clusters/c-{name}$", how)

        def there() -> None:
            assert self.client.instance(tenant.instance_id).json["parameters"]["cluster"] == f"c-{name}"

        begin = partial(self.client.provision, tenant.instance_id, {"cluster": f"c-{name}"})
        self._add(tenant, None, begin, there)

    def list_databases(self, name: str, how: dict[str, object]) -> None:
        tenant, host = Tenant(self.client, f"i-{name}"), f"d-{name}.example"
        parameters = {"cluster": f"d-{name}", "database": f"named-{uuid4().hex}"}
        process = {"hostname": host, "port": 27017, "typeName": "REPLICA_PRIMARY", "databases": ["admin"]}
        standard = f"mongodb://{host}:27017/?authSource=admin&replicaSet=rs"
        self.atlas.put_cluster(f"d-{name}", connection_strings={"standard": standard}, processes=[process])
        self.hold("GET", f"/{host}:27017/databases", how)

        def owned() -> None:
            kept = document(self.stack, tenant.instance_id)
            assert (kept["database"], kept["owned"]) == (parameters["database"], True)

        self._add(tenant, None, lambda: self.client.provision(tenant.instance_id, parameters), owned)

    def patch_user(self, name: str, how: dict[str, object]) -> None:
        tenant = self.tenant(f"i-{name}", level="readWrite")
        credentials = tenant.bind(f"b-{name}")
        self.hold("PATCH", f"/b-{name}$", how)

        def changed() -> None:
            user = next(user for user in self.atlas.users() if user["username"] == f"b-{name}")
            assert [role["roleName"] for role in user["roles"]] == ["read"]
            assert works(credentials)

        self._add(tenant, None, lambda: self.client.update(tenant.instance_id, {"level": "read"}), changed)

    def delete_user(self, name: str, how: dict[str, object]) -> None:
        tenant = self.tenant(f"i-{name}")
        credentials = tenant.bind(f"b-{name}")
        self.hold("DELETE", f"/b-{name}$", how)

        def gone() -> None:
            assert not works(credentials)

        unbind = partial(self.client.unbind, tenant.instance_id, f"b-{name}")
        self._add(tenant, f"b-{name}", unbind, gone)

    def drop(self, name: str, how: dict[str, object], method: str) -> None:
        """The temporary user that drops a database is made, or removed, when the worker dies."""
        tenant = self.tenant(f"i-{name}", **{"policy-on-delete": "drop"})
        credentials = tenant.bind(f"b-{name}")
        with log_in(credentials) as cluster:
            cluster[credentials["database"]]["things"].insert_one({})
        path, body = ("databaseUsers$", "atlas-broker-") if method == "POST" else ("/atlas-broker-[^/]*$", "")
        self.hold(method, path, how, body=body)

        def dropped() -> None:
            with self.stack.cluster.client() as root:
                assert credentials["database"] not in root.list_database_names()

        self._add(tenant, None, lambda: self.client.deprovision(tenant.instance_id), dropped)

    def _add(
        self, tenant: Tenant, binding_id: str | None, begin: Callable[[], Answer], check: Callable[[], None]
    ) -> None:
        self.operations.append(Interrupted(tenant, binding_id, begin, check))

    def run(self) -> None:
        begun = together(*[operation.begin for operation in self.operations])
        eventually(lambda: self.held() == self.rules, "each operation waits for its call")
        self.kill_workers()
        for operation, accepted in zip(self.operations, begun, strict=True):
            operation.tenant.succeed(accepted, operation.binding_id)
        for operation in self.operations:
            operation.check()

    def held(self) -> int:
        return len([call for call in self.atlas.calls() if call["fault"]])

    def kill_workers(self) -> None:
        for worker in self.stack.workers:
            worker.kill()
        together(*[worker.restart for worker in self.stack.workers])


def test_broker_config_is_that_of_the_workers_too(client: OsbClient, atlas: Emulator) -> None:
    """That it is the API's is shown by the catalogs of tests/osb/test_plans.py."""
    Tenant(client).provision(level="read").bind("b")
    (user,) = atlas.users()
    assert [role["roleName"] for role in user["roles"]] == ["read"]


def test_a_worker_killed_while_atlas_holds_its_call_leaves_one_user_and_the_right_password(
    stack: Stack, client: OsbClient, atlas: Emulator
) -> None:
    interrupted = Interruptions(stack, client, atlas)
    ways = [interrupted.post_user, interrupted.status, interrupted.get_cluster, interrupted.list_databases]
    ways += [interrupted.patch_user, interrupted.delete_user]
    together(
        *[
            lambda way=way, name=f"{name}-{number}", how=how: way(name, how)
            for way in ways
            for name in [way.__name__.replace("_", "-")]
            for number, how in enumerate(HELD.values())
        ],
        lambda: interrupted.drop("dropper-1", HELD["has reached Atlas, and its answer is lost"], "POST"),
        lambda: interrupted.drop("dropper-2", HELD["never reaches Atlas"], "DELETE"),
    )
    interrupted.run()
    eventually(lambda: all(call["end"] for call in atlas.calls()), "the calls that were held are over")
    names = [user["username"] for user in atlas.users()]
    assert len(names) == len(set(names)) == 9
    done = effects(atlas)
    dropped, unbound = 2, 3
    assert done["POST 201"] == len(names) + unbound + 2 * dropped, done  # a drop: one bound user, one that drops
    assert done["DELETE 204"] == unbound + 2 * dropped, done


def test_a_worker_killed_while_it_takes_over_the_user_of_a_killed_worker_leaves_the_right_password(
    stack: Stack, client: OsbClient, atlas: Emulator, *, long_form: bool
) -> None:
    if not long_form:
        pytest.skip("with --long: two leases of 20 s have to end")
    interrupted = Interruptions(stack, client, atlas)
    interrupted.post_user("twice", HELD["has reached Atlas, and its answer is lost"])
    (bind,) = interrupted.operations
    accepted = bind.begin()
    eventually(lambda: interrupted.held() == 1, "the POST is held")
    interrupted.hold("PATCH", "/b-twice$", HELD["never reaches Atlas"])
    interrupted.kill_workers()
    eventually(lambda: interrupted.held() == interrupted.rules, "the PATCH is held", 60)
    interrupted.kill_workers()
    bind.tenant.succeed(accepted, "b-twice")
    bind.check()
    assert effects(atlas)["POST 201"] == 1
