"""One broker for all tests of how it lives with Atlas. It is never killed; what a test changes in Atlas is undone."""

from collections.abc import Iterator

import pytest

from tests.atlas.broker import Broker, ManyProjects, furnish
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.emulator.buckets import LIMITS
from tests.emulator.client import Emulator


@pytest.fixture(scope="session")
def many_projects(
    state_mongod: Mongod, cluster_mongod: Mongod, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ManyProjects]:
    with AtlasEmulator(cluster_mongod, name="atlas-of-many") as emulator:
        furnish(emulator.control)
        with ManyProjects(emulator, tmp_path_factory.mktemp("secrets"), state_mongod, cluster_mongod) as stack:
            yield stack


@pytest.fixture(scope="session")
def _broker(many_projects: ManyProjects) -> Iterator[Broker]:
    with many_projects.client() as client:
        yield Broker(many_projects, client)


@pytest.fixture
def broker(_broker: Broker) -> Iterator[Broker]:
    yield _broker
    calm(_broker.atlas)


@pytest.fixture
def atlas(broker: Broker) -> Emulator:
    """Steers the Atlas of the broker of these tests."""
    return broker.atlas


def calm(atlas: Emulator) -> None:
    """No faults, changes applied at once, full buckets."""
    atlas.heal()
    atlas.apply_at_once()
    atlas.apply_now()
    atlas.latency(0)
    for name, limit in LIMITS.items():
        atlas.rate(name, capacity=limit.capacity, refill=limit.refill, seconds=limit.seconds)
