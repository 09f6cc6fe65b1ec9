"""Real servers, started once per run on free ports, and a network that ends at this machine."""

import gc
import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import coverage
import pytest
import requests
import structlog
from hypothesis import settings
from prometheus_client.parser import text_string_to_metric_families
from xdist.scheduler import LoadScopeScheduling

from broker_api.state.mongo import connect
from broker_api.state.store import Store
from tests.dev import binaries
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import CHECKOUT, NO_PROXY
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.request_log import REQUESTS

SHARED_CONFIG = "tests.shared_config:config"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long forms of tests that have one")
    parser.addoption("--chaos-seed", type=int, default=20261122, help="chaos: the seed of load and faults")
    parser.addoption("--chaos-minutes", type=float, default=0, help="chaos: how long (30 with --long)")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(refuse_the_network)
    # ``requests`` looks at all variables for a proxy otherwise, which fails in a thread while pytest changes its own.
    os.environ.update(NO_PROXY)
    gc.disable()  # until all tests are collected, which stay
    config.addinivalue_line("markers", "rule(*numbers): the rules of tests/osb that the test is about")
    settings.register_profile("tests", deadline=None, max_examples=100 if config.getoption("--long") else 15)
    settings.load_profile("tests")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


APART = ("atlas", "deploy", "integration", "unit")
"""Folders whose files share few servers or none."""
TOGETHER = ("e2e", "properties")
"""Short folders that share a stack."""
LONGEST = (
    "integration/shared/",
    "osb/",
    "e2e/",
    "properties/",
    "chaos/",
    "atlas/test_own_clusters",
    "atlas/",
    "integration/redis/",
    "engine/",
    "integration/unusual_settings/",
    "integration/test_staged_faults",
    "bench/",
)
"""How the paths of the tests begin that take longest, the longest first."""


class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """With ``-n``, keep the tests of a folder in one process, since they share servers; files of ``APART`` go alone.

    The folders of ``TOGETHER`` are as one.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::", 1)[0])
        if file.parent.name in TOGETHER:
            return "/".join(TOGETHER)
        return str(file if file.parent.name in APART else file.parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that take longest, so that none of them is what all wait for in the end."""
    starts = [f"tests/{folder}" for folder in LONGEST]

    def rank(item: pytest.Item) -> int:
        return next((place for place, start in enumerate(starts) if item.nodeid.startswith(start)), len(starts))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FolderScheduling:
    config.option.loadscopereorder = False  # what takes longest comes first as it is
    return FolderScheduling(config, log)


class NetworkRefused(RuntimeError):
    """A test wanted to leave this machine."""


def refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse connections to other machines; an audit hook sees every socket of this process, in any library."""
    if event not in ("socket.connect", "socket.sendto"):
        return
    address = arguments[1]
    if isinstance(address, tuple) and not _is_local(str(address[0])):
        raise NetworkRefused(f"A test wanted to reach {address[0]} port {address[1]}; only this machine is allowed.")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session", autouse=True)
def every_5xx_was_asked_for() -> Iterator[None]:
    """Fails the run when a platform was given a 5xx without having announced it (``with client.expecting(504):``)."""
    yield
    assert not REQUESTS.unasked, "\n".join(["5xx that no test asked for:", *REQUESTS.unasked])


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Return whether the long forms of tests were asked for (``--long``)."""
    return bool(request.config.getoption("--long"))


def need(find: Callable[[], object]) -> None:
    """Raise an error where CI is set and a program is missing; elsewhere skip, with what to install."""
    try:
        find()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def state_mongod() -> Iterator[Mongod]:
    """A one-node replica set; take a database of your own in it."""
    need(binaries.mongod)
    with Mongod("mongod-state") as server:
        yield server


@contextmanager
def new_store(server: Mongod) -> Iterator[Store]:
    """A store in a database of its own."""
    with connect(server.uri, 20_000) as client:
        store = Store(client, f"store-{uuid4().hex[:8]}", "instances")
        yield store
        client.drop_database(store.collection.database.name)


@pytest.fixture
def store(state_mongod: Mongod) -> Iterator[Store]:
    """A store in a database of its own, with its indexes."""
    with new_store(state_mongod) as store:
        store.prepare()
        yield store


