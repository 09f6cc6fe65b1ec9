"""What opens a circuit, and what does not; tests/chaos shows what that means to workers."""

import time

import pytest
from structlog.testing import capture_logs

from broker_api.settings.redis_settings import RedisSettings
from broker_api.state.housekeeping import RECENT_SECONDS, Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.operation_claims import Claims
from broker_api.state.store import Store
from tests.dev.processes import HOST, free_port
from workers.engine.results import HeldBackError
from workers.guard.circuit_breaker import DOWN_SECONDS, CircuitBreaker
from workers.guard.guard import Guard
from workers.guard.rate_limiter import RateLimiter


def breaker(store: Store) -> CircuitBreaker:
    """As one worker process has it."""
    return CircuitBreaker("a-project", Housekeeping(store), Claims(store))


def check(asked: CircuitBreaker) -> None:
    """What a call asks before it is sent."""
    Guard(asked, RateLimiter("a-project", RedisSettings.parse("redis://127.0.0.1:1/0"))).before()


def fail(failing: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        failing.record_failure("Atlas is not there.", "an-operation", unauthorized=False)


def test_a_refused_key_is_told_until_a_call_succeeds(store: Store) -> None:
    mine = breaker(store)
    mine.record_failure("Atlas refuses the key.", "an-operation", unauthorized=True)
    fail(mine, 1)
    assert mine.key_refused
    mine.record_success()
    assert not mine.key_refused


def test_many_failures_at_once_do_not_open_it(store: Store) -> None:
    mine = breaker(store)
    fail(mine, 50)
    check(mine)


def test_nothing_but_failures_for_a_while_opens_it_for_all_workers(store: Store) -> None:
    mine, anothers = breaker(store), breaker(store)
    check(anothers)
    fail(mine, 2)
    time.sleep(max(DOWN_SECONDS, RECENT_SECONDS) + 0.05)
    fail(mine, 1)
    for each in (mine, anothers):
        with pytest.raises(HeldBackError, match="Atlas is not there"):
            check(each)


def test_it_says_that_it_opens_only_when_it_does(store: Store) -> None:
    with connect(f"mongodb://{HOST}:{free_port()}/", 100) as lost, capture_logs() as lines:
        failing = (breaker(store), breaker(Store(lost, "none", "none")))
        for each in failing:
            fail(each, 2)
        time.sleep(DOWN_SECONDS + 0.05)
        for each in failing:
            fail(each, 1)
    assert [line["event"] for line in lines] == ["circuit_opened", "circuit_not_opened"]


def test_a_success_in_between_begins_the_count_anew(store: Store) -> None:
    """An Atlas that fails every other call is in use."""
    mine = breaker(store)
    fail(mine, 2)
    time.sleep(DOWN_SECONDS + 0.05)
    mine.record_success()
    fail(mine, 50)
    check(mine)


def test_a_success_closes_it_for_all_workers(store: Store) -> None:
    mine, anothers = breaker(store), breaker(store)
    fail(mine, 2)
    time.sleep(DOWN_SECONDS + 0.05)
    fail(mine, 1)
    anothers.record_success()
    time.sleep(RECENT_SECONDS + 0.05)
    check(mine)
