"""Stories that outlast leases, outages and pauses. They are told on a broker of their own while other tests run."""

import time
from collections.abc import Callable
from functools import partial

from tests.chaos.chaos import USERS, Chaos
from tests.chaos.points import an_operation_goes_on_wherever_its_worker_dies_or_stands_still
from tests.chaos.scenarios import (
    Scenario,
    a_temporary_user_made_late_is_removed,
    a_worker_that_lost_its_lease_writes_nothing,
    an_unbind_waits_for_a_request_that_is_still_under_way,
    binds,
)
from tests.osb_client import IN_PROGRESS, OsbClient
from tests.tenant import Tenant, eventually

SATURATED = 32 + 12
"""More jobs than one worker's slots: the last dozen messages are taken from Redis and not acknowledged yet."""
QUIET_SECONDS = 3.0
PROBE_CALLS = 4
"""One attempt: at most two calls of a job, each with digest's first leg."""


def a_worker_outlives_redis_with_messages_unacknowledged(chaos: Chaos) -> None:
    """kombu 5.7 without the guard ends the worker. Redis is killed and comes back empty, twice; all binds are done."""
    worker, other = chaos.stack.workers
    chaos.kill(other)
    with chaos.tenant() as (tenant, _):
        for _ in range(2):
            rule = chaos.atlas.hang("POST", USERS, seconds=2, times=SATURATED)
            answers = binds(tenant, SATURATED)
            eventually(partial(chaos.reached, rule, 32), "all slots are busy")
            chaos.kill(chaos.stack.redis)
            chaos.start(chaos.stack.redis)
            for each, answer in answers.items():
                tenant.succeed(answer, each)
            chaos.atlas.heal(rule)
            assert worker.running, worker.report_of_end()
            assert answers.keys() <= chaos.users()
        tenant.deprovision()


def all_processes_outlive_redis_and_mongodb(chaos: Chaos) -> None:
    """Both are away for longer than any time-out; then everything goes on by itself, in the same processes."""
    numbers = [server.process and server.process.pid for server in chaos.broker]
    chaos.kill(chaos.stack.redis, chaos.stack.state)
    with chaos.platform() as platform:
        with platform.expecting(503):
            assert platform.request("GET", "/ready", auth=None).status == 503
        time.sleep(6)
        chaos.start(chaos.stack.redis, chaos.stack.state)
        assert Tenant(platform).provision().bind()
    assert [server.process and server.process.pid for server in chaos.broker] == numbers


def in_trouble(platform: OsbClient) -> bool:
    """Whether /ready says so of Atlas; the broker itself stays ready."""
    answer = platform.ready()
    assert answer.status == 200, answer.text
    return bool(answer.json["atlas"] != "ok")


def calls_in(chaos: Chaos, seconds: float) -> int:
    """Return how many calls Atlas gets in the next seconds."""
    chaos.atlas.forget_calls()
    time.sleep(seconds)
    return len(chaos.atlas.calls())


def left_alone(chaos: Chaos, spoil: Callable[[Chaos], object], windows: int = 1) -> None:
    """Workers wait, say so, try again every ten seconds, and go on by themselves; so many ten seconds are counted."""
    with chaos.tenant() as (tenant, _):
        spoil(chaos)
        answers = binds(tenant, 12)
        eventually(lambda: in_trouble(tenant.client), "/ready says that Atlas is in trouble")
        # It says so at the first refusal of a key, before the circuit breaker opens.
        eventually(lambda: calls_in(chaos, QUIET_SECONDS) == 0, "the circuit breaker is open")
        chaos.atlas.forget_calls()
        time.sleep(10.0 * windows)
        assert len(chaos.atlas.calls()) <= PROBE_CALLS * (windows + 1)
        assert {tenant.client.last_operation(tenant.instance_id, each).state for each in answers} == {IN_PROGRESS}
        chaos.mend()
        for each, answer in answers.items():
            tenant.succeed(answer, each)
        eventually(lambda: not in_trouble(tenant.client), "/ready says that Atlas is well")
        tenant.deprovision()


def hanging_up(chaos: Chaos) -> None:
    chaos.atlas.drop("*", "/api/atlas", times=None)


def locked(chaos: Chaos) -> None:
    chaos.atlas.put_key(chaos.atlas.public_key, "another", [chaos.atlas.project_id])


def atlas_down_is_left_alone_and_all_goes_on_afterwards(chaos: Chaos) -> None:
    left_alone(chaos, lambda chaos: chaos.atlas.fail("*", "/api/atlas", times=None, status=503, html=True))


SLOW: list[Scenario] = [
    an_operation_goes_on_wherever_its_worker_dies_or_stands_still,
    a_worker_outlives_redis_with_messages_unacknowledged,
    all_processes_outlive_redis_and_mongodb,
    atlas_down_is_left_alone_and_all_goes_on_afterwards,
]
SLOWEST: list[Scenario] = [
    a_worker_that_lost_its_lease_writes_nothing,
    an_unbind_waits_for_a_request_that_is_still_under_way,
    a_temporary_user_made_late_is_removed,
]
"""Only with ``--long``."""
