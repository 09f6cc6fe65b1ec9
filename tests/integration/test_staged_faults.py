"""Seven faults, staged on a broker of its own: what its operator reads with the commands of docs/troubleshooting.md."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from broker_api.state.bind_reads import DEFAULT_LIMIT
from broker_api.state.housekeeping import RECENT_SECONDS
from broker_api.state.records import binding_key
from tests.books import held
from tests.console import Console
from tests.dev.broker import Worker
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually
from workers.maintenance.check import findings


@pytest.fixture(scope="module")
def own(state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    settings = {"BROKER_SETTLE_SECONDS": "0", "BROKER_API_PROCESSES": "2"}
    with Stack(
        workers=1, flower=False, settings=settings, state=state_mongod, cluster=cluster_mongod, emulator=emulator
    ) as running:
        yield running


@pytest.fixture
def platform(own: Stack, atlas: Emulator) -> Iterator[OsbClient]:
    assert atlas.users() is not None
    with own.client() as client:
        yield client


def ready(stack: Stack) -> dict[str, str]:
    with stack.client() as client:
        answer = client.ready()
    assert answer.status == 200, answer.text
    return answer.json


def check(stack: Stack) -> str:
    """Everything but what is good."""
    return "\n".join(sentence for mark, sentence in findings(stack.worker_settings) if mark != "good")


def metric(stack: Stack, name: str, **labels: str) -> float:
    text = requests.get(f"{stack.api.uri}/metrics", auth=(stack.user, stack.password), timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(
        one.value for one in samples if one.name == f"atlas_broker_{name}" and labels.items() <= one.labels.items()
    )


def test_all_is_well_before(own: Stack, platform: OsbClient) -> None:
    Tenant(platform).provision()
    eventually(lambda: set(ready(own).values()) == {"ready", "ok"}, "/ready has nothing to tell", seconds=60)
    assert check(own) == ""
    eventually(lambda: metric(own, "operations_total", type="provision", result="succeeded") == 1, "the end is counted")
    assert metric(own, "workers", queue="bindings") == 1


def test_redis_is_full(own: Stack, platform: OsbClient) -> None:
    tenant = Tenant(platform).provision()
    with own.redis.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", 1)
        begun = platform.bind(tenant.instance_id, "full")
        eventually(lambda: "its memory is full (OOM)" in ready(own)["sends"], "/ready gives the reason", seconds=15)
        assert "its memory is full (OOM)" in ready(own)["redis"]
        assert "Redis answers with an error: its memory is full (OOM)" in check(own)
        assert metric(own, "sends_total", result="failed") >= 1
        assert '"redis_lost"' in own.api.log_text()
        redis.config_set("maxmemory", 0)
        tenant.succeed(begun, "full")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        assert "maxmemory-policy is allkeys-lru" in check(own)
        redis.config_set("maxmemory-policy", "noeviction")


def test_a_bind_hangs(own: Stack, platform: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(platform).provision()
    atlas.apply_by_hand()
    begun = platform.bind(tenant.instance_id, "hangs")
    eventually(atlas.users, "the user is there and not applied")
    with held(own) as documents:
        long_ago = datetime.now(UTC) - timedelta(minutes=3)
        documents.update_one(
            {"_id": binding_key(tenant.instance_id, "hangs")}, {"$set": {"operation.accepted": long_ago}}
        )
    eventually(lambda: metric(own, "operations_waiting_long", type="bind", reason="applying") == 1, "the metric")
    (listed,) = Console.of(own).json("operations", "list", "--older-than", "2m", "--state", "in-progress")
    assert (listed["operation"], listed["binding"]) == (begun.operation, "hangs")
    assert "1 of type bind in progress for more than 2 minutes, applying" in check(own)
    log = own.workers[0].log_text
    eventually(lambda: "operation_waits_long" in log(), "it is logged")
    (line,) = [each for each in log().splitlines() if "operation_waits_long" in each]
    assert begun.operation in line
    assert '"applying"' in line
    atlas.apply_now()
    tenant.succeed(begun, "hangs")


def test_a_project_is_full_of_users(own: Stack, platform: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(platform).provision()
    tenant.bind("last")
    atlas.user_limit(len(atlas.users()))
    ended = tenant.end(platform.bind(tenant.instance_id, "one-too-many"), "one-too-many")
    assert ended.state == "failed"
    assert "as many database users as Atlas allows" in ended.description
    assert f"1 of at most {len(atlas.users())} database users: no binding can be made" in check(own)
    Console.of(own).json("reconcile")
    assert metric(own, "project_users", project=own.emulator.project_id) >= 1
    assert metric(own, "project_users_limit", project=own.emulator.project_id) == len(atlas.users())
    eventually(lambda: "nearly full" in ready(own)["users"], "/ready tells it")
    atlas.user_limit(DEFAULT_LIMIT)
    Console.of(own).json("reconcile")  # else the quota of the instances of later tests would be half of that limit
    time.sleep(RECENT_SECONDS)  # a process of the API may have read the limit just before it changed


def test_one_worker_has_a_wrong_key(own: Stack, platform: OsbClient) -> None:
    tenant = Tenant(platform).provision()
    settings = own.worker_settings | {"MONGODB_ATLAS_PRIVATE_API_KEY": "wrong"}
    with Worker(settings, "worker-wrong") as wrong:
        begun = {name: platform.bind(tenant.instance_id, name) for name in (f"b-{number}" for number in range(12))}
        found = "1 of 2 workers are refused by Atlas: their key may be wrong or revoked"
        eventually(lambda: found in ready(own)["atlas"], "/ready tells it")
        assert f"{wrong.uri}, process " in check(own)
        assert "compare its Atlas key with that of the other workers" in check(own)
        assert metric(own, "workers_in_trouble", trouble="key_refused", project=own.emulator.project_id) == 1
        refused = wrong.probe("/ready")
        assert (refused.status_code, refused.json()["status"]) == (503, "not ready")
        assert refused.json()["atlas"] == "Atlas refuses the credentials of 1 of 1 projects"
        assert wrong.log_text().count('"credentials_refused"') == 1
        assert wrong.probe("/live").status_code == 200
        assert own.workers[0].probe("/ready").status_code == 200
    for name, accepted in begun.items():
        tenant.succeed(accepted, name)


def test_an_atlas_project_is_deleted(own: Stack, platform: OsbClient, atlas: Emulator) -> None:
    tenant = Tenant(platform).provision()
    tenant.bind("left")
    project = own.emulator.project_id
    atlas.fail("*", f"/groups/{project}", times=None, status=404, error_code="GROUP_NOT_FOUND")
    console = Console.of(own)
    assert f"project {project}: Atlas refused to read project '{project}'" in check(own)
    assert "GROUP_NOT_FOUND" in check(own)
    assert tenant.end(platform.deprovision(tenant.instance_id)).state == "failed"
    refused = console.run("reconcile")
    assert refused.exit_code == 1
    assert metric(own, "reconcile_failed_projects") == 1
    assert "1 project could not be compared" in ready(own)["drift"]
    listed = console.json("instances", "list", "--project", project)
    assert tenant.instance_id in [each["instance"] for each in listed]
    console.json("purge", "instance", tenant.instance_id, "--with-bindings", "--yes")
    assert platform.deprovision(tenant.instance_id).status == 410


def test_the_key_is_revoked(own: Stack, platform: OsbClient, atlas: Emulator) -> None:
    tenants = [Tenant(platform).provision() for _ in range(2)]
    atlas.put_key(atlas.public_key, "another", [atlas.project_id])
    names = [f"secret-name-{number}" for number in range(6)]
    begun = {name: platform.bind(tenants[number % 2].instance_id, name) for number, name in enumerate(names)}
    eventually(lambda: "the circuit breaker of 1 project is open" in ready(own)["atlas"], "/ready tells it")
    project = own.emulator.project_id
    assert f"project {project}: its circuit breaker is open" in check(own)
    assert f"project {project}: Atlas refused to read project" in check(own)
    assert metric(own, "circuit_open", project=project) == 1
    body = str(ready(own))
    assert project not in body
    assert "secret-name" not in body

    def all_wait_for_the_circuit() -> bool:
        told = [platform.last_operation(tenants[names.index(name) % 2].instance_id, name).description for name in begun]
        return all("It is tried again every 10 s." in each for each in told)

    eventually(all_wait_for_the_circuit, "users read why")
    for name in begun:
        description = platform.last_operation(tenants[names.index(name) % 2].instance_id, name).description
        assert "Atlas refuses the broker's key (401); the broker's operator must look at it." in description
        assert not [other for other in names if other in description], description


def test_a_queue_has_no_workers(own: Stack, *, long_form: bool) -> None:
    """The last test: that a worker which has started is counted is what the first one shows."""
    (worker,) = own.workers
    if long_form:  # it lives and consumes nothing
        worker.pause()
    else:
        worker.stop()
    sentence = "no live worker consumes the queues instances, bindings, maintenance"
    eventually(lambda: ready(own)["workers"] == sentence, "/ready names them", seconds=30)
    assert "no live worker consumes the queue bindings" in check(own)
    assert metric(own, "workers", queue="bindings") == 0
    if long_form:
        worker.resume()
        eventually(lambda: metric(own, "workers", queue="bindings") == 1, "they are consumed again")
