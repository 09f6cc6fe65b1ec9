"""Atlas is down, or the keys are wrong: workers wait, say so, try again every ten seconds, and go on by themselves."""

import time
from typing import Any
from uuid import uuid4

import pytest

from tests.chaos.chaos import USERS, Chaos, succeeds, until
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


@pytest.mark.parametrize("trouble", ["html", "hang up", "wrong keys"])
def test_atlas_in_trouble_is_left_alone_and_all_goes_on_afterwards(
    chaos: Chaos, trouble: str, *, long_form: bool
) -> None:
    if trouble != "html" and not long_form:
        pytest.skip("with --long")
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        {"html": broken, "hang up": hanging_up, "wrong keys": locked}[trouble](chaos)
        binds = {each: platform.bind(instance_id, each) for each in (str(uuid4()) for _ in range(12))}
        until("/ready says that Atlas is in trouble", lambda: in_trouble(platform), 30.0)
        windows = 3 if long_form else 1
        assert calls_within(chaos, 10.0 * windows) <= PROBE_CALLS * (windows + 1)
        assert {platform.last_operation(instance_id, each).state for each in binds} == {IN_PROGRESS}
        chaos.mend()
        began = time.monotonic()
        for each, answer in binds.items():
            succeeds(platform, answer, instance_id, each)
        assert time.monotonic() - began < 30.0
        until("/ready says that Atlas is well", lambda: not in_trouble(platform))
        succeeds(platform, platform.deprovision(instance_id), instance_id)


def broken(chaos: Chaos) -> None:
    chaos.atlas.fail("*", ATLAS, times=None, status=503, html=True)


def hanging_up(chaos: Chaos) -> None:
    chaos.atlas.drop("*", ATLAS, times=None)


def locked(chaos: Chaos) -> None:
    chaos.atlas.put_key(chaos.atlas.public_key, "another", [chaos.atlas.project_id])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_on_one_call_stops_no_other(chaos: Chaos, status: int) -> None:
    """A read-only key on one user, say: that operation waits, others are done, and it is done once it may be."""
    with chaos.platform() as platform:
        instance_id, refused = chaos.instance(platform), str(uuid4())
        rule = chaos.atlas.fail("POST", USERS, times=None, status=status, body=refused)
        answer = platform.bind(instance_id, refused)
        until("several refusals", lambda: chaos.reached(rule, 3), 30.0)
        others = {each: platform.bind(instance_id, each) for each in (str(uuid4()) for _ in range(4))}
        for each, other in others.items():
            succeeds(platform, other, instance_id, each, seconds=9.0)
        assert platform.last_operation(instance_id, refused, answer.operation).state == IN_PROGRESS
        chaos.atlas.heal(rule)
        succeeds(platform, answer, instance_id, refused)
