"""Atlas is down, or the keys are wrong: workers wait, say so, try again every ten seconds, and go on by themselves."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tests.chaos.chaos import Chaos, succeeds, until
from tests.osb_client import IN_PROGRESS, Answer, OsbClient

ATLAS = "/api/atlas"
PROBE_CALLS = 4
"""One attempt: at most two calls of a job, each with digest's first leg."""


def ready(platform: OsbClient) -> Answer:
    return platform.request("GET", "/ready", auth=None)


def in_trouble(platform: OsbClient) -> Any:  # noqa: ANN401 - what /ready says of Atlas
    answer = ready(platform)
    assert answer.status == 200, answer.text
    said = answer.json["atlas"]
    return said if said != "ok" else None


def calls_within(chaos: Chaos, seconds: float) -> int:
    chaos.atlas.forget_calls()
    time.sleep(seconds)
    return len(chaos.atlas.calls())


def left_alone(chaos: Chaos, spoil: Callable[[Chaos], None], windows: int = 1) -> None:
    """So many times ten seconds are counted."""
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        spoil(chaos)
        binds = {each: platform.bind(instance_id, each) for each in (str(uuid4()) for _ in range(12))}
        until("/ready says that Atlas is in trouble", lambda: in_trouble(platform), 30.0)
        assert calls_within(chaos, 10.0 * windows) <= PROBE_CALLS * (windows + 1)
        assert {platform.last_operation(instance_id, each).state for each in binds} == {IN_PROGRESS}
        chaos.mend()
        for each, answer in binds.items():
            succeeds(platform, answer, instance_id, each)
        until("/ready says that Atlas is well", lambda: not in_trouble(platform))
        succeeds(platform, platform.deprovision(instance_id), instance_id)


def broken(chaos: Chaos) -> None:
    chaos.atlas.fail("*", ATLAS, times=None, status=503, html=True)


def hanging_up(chaos: Chaos) -> None:
    chaos.atlas.drop("*", ATLAS, times=None)


def locked(chaos: Chaos) -> None:
    chaos.atlas.put_key(chaos.atlas.public_key, "another", [chaos.atlas.project_id])
