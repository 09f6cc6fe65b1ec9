import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.dev.demo_tour import Screen, Tour, play
from tests.dev.emulated import AtlasEmulator
from tests.dev.new_cluster_demo import PLANS, SETTINGS, NewClusterTour
from tests.dev.processes import CHECKOUT, descendants, script
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import OsbClient

STORY = [
    "catalog",
    "provision .*in progress",
    "provision .*succeeded",
    "bind .*in progress",
    "bind .*succeeded",
    r"credentials .*\*\*\*\*\*\*\*\*",
    "log in .*write",
    "refused .*another database",
    "bind .*the same credentials",
    "unbind .*in progress",
    "unbind .*succeeded",
    "refused .*log in",
    "deprovision .*in progress",
    "deprovision .*succeeded",
    "database .*gone",
    "all of it happened",
]


def test_the_demo_tells_the_whole_story_in_plain_lines_and_ends_with_0() -> None:
    run = subprocess.run(
        [script("atlas-broker"), "demo"], cwd=CHECKOUT, capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"[\s\S]*\n".join(STORY), run.stdout), run.stdout
    assert "\r" not in run.stdout
    assert "\x1b" not in run.stdout


NEW_CLUSTER_STORY = [
    r"provision .*Atlas is creating the cluster .*\(Flex, AWS EU_WEST_1\), for",
    "provision .*succeeded: instance .* with a flex cluster",
    "cluster .*is IDLE in Atlas, tagged atlas-broker .*, instance_id .*, operation",
    "log in .*write",
    "refused .*log in",
    "deprovision .*Atlas is deleting the cluster",
    "cluster .*is gone",
    r"provision .*Atlas is creating the cluster .*\(tier M10, AWS EU_WEST_1\), for",
    "provision .*succeeded: instance .* with a dedicated cluster",
    "log in .*write",
    "update .*Atlas is changing the cluster",
    "update .*succeeded: tier M20",
    "deprovision .*succeeded",
    "cluster .*is gone",
    "all of it happened",
]


def test_the_demo_of_new_clusters_tells_what_atlas_is_doing(*, long_form: bool) -> None:
    if not long_form:
        pytest.skip("with --long: dedicated clusters are looked at every 15 s only")
    run = subprocess.run(
        [script("atlas-broker"), "demo", "--new-cluster"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"[\s\S]*\n".join(NEW_CLUSTER_STORY), run.stdout), run.stdout


@pytest.mark.parametrize("kind", PLANS)
def test_the_story_of_a_new_cluster_happens(
    kind: str, state_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator, atlas: Emulator
) -> None:
    """In this process, where clusters under way are looked at more often."""
    atlas.cluster_times(kind, creating={"reads": 1}, updating={"reads": 1}, deleting={"reads": 1})
    own_redis = redis_server.uri.removesuffix("/0") + "/6"
    stack = Stack(
        flower=False,
        settings={**SETTINGS, "BROKER_SETTLE_SECONDS": "0", "BROKER_REDIS_URL": own_redis},
        state=state_mongod,
        cluster=emulator.cluster,
        redis=redis_server,
        emulator=emulator,
    )
    with in_this_process(stack), stack.client() as client:
        assert play(NewClusterTour(stack, client, Screen(), kind))
    assert not atlas.users()


def test_a_step_that_does_not_happen_ends_the_demo_with_a_clear_line(
    stack: Stack, client: OsbClient, atlas: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    atlas.user_limit(0)
    assert not play(Tour(stack, client, Screen()))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("bind")
    assert "did not happen" in last


@contextmanager
def _dev() -> Iterator[subprocess.Popen[str]]:
    command = [str(script("atlas-broker")), "dev", "--workers", "1"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_dev_says_where_everything_is_reports_who_dies_and_leaves_nothing_behind() -> None:
    with _dev() as dev:
        told = _read_until(dev, "Ctrl-C")
        for part in ("API:", "Flower:", "Atlas (emulator):", "clusters:", "MongoDB, state:", "Redis:", "logs:"):
            assert part in told, told
        (broker,) = re.findall(r"^for curl: +export BROKER=(\S+)$", told, re.MULTILINE)
        assert requests.get(f"{broker}/v2/catalog", headers={"X-Broker-API-Version": "2.17"}, timeout=10).ok
        children = descendants(dev.pid)
        assert len(children) >= 7
        _kill_worker(told)
        assert "worker-1 ended with status -9" in _read_until(dev, "worker-1")
        dev.send_signal(signal.SIGINT)
        assert dev.wait(100) == 0
    assert not [pid for pid in children if _runs(pid)]
    assert not _run_directory(told).exists()


def _read_until(dev: subprocess.Popen[str], word: str) -> str:
    assert dev.stdout is not None
    lines: list[str] = []
    for line in dev.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"{word!r} was never said:\n{''.join(lines)}")


def _kill_worker(told: str) -> None:
    found = re.search(r"worker-1: +process (\d+)", told)
    assert found
    os.kill(int(found[1]), signal.SIGKILL)


def _run_directory(told: str) -> Path:
    found = re.search(r"logs: +(.*)", told)
    assert found
    return Path(found[1]).parents[1]


def _runs(pid: int) -> bool:
    """A zombie runs no more; it waits for the init process to notice."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
