"""The stories on the product itself; tests/chaos/test_planted_faults.py shows that each can fail."""

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import QUICK, SLOW, Scenario


@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.__name__)
def test_quick(chaos: Chaos, scenario: Scenario) -> None:
    scenario(chaos)


@pytest.mark.parametrize("scenario", SLOW, ids=lambda scenario: scenario.__name__)
def test_slow(chaos: Chaos, scenario: Scenario) -> None:
    scenario(chaos)
