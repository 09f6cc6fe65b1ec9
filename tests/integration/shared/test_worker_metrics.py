"""The metrics of workers: what they count of operations that real processes run, and how they are served."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.dev.broker import Worker
from tests.dev.processes import run_to_end
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.tenant import Tenant, eventually
from workers.atlas import endpoints
from workers.atlas.endpoints import ApiEndpoint

Samples = Counter[tuple[str, ...]]
PHASES = "atlas_broker_operation_seconds"


def samples(text: str) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name.startswith("atlas_broker_"):
                yield sample.name, tuple(sample.labels.values()), sample.value


def counted(stack: Stack) -> Samples:
    """Return what all workers of a stack have counted, by name and labels in the order of their names."""
    total: Samples = Counter()
    for worker in stack.workers:
        for name, labels, value in samples(worker.metrics()):
            if not name.endswith(("_bucket", "_created")):
                total[name, *labels] += value  # type: ignore[assignment]  # seconds
    return total


def test_calls_and_phases_are_those_of_the_operations(oauth_stack: Stack, atlas: Emulator) -> None:
    before = counted(oauth_stack)
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        atlas.fail("POST", "databaseUsers", status=503)
        tenant.bind("b")
        began = time.monotonic()
        tenant.unbind("b")
    with oauth_stack.state.client() as state:
        collection = state[oauth_stack.database]["instances"]
        operation = next(collection.find({"instance_id": tenant.instance_id, "binding_id": "b"}))["operation"]

    def since() -> Samples:
        return counted(oauth_stack) - before

    eventually(lambda: since()[f"{PHASES}_count", "applying", "unbind"] == 1, "the end of the unbind is counted")
    waited = time.monotonic() - began
    now = since()
    for kind, phases in {"provision": "queued atlas", "bind": "queued atlas applying"}.items():
        assert [now[f"{PHASES}_count", phase, kind] for phase in phases.split()] == [1] * len(phases.split())
    assert now[f"{PHASES}_count", "applying", "provision"] == 0
    spent = sum(now[f"{PHASES}_sum", phase, "unbind"] for phase in ("queued", "atlas", "applying"))
    queued = (operation["first_claimed"] - operation["accepted"]).total_seconds()
    # A worker counts from before its claim, which is in the queued time too, and until its last write is answered.
    assert (operation["finished"] - operation["accepted"]).total_seconds() - 0.3 < spent < waited + queued
    assert now[f"{PHASES}_sum", "queued", "unbind"] == pytest.approx(queued, abs=0.001)
    assert now[f"{PHASES}_sum", "queued", "bind"] > 0
    assert now[f"{PHASES}_sum", "applying", "bind"] >= 1, "BROKER_SETTLE_SECONDS"

    create = endpoints.CREATE_USER
    calls = "atlas_broker_atlas_requests_total", f"{create.method} {create.path}"
    assert (now[*calls, "503"], now[*calls, "201"]) == (1, 1)
    assert now["atlas_broker_atlas_request_seconds_count", calls[1]] == 2
    assert now["atlas_broker_retries_total", "bind"] == 1
    assert now["atlas_broker_lease_takeovers_total", "bind"] == 0

    templates = {f"{each.method} {each.path}" for each in vars(endpoints).values() if isinstance(each, ApiEndpoint)}
    assert {labels[0] for name, *labels in counted(oauth_stack) if "_atlas_request" in name} <= templates
    remaining = [value for (name, *_), value in counted(oauth_stack).items() if name.endswith("limit_remaining")]
    assert remaining
    assert all(value > 0 for value in remaining)


def test_they_are_served_on_ipv6_too_and_tell_no_id(oauth_stack: Stack) -> None:
    worker = oauth_stack.workers[0]
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
    text = requests.get(f"http://[::1]:{worker.port}/metrics", timeout=5).text
    assert "atlas_broker_atlas_requests_total" in text
    assert tenant.instance_id not in text


def test_a_port_that_is_taken_ends_a_worker_with_one_line(oauth_stack: Stack) -> None:
    taken = str(oauth_stack.workers[0].port)
    settings = {**oauth_stack.worker_settings, "BROKER_METRICS_PORT": taken}
    ended = run_to_end(Worker(settings, "worker-second").command(), settings)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert last == f"atlas-broker: BROKER_METRICS_PORT: port {taken} cannot be opened: Address already in use"
    assert "Traceback" not in ended.stderr
