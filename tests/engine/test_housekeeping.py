"""Documents that a process needs often, on the real MongoDB."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from pymongo import MongoClient, monitoring

from broker_api.state.housekeeping import RECENT_SECONDS, Housekeeping
from broker_api.state.mongo import Document
from broker_api.state.store import Store
from tests.dev.services import Mongod
from tests.engine.conftest import Clock


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def housekeeping(state_mongod: Mongod, commands: Commands, clock: Clock) -> Iterator[Housekeeping]:
    name = f"housekeeping-{uuid4().hex[:8]}"
    with MongoClient[Document](state_mongod.uri, event_listeners=[commands], tz_aware=True) as client:
        yield Housekeeping(Store(client, name, "instances"), clock=clock)
        client.drop_database(name)


def test_documents_that_are_needed_often_are_read_together(
    housekeeping: Housekeeping, commands: Commands, clock: Clock
) -> None:
    housekeeping.write("a", {"value": 1})
    housekeeping.write("b", {"value": 2})
    for name in ("a", "b", "absent"):
        housekeeping.recent(name)
    clock.now += RECENT_SECONDS + 0.1
    commands.sent.clear()
    assert [housekeeping.recent(name).get("value") for name in ("a", "b", "absent", "a")] == [1, 2, None, 1]
    assert commands.sent == ["aggregate"]


def test_what_this_process_has_written_is_read_anew(housekeeping: Housekeeping) -> None:
    housekeeping.write("a", {"value": 1, "turn": 0})
    assert housekeeping.recent("a")["value"] == 1
    housekeeping.write("a", {"value": 2})
    assert housekeeping.recent("a")["value"] == 2
    before = housekeeping.recent("a").get("next")
    assert housekeeping.take_turn("a", "next", 60)
    assert housekeeping.recent("a")["next"] != before


def test_what_another_process_has_written_is_read_after_a_second(housekeeping: Housekeeping, clock: Clock) -> None:
    another = Housekeeping(housekeeping.store)
    assert housekeeping.recent("a") == {}
    another.write("a", {"value": 1})
    assert housekeeping.recent("a") == {}
    clock.now += RECENT_SECONDS + 0.1
    assert housekeeping.recent("a")["value"] == 1
