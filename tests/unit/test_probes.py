"""When the liveness probe of a worker fails. How real workers answer is in tests/integration/test_worker_probes.py."""

import time

from workers.probes import CONSUMER_SECONDS, Probes
from workers.transport import Activity


def test_a_loop_that_stands_still_too_long_fails_liveness_and_a_turn_repairs_it() -> None:
    now = time.monotonic()
    clock = [now]
    probes = Probes(lambda: clock[0])
    Activity.turned_at = now
    clock[0] = now + CONSUMER_SECONDS - 1
    assert probes.live() == (True, {"status": True})
    clock[0] = now + CONSUMER_SECONDS + 1
    assert probes.live() == (False, {"status": False, "description": "The consumer has not moved for 61 s."})
    Activity.turn()
    clock[0] = now + CONSUMER_SECONDS - 1
    assert probes.live()[0]


def test_a_worker_that_has_not_started_lives_for_a_while_and_is_not_ready() -> None:
    probes = Probes()
    assert probes.live()[0]
    assert probes.ready() == (False, {"status": "not ready", "consumer": "it connects to Redis"})
