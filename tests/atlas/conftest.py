"""One broker for all tests of how it lives with Atlas. It is never killed; what a test changes in Atlas is undone."""

from collections.abc import Iterator

import pytest

from tests.atlas.broker import Broker, ManyProjects, furnish
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.emulator.buckets import LIMITS
from tests.emulator.client import Emulator


@pytest.fixture(scope="session")
def atlas_of_many(cluster_mongod: Mongod) -> Iterator[AtlasEmulator]:
    with AtlasEmulator(cluster_mongod, name="atlas-of-many") as emulator:
        furnish(emulator.control)
        yield emulator


@pytest.fixture(scope="session")
def _broker(
    atlas_of_many: AtlasEmulator,
    state_mongod: Mongod,
    cluster_mongod: Mongod,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Broker]:
    """It believes each APPLIED at once, since this Atlas never shows an old one unless a test says so."""
    secrets = tmp_path_factory.mktemp("secrets")
    with (
        ManyProjects(atlas_of_many, secrets, state_mongod, cluster_mongod, settle=0) as stack,
        stack.client() as client,
    ):
        yield Broker(stack, client)


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
