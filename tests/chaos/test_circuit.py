"""Kinds of trouble with Atlas beside the one of tests/chaos/slow.py, and refusals that concern one call only."""

from collections.abc import Callable
from http import HTTPStatus

import pytest

from tests.chaos.chaos import USERS, Chaos
from tests.chaos.scenarios import binds
from tests.chaos.slow import hanging_up, left_alone, locked
from tests.osb_client import IN_PROGRESS
from tests.tenant import eventually, succeeds


@pytest.mark.parametrize("spoil", [hanging_up, locked], ids=lambda spoil: spoil.__name__)
def test_atlas_in_trouble_is_left_alone_and_all_goes_on_afterwards(
    chaos: Chaos, spoil: Callable[[Chaos], None], *, long_form: bool
) -> None:
    if not long_form:
        pytest.skip("with --long: it watches three pauses of the circuit breaker, ten seconds each")
    left_alone(chaos, spoil, windows=3)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_on_one_call_stops_no_other(chaos: Chaos, status: int, *, long_form: bool) -> None:
    """A read-only key on one user, say: that operation waits, others are done, and it is done once it may be."""
    if status == HTTPStatus.FORBIDDEN and not long_form:
        pytest.skip("with --long: 403 is handled like 401")
    with chaos.tenant() as (tenant, refused):
        platform, instance_id = tenant.client, tenant.instance_id
        rule = chaos.atlas.fail("POST", USERS, times=None, status=status, body=refused)
        answer = platform.bind(instance_id, refused)
        eventually(lambda: chaos.reached(rule, 3), "several refusals", 30.0)
        for each, other in binds(tenant, 4).items():
            succeeds(platform, other, instance_id, each, seconds=9.0)
        assert platform.last_operation(instance_id, refused, answer.operation).state == IN_PROGRESS
        chaos.atlas.heal(rule)
        succeeds(platform, answer, instance_id, refused)
