"""One broker for all tests of how it lives with Atlas, in this process. What a test changes in Atlas is undone."""

from collections.abc import Callable, Iterator

import pytest

from tests.atlas.broker import Broker, ManyProjects, furnish, project_secrets
from tests.atlas.operator_config import OperatorConfig
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod, Redis
from tests.emulator.client import Emulator
from tests.in_process import in_this_process


@pytest.fixture(scope="package")
def atlas_of_many(cluster_mongod: Mongod) -> Iterator[AtlasEmulator]:
    with AtlasEmulator(cluster_mongod, name="atlas-of-many") as emulator:
        furnish(emulator.control)
        yield emulator


@pytest.fixture(scope="package")
def many_projects(
    atlas_of_many: AtlasEmulator,
    state_mongod: Mongod,
    cluster_mongod: Mongod,
    redis_server: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[float], ManyProjects]:
    """Makes a stack for the projects of this folder, which settles for so many seconds; it is not started yet."""

    def make(settle: float) -> ManyProjects:
        secrets = tmp_path_factory.mktemp("secrets")
        return ManyProjects(atlas_of_many, secrets, state_mongod, cluster_mongod, redis_server, settle=settle)

    return make


@pytest.fixture(scope="package")
def _broker(many_projects: Callable[[float], ManyProjects]) -> Iterator[Broker]:
    """It believes each APPLIED at once, since this Atlas never shows an old one unless a test says so."""
    stack = many_projects(0)
    with in_this_process(stack, OperatorConfig({"atlas": project_secrets()})) as log, stack.client() as client:
        yield Broker(stack, client, [log])


@pytest.fixture(scope="package")
def processes(many_projects: Callable[[float], ManyProjects]) -> Iterator[Broker]:
    """Another one in processes of its own; it knows of the stale APPLIED and settles for a second."""
    with many_projects(1) as stack, stack.client() as client:
        yield Broker(stack, client)


@pytest.fixture
def broker(_broker: Broker) -> Iterator[Broker]:
    yield _broker
    _broker.atlas.calm()


@pytest.fixture
def atlas(broker: Broker) -> Emulator:
    """Steers the Atlas of the broker of these tests."""
    return broker.atlas
