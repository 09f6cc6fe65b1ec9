"""The budget of MongoDB commands, Redis messages and Atlas calls of an operation. It does not depend on the machine."""

from collections.abc import Iterator

import pytest

from broker_api.state.operation_claims import RESEND_SECONDS
from tests.bench.counts import PAUSE_SECONDS, Counts, Meter
from tests.bench.lab import API, Lab
from tests.conftest import need
from tests.dev import binaries

ONE_BY_ONE, AT_ONCE = 20, 100
COMMANDS = {"bind": 8, "unbind": 6, "close bind": 10, "close unbind": 8, "at once": 8}
"""Binds that are close to each other wait for their turn to ask for the status, or not: this is what waiting costs."""
COMMANDS_PER_SECOND = 8
"""What a broker at work reads in a second, whatever the number of operations, beyond what an idle one does."""
ACCEPT_COMMANDS, MESSAGES = 2, 1
CALLS_ONE_BY_ONE, CALLS_AT_ONCE = 2.5, 1.2
TOLERANCE = 0.3
"""The sweeper's commands are subtracted as they were in an idle time, which is not exact."""


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Counts]]:
    """What each kind of operation costs, counted once for all tests."""
    need(binaries.mongod)
    need(binaries.redis_server)
    with Lab(short=True, old_python=None) as lab:
        meter = Meter(lab.broker(), lab)
        binds, unbinds = meter.one_by_one(ONE_BY_ONE, PAUSE_SECONDS)
        close_binds, close_unbinds = meter.one_by_one(ONE_BY_ONE, 0)
        yield {
            "bind": binds,
            "unbind": unbinds,
            "close bind": close_binds,
            "close unbind": close_unbinds,
            "at once": meter.at_once(AT_ONCE),
            "poll": meter.polls(ONE_BY_ONE),
        }
        meter.close()


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_operation_keeps_to_its_budget_of_commands(found: dict[str, Counts], kind: str) -> None:
    counts = found[kind]
    assert 1 <= counts.commands_each(API) <= ACCEPT_COMMANDS + TOLERANCE, counts.by_name(kind)
    others = COMMANDS_PER_SECOND * counts.seconds / counts.operations
    assert counts.commands_each() <= COMMANDS[kind] + others, counts.by_name(kind)


def test_a_poll_costs_one_command(found: dict[str, Counts]) -> None:
    assert 1 <= found["poll"].commands_each(API) <= 1 + TOLERANCE, found["poll"].by_name("poll")


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_operation_sends_one_message(found: dict[str, Counts], kind: str) -> None:
    counts = found[kind]
    assert 1 <= counts.messages / counts.operations <= MESSAGES + TOLERANCE
    # The sweeper sends again what waits for a thread, which on a busy machine can be all that were sent at once.
    again = counts.seconds // RESEND_SECONDS if kind == "at once" else 0
    assert counts.resent / counts.operations <= TOLERANCE + again


@pytest.mark.parametrize(("kind", "calls"), [("bind", CALLS_ONE_BY_ONE), ("at once", CALLS_AT_ONCE)])
def test_one_status_poll_serves_many_binds(found: dict[str, Counts], kind: str, calls: float) -> None:
    counts = found[kind]
    assert counts.calls["POST databaseUsers"] == counts.operations
    assert counts.operations < counts.calls.total() <= calls * counts.operations, counts.by_name(kind)
