"""The images, built and run: without a shell, not as root, read-only, with a whole life of an instance in them.

This takes some minutes, so it is in the long form only; tests/deploy/test_dockerfile.py reads the Dockerfile always.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import need
from tests.deploy.images import IMAGES, Image, Images, Process, tools
from tests.dev.processes import HOST, close_all, start_all
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually, works

pytestmark = pytest.mark.timeout(3600)
SIZES = {"api": 160, "worker": 180, "emulator": 180}
"""The most megabytes that an image may have."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, *, long_form: bool) -> dict[str, Image]:
    if not long_form:
        pytest.skip("with --long: takes minutes; tests/deploy/test_dockerfile.py is the short form")
    need(tools)
    built = Images(tmp_path_factory.mktemp("images"))
    built.build()
    return {name: built.image(name) for name in IMAGES}


@pytest.fixture(scope="module")
def stack(state_mongod: Mongod, cluster_mongod: Mongod, redis_server: Redis) -> Stack:
    """Settings for a broker whose processes come from the images; nothing of it is started."""
    return Stack(flower=False, state=state_mongod, cluster=cluster_mongod, redis=redis_server)


@pytest.fixture(scope="module")
def processes(images: dict[str, Image], stack: Stack) -> Iterator[dict[str, Process]]:
    """An emulated Atlas, the API, a worker and Flower, each in its image."""
    atlas = ["--host", HOST, "--port", "{port}", "--mongo", stack.cluster.uri]
    emulator = Process(images["emulator"], atlas, {}, "/api/atlas/v2")
    worker = stack.worker_settings | {"MONGODB_ATLAS_BASE_URL": emulator.uri}
    found = {
        "emulator": emulator,
        "worker": Process(images["worker"], ["worker", "-Q", "instances,bindings,maintenance"], worker, "/ready"),
        "api": Process(images["api"], ["api", "--host", "::", "--port", "{port}"], stack.api_settings, "/ready"),
        "flower": Process(images["worker"], ["flower", "--port={port}"], stack.shared_settings, "/healthcheck"),
    }
    try:
        start_all(list(found.values()))
        yield found
    finally:
        close_all(list(found.values()))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_small_and_has_no_shell_no_package_manager_and_a_user_with_a_name(
    images: dict[str, Image], name: str
) -> None:
    root = images[name].root
    print(f"{name}: {images[name].megabytes:.0f} MB")  # noqa: T201 - the table of sizes
    assert images[name].megabytes < SIZES[name]
    programs = {path.name for folder in ("bin", "sbin", "usr/bin", "usr/sbin") for path in (root / folder).glob("*")}
    assert programs == {"python3", "python3.11"}
    assert not {"pip", "pip3"} & {path.name for path in (root / "opt/venv/bin").iterdir()}
    assert (root / "etc/passwd").read_text().split(":")[0::2][:2] == ["atlas-broker", "10001"]
    assert images[name].configuration["User"] == "10001:10001"
    assert images[name].labels["org.opencontainers.image.revision"] == "of-a-test"


@pytest.mark.parametrize("name", IMAGES)
def test_the_packages_of_debian_are_listed_with_their_versions_and_copyrights(
    images: dict[str, Image], name: str
) -> None:
    root = images[name].root
    listed = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert listed >= {"ca-certificates", "libc6", "libssl3", "tzdata"}
    assert re.search(r"^Version: \S+$", (root / "var/lib/dpkg/status.d/libssl3").read_text(), re.MULTILINE)
    assert "bookworm" in (root / "etc/os-release").read_text()
    assert all((root / "usr/share/doc" / package / "copyright").stat().st_size for package in listed)


def test_the_api_image_has_no_code_that_calls_atlas(images: dict[str, Image]) -> None:
    (packages,) = images["api"].root.glob("opt/venv/lib/python3*/site-packages")
    assert (packages / "broker_api").is_dir()
    assert not [name for name in ("workers", "requests", "flower", "tests") if (packages / name).exists()]


def test_an_instance_lives_from_provision_to_deprovision(stack: Stack, processes: dict[str, Process]) -> None:
    with OsbClient(processes["api"].uri, stack.user, stack.password) as platform:
        tenant = Tenant(platform).provision()
        credentials = tenant.bind("in-images")
        assert works(credentials)
        listed = json.loads(processes["api"].run("atlas-broker", "bindings", "list", "--json"))
        assert [each["binding"] for each in listed] == ["in-images"]
        tenant.unbind("in-images")
        assert not works(credentials)
        tenant.deprovision()


def test_a_process_runs_as_the_user_and_can_write_only_to_tmp(processes: dict[str, Process]) -> None:
    for process in processes.values():
        assert process.process is not None
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001\t10001", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    tried = "import pathlib, tempfile; tempfile.TemporaryFile(); pathlib.Path('/app/x').touch()"
    with pytest.raises(RuntimeError, match=r"Read-only file system: '/app/x'"):
        processes["api"].run("python", "-c", tried)


def test_the_operator_s_commands_work_in_the_images(processes: dict[str, Process]) -> None:
    for name in ("api", "worker"):
        process = processes[name]
        assert isinstance(json.loads(process.run("atlas-broker", "operations", "list", "--json")), list)
        assert isinstance(json.loads(process.run("atlas-broker", "instances", "list", "--json")), list)
        assert process.run("atlas-broker", "keys", "generate").endswith("=")
    assert "can be used" in processes["worker"].run("atlas-broker", "check")


def test_the_probes_and_pages_answer(stack: Stack, processes: dict[str, Process]) -> None:
    worker, flower = processes["worker"], processes["flower"]
    assert [requests.get(f"{worker.uri}{path}", timeout=5).status_code for path in ("/live", "/ready")] == [200, 200]
    assert requests.get(flower.uri, timeout=10).status_code == 401
    assert requests.get(flower.uri, auth=(stack.user, stack.password), timeout=10).status_code == 200
    operations = f"{processes['api'].uri}/operations"
    assert requests.get(operations, auth=(stack.user, stack.password), timeout=10).status_code == 200


def test_sigterm_ends_each_process_in_time(processes: dict[str, Process]) -> None:
    for name in ("flower", "worker", "api"):
        assert processes[name].stop(60) == 0, processes[name].log_tail()
    assert Emulator(processes["emulator"].uri).users() == []
    eventually(lambda: not processes["api"].running, "it has ended")
