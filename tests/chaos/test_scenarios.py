"""The stories on the product itself; tests/chaos/test_planted_faults.py shows that they can fail."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import ALONE, SIDE_BY_SIDE, Scenario


@pytest.mark.parametrize("scenario", ALONE, ids=lambda scenario: scenario.__name__)
def test_alone(chaos: Chaos, scenario: Scenario) -> None:
    scenario(chaos)


@pytest.fixture(scope="module")
def told(breakable: Chaos) -> Iterator[dict[Scenario, Future[None]]]:
    """All at once: they wait most of the time."""
    breakable.mend()
    with ThreadPoolExecutor(len(SIDE_BY_SIDE)) as pool:
        yield {scenario: pool.submit(scenario, breakable) for scenario in SIDE_BY_SIDE}


@pytest.mark.parametrize("scenario", SIDE_BY_SIDE, ids=lambda scenario: scenario.__name__)
def test_side_by_side(told: dict[Scenario, Future[None]], scenario: Scenario) -> None:
    told[scenario].result()