@pytest.fixture(scope="session")
def cluster_mongod() -> Iterator[Mongod]:
    """The emulated Atlas cluster's server, with access control on."""
    need(binaries.mongod)
    with Mongod("mongod-cluster", auth=True) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    need(binaries.redis_server)
    with Redis() as server:
        yield server


EMULATOR = pytest.StashKey[AtlasEmulator]()


@pytest.fixture(scope="session")
def emulator(cluster_mongod: Mongod, pytestconfig: pytest.Config) -> Iterator[AtlasEmulator]:
    with AtlasEmulator(cluster_mongod) as server:
        pytestconfig.stash[EMULATOR] = server
        yield server


@pytest.fixture(scope="module", autouse=True)
def empty_atlas_for_each_file(pytestconfig: pytest.Config) -> None:
    """Begin each file with an empty Atlas, since bindings in many files have the same name."""
    if server := pytestconfig.stash.get(EMULATOR, None):
        server.control.clear()


@pytest.fixture
def atlas(emulator: AtlasEmulator) -> Iterator[Emulator]:
    """Steers the emulated Atlas; what a test changes in it is undone, its users too."""
    yield emulator.control
    emulator.control.clear()


@pytest.fixture(autouse=True)
def empty_atlas(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    """A test that looks at the emulated Atlas begins with an empty one, whatever tests without ``atlas`` have left."""
    if {"atlas", "emulator"} <= set(request.fixturenames) and (server := pytestconfig.stash.get(EMULATOR, None)):
        server.control.clear()


@pytest.fixture(autouse=True)
def log_configuration_stays() -> Iterator[None]:
    """Fails a test that configures the logs of this process: tests after it would capture no lines."""
    before = structlog.get_config()
    yield
    assert structlog.get_config() == before, "run what configures logs in a process of its own"


def measured() -> dict[str, str]:
    """Return settings that measure the coverage in the processes of a stack, where that of this process is measured.

    Only stacks that many tests share have them, since a process takes twice as long to start with them.
    """
    return {"COVERAGE_PROCESS_START": str(CHECKOUT / "pyproject.toml")} if coverage.Coverage.current() else {}


@pytest.fixture(scope="session")
def stack(
    state_mongod: Mongod, cluster_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator
) -> Iterator[Stack]:
    """API and two workers that all tests share; a test that kills a worker starts it again.

    The first ``APPLIED`` confirms a change there; tests of an old ``APPLIED`` use ``oauth_stack`` or their own stack.
    """
    with Stack(
        flower=False,
        settings={"BROKER_SETTLE_SECONDS": "0", "BROKER_CONFIG": SHARED_CONFIG, **measured()},
        state=state_mongod,
        cluster=cluster_mongod,
        redis=redis_server,
        emulator=emulator,
    ) as running:
        yield running
        _compare_server_errors(running)


@pytest.fixture(scope="session")
def oauth_stack(state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    """A second one that all tests share: its worker uses a service account, and it has Flower."""
    need(binaries.redis_server)
    with Stack(
        workers=1,
        oauth=True,
        settings={"BROKER_CONFIG": SHARED_CONFIG, **measured()},
        state=state_mongod,
        cluster=cluster_mongod,
        emulator=emulator,
    ) as running:
        yield running
        _compare_server_errors(running)


def _compare_server_errors(stack: Stack) -> None:
    """Compare with the count of the API, which also sees the requests of tests that do not use ``OsbClient``."""
    metrics = requests.get(f"{stack.api.uri}/metrics", auth=(stack.user, stack.password), timeout=10).text
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    counted = [
        s for s in samples if s.name == "atlas_broker_http_request_seconds_count" and s.labels["status"] >= "500"
    ]
    served = sum(sample.value for sample in counted)
    assert served <= REQUESTS.server_errors(stack.api.uri), f"5xx that OsbClient has not seen: {counted}"


@pytest.fixture
def client(stack: Stack) -> Iterator[OsbClient]:
    """A platform that talks to the shared stack."""
    with stack.client() as platform:
        yield platform
