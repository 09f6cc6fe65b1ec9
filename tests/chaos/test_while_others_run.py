"""What another broker has gone through since this folder's first test; the last file, so that most of it is done."""

from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import Scenario
from tests.chaos.slow import SLOW, SLOWEST


@pytest.mark.parametrize("slow", [*SLOW, *SLOWEST], ids=lambda scenario: scenario.__name__)
def test_slow(elsewhere: Mapping[Scenario, Future[None]], slow: Scenario, *, long_form: bool) -> None:
    if slow in SLOWEST and not long_form:
        pytest.skip("with --long: leases and requests of up to 30 s have to end")
    elsewhere[slow].result()


def test_a_broker_told_to_stop_ends_well(breakable: Chaos) -> None:
    """API and workers, idle, all end with status 0 in their grace period; the last test, after which none starts."""
    breakable.mend()
    servers = breakable.broker
    statuses = dict(zip([server.name for server in servers], breakable.stop(*servers, seconds=15.0), strict=True))
    assert statuses == dict.fromkeys(statuses, 0)
