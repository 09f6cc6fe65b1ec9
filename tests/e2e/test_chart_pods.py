"""The processes of the chart's pods, on this machine, with exactly what their pods give them."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deploy.chart import EXISTING, Rendered, environment, merged, render
from tests.dev.broker import CELERY, Api, Worker
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import HOST, run_to_end, script
from tests.dev.services import Mongod, Redis
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually, works

KEY = "A" * 43 + "="


class ApiPod(Api):
    """Options as in the container; then a free port of this machine."""

    def __init__(self, settings: Mapping[str, str], options: Sequence[str]) -> None:
        super().__init__(settings)
        self.options = options

    def command(self) -> Sequence[str | Path]:
        return [script("atlas-broker"), *self.options, f"--host={HOST}", f"--port={self.port}"]


class WorkerPod(Worker):
    """Options as in the container; then a name."""

    def __init__(self, settings: Mapping[str, str], options: Sequence[str], name: str) -> None:
        super().__init__(settings, name)
        self.options = options

    def command(self) -> Sequence[str | Path]:
        return [*CELERY, *self.options, "-n", self.uri]

    def answers(self) -> bool:
        return self.probe("/ready").ok


@pytest.fixture
def contents(state_mongod: Mongod, emulator: AtlasEmulator, *, long_form: bool) -> Iterator[dict[str, str]]:
    """What the keys of the Secrets hold."""
    if not long_form:
        pytest.skip("with --long: tests/deploy/test_chart.py loads the same settings, without processes")
    with Redis("redis-pods") as redis:
        yield {
            "BROKER_MONGO_URI": state_mongod.uri,
            "BROKER_REDIS_URL": redis.uri,
            "BROKER_USERS": "platform/platform:one",
            "BROKER_ENCRYPTION_KEYS": KEY,
            "MONGODB_ATLAS_PUBLIC_API_KEY": emulator.public_key,
            "MONGODB_ATLAS_PRIVATE_API_KEY": emulator.private_key,
        }


def test_the_pods_of_the_chart_are_a_whole_broker(
    contents: dict[str, str], emulator: AtlasEmulator, tmp_path: Path
) -> None:
    settings = {
        "BROKER_MONGO_DB": f"pods-{secrets.token_hex(4)}",
        "BROKER_MONGO_TIMEOUT_MS": 20_000,
        "BROKER_SETTLE_SECONDS": 0,
        "MONGODB_ATLAS_BASE_URL": emulator.uri,
    }
    own = {"settings": settings, "atlas": {"projectId": emulator.project_id}}
    made = Rendered(render(merged(EXISTING, own)))
    options = {name: container.get("args", []) for name, container in made.ours().items()}
    given = {name: environment(made, name, tmp_path, contents) for name in options}
    (check,) = made.of_kind("Job")
    (api_name,) = options.keys() - {check, *made.queues()}
    with ExitStack() as running:
        for name in made.queues():
            running.enter_context(WorkerPod(given[name], options[name], name))
        api = running.enter_context(ApiPod(given[api_name], options[api_name]))
        checked = run_to_end([script("atlas-broker"), *made.ours()[check]["command"][1:]], given[check])
        assert checked.returncode == 0, checked.stdout + checked.stderr
        with OsbClient(api.uri, "platform", "one") as platform:
            tenant = Tenant(platform).provision()
            assert works(tenant.bind("b"))
            (tmp_path / "BROKER_USERS").write_text("platform/platform:one,next/platform:two")
            changed = OsbClient(api.uri, "next", "two")
            eventually(lambda: changed.catalog().status == 200, "the new user is known without a restart")
            tenant.unbind("b")
            tenant.deprovision()
