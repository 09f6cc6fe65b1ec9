"""Files may have a broker of their own in the process of the tests."""

from collections.abc import Callable, Iterator

import pytest

from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.in_process import InThisProcess, in_this_process


@pytest.fixture(scope="session")
def new_stack(
    state_mongod: Mongod, cluster_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator
) -> Callable[[], Stack]:
    """Make a stack with documents of its own whose processes are not started, for ``in_this_process``.

    No worker takes its messages, so that all of these stacks can share a database of Redis.
    """

    def make() -> Stack:
        return Stack(
            flower=False,
            settings={"BROKER_REDIS_URL": redis_server.uri.removesuffix("/0") + "/4", "BROKER_SETTLE_SECONDS": "0"},
            state=state_mongod,
            cluster=cluster_mongod,
            redis=redis_server,
            emulator=emulator,
        )

    return make


@pytest.fixture(scope="module")
def broker(stack: Stack) -> Iterator[InThisProcess]:
    """A broker in this process, for files whose ``stack`` is a new one."""
    with in_this_process(stack) as running:
        yield running
