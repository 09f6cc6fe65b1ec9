"""Stories that outlast leases, outages and pauses. They are told on a broker of their own while other tests run."""

import time
from uuid import uuid4

from tests.chaos.chaos import USERS, Chaos, succeeds, until
from tests.chaos.circuits import broken, left_alone
from tests.chaos.points import an_operation_goes_on_wherever_its_worker_dies_or_stands_still
from tests.chaos.scenarios import (
    Scenario,
    a_temporary_user_made_late_is_removed,
    a_worker_that_lost_its_lease_writes_nothing,
    an_unbind_waits_for_a_request_that_is_still_under_way,
)
from tests.osb_client import OsbClient

SATURATED = 32 + 12
"""More jobs than one worker's slots: the last dozen messages are taken from Redis and not acknowledged yet."""


def a_worker_outlives_redis_with_messages_unacknowledged(chaos: Chaos) -> None:
    """kombu 5.7 without the guard ends the worker. Redis is killed and comes back empty, twice."""
    worker, other = chaos.stack.workers
    chaos.kill(other)
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        for _ in range(2):
            bindings = redis_dies_under_load(chaos, platform, instance_id)
            assert worker.running, worker.report_of_end()
            assert bindings <= chaos.users()
        succeeds(platform, platform.deprovision(instance_id), instance_id)


def redis_dies_under_load(chaos: Chaos, platform: OsbClient, instance_id: str) -> set[str]:
    """All binds are done in the end."""
    rule = chaos.atlas.hang("POST", USERS, seconds=2, times=SATURATED)
    answers = {each: platform.bind(instance_id, each) for each in (str(uuid4()) for _ in range(SATURATED))}
    until("all slots are busy", lambda: chaos.reached(rule, 32))
    chaos.kill(chaos.stack.redis)
    chaos.start(chaos.stack.redis)
    for each, answer in answers.items():
        succeeds(platform, answer, instance_id, each)
    chaos.atlas.heal(rule)
    return set(answers)


def all_processes_outlive_redis_and_mongodb(chaos: Chaos) -> None:
    """Both are away for longer than any time-out; then everything goes on by itself, in the same processes."""
    numbers = [server.process and server.process.pid for server in chaos.broker]
    chaos.kill(chaos.stack.redis, chaos.stack.state)
    with chaos.platform() as platform:
        with platform.expecting(503):
            assert platform.request("GET", "/ready", auth=None).status == 503
        time.sleep(6)
        chaos.start(chaos.stack.redis, chaos.stack.state)
        assert chaos.binding(platform, chaos.instance(platform))
    assert [server.process and server.process.pid for server in chaos.broker] == numbers


def atlas_down_is_left_alone_and_all_goes_on_afterwards(chaos: Chaos) -> None:
    left_alone(chaos, broken)


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
