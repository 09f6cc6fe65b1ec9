"""Stories of clusters on the product itself; tests/chaos/test_planted_faults.py shows that they can fail."""

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.cluster_scenarios import CLUSTER_STORIES, QUICK
from tests.chaos.scenarios import Scenario


@pytest.mark.parametrize("story", CLUSTER_STORIES, ids=lambda story: story.__name__)
def test_story(chaos: Chaos, story: Scenario, *, long_form: bool) -> None:
    if story not in QUICK and not long_form:
        pytest.skip("with --long; the operations of clusters are tested one by one in tests/atlas")
    story(chaos)
