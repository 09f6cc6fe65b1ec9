"""Processes outlive what they talk to, and hand back what they hold when they are told to end."""

import time

from tests.chaos.chaos import LEASE_SECONDS, USERS, Chaos, paused
from tests.tenant import eventually


def test_all_processes_outlive_a_primary_that_steps_down(chaos: Chaos) -> None:
    with chaos.tenant() as (tenant, binding_id):
        platform, instance_id = tenant.client, tenant.instance_id
        answer = platform.bind(instance_id, binding_id)
        chaos.step_down()
        with platform.expecting(503):
            eventually(lambda: platform.last_operation(instance_id, binding_id).status == 200, "polls are answered", 20)
            tenant.succeed(answer, binding_id)


def test_a_worker_told_to_stop_hands_back_what_it_holds(chaos: Chaos) -> None:
    """It ends well before its lease, and another worker goes on at once."""
    with chaos.tenant() as (tenant, binding_id):
        worker, other = chaos.stack.workers
        rule = chaos.atlas.hang("POST", USERS, seconds=3, when="after", body=binding_id)
        with paused(other):
            answer = tenant.client.bind(tenant.instance_id, binding_id)
            chaos.arrives(rule)
        asked = time.monotonic()
        assert chaos.stop(worker) == [0], worker.log_tail()
        tenant.succeed(answer, binding_id)
        assert time.monotonic() - asked < LEASE_SECONDS / 2
        assert not chaos.calls("PATCH", binding_id), "what was done was done again"
