"""One broker on a Redis that tests of this folder may break in any way."""

from collections.abc import Iterator

import pytest

from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.dev.stack import Stack


@pytest.fixture(scope="package")
def fragile(state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    """A stack with a Redis of its own."""
    with Stack(
        flower=False,
        workers=1,
        settings={"BROKER_SETTLE_SECONDS": "0", "BROKER_CONFIG": "tests.integration.redis.gated_config:config"},
        state=state_mongod,
        cluster=cluster_mongod,
        emulator=emulator,
    ) as running:
        yield running
