"""What opens a circuit, and what does not; tests/chaos shows what that means to workers."""

import time
import uuid
from collections.abc import Iterator

import pytest

from broker_api.state.claims import Claims
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.store import Store
from tests.dev.services import Mongod
from workers.circuit import DOWN_SECONDS, FRESH_SECONDS, Circuit
from workers.outcome import HeldBackError


@pytest.fixture
def store(state_mongod: Mongod) -> Iterator[Store]:
    with connect(state_mongod.uri, 5000) as client:
        yield Store(client, f"circuit-{uuid.uuid4().hex[:8]}", "instances")


def circuit(store: Store) -> Circuit:
    """As one worker process has it."""
    return Circuit("a-project", Housekeeping(store), Claims(store))


def fail(failing: Circuit, times: int) -> None:
    for _ in range(times):
        failing.failed("Atlas is not there.", unauthorized=False)


def test_many_failures_at_once_do_not_open_it(store: Store) -> None:
    mine = circuit(store)
    fail(mine, 50)
    mine.check()


def test_nothing_but_failures_for_a_while_opens_it_for_all_workers(store: Store) -> None:
    mine, anothers = circuit(store), circuit(store)
    anothers.check()
    fail(mine, 2)
    time.sleep(max(DOWN_SECONDS, FRESH_SECONDS) + 0.05)
    fail(mine, 1)
    for each in (mine, anothers):
        with pytest.raises(HeldBackError, match="Atlas is not there"):
            each.check()


def test_a_success_in_between_begins_the_count_anew(store: Store) -> None:
    """An Atlas that fails every other call is in use."""
    mine = circuit(store)
    fail(mine, 2)
    time.sleep(DOWN_SECONDS + 0.05)
    mine.succeeded()
    fail(mine, 50)
    mine.check()


def test_a_success_closes_it_for_all_workers(store: Store) -> None:
    mine, anothers = circuit(store), circuit(store)
    fail(mine, 2)
    time.sleep(DOWN_SECONDS + 0.05)
    fail(mine, 1)
    anothers.succeeded()
    time.sleep(FRESH_SECONDS + 0.05)
    mine.check()
