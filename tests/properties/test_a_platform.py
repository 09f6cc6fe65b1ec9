"""A platform does what it likes, in any order, with repeats and at the same time; each answer must be the model's.

Jobs are real and so is their timing, so a run is not repeated exactly by its seed; the steps are in the failure.
"""

import itertools
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.properties.model import NOWHERE, Call, Verb, canonical
from tests.properties.platform import InstanceOfAPlatform, Journal

CLUSTER = "cluster-dev"
SHORT, LONG = 60, 2000
"""Steps of the two forms."""
MOST_STEPS = 50
"""Of one run from an empty broker on."""
USERS = "/databaseUsers"
HANG_SECONDS = 0.7

NUMBERS = st.sampled_from([0, 0, 1])
BINDINGS = st.integers(0, 2)
PROVISIONS = st.builds(
    Call,
    st.just(Verb.PROVISION),
    parameters=st.sampled_from(
        [
            canonical({"cluster": CLUSTER}),
            canonical({"cluster": CLUSTER}),
            canonical({"cluster": CLUSTER, "policy-on-delete": "drop"}),
            canonical({"cluster": NOWHERE}),
        ]
    ),
    organization=st.sampled_from(["org", "org", "org", "another org"]),
)
UPDATES = st.builds(
    Call,
    st.just(Verb.UPDATE),
    parameters=st.sampled_from(
        [
            canonical({}),
            canonical({"cluster": CLUSTER}),
            canonical({"cluster": "cluster-test"}),
            canonical({"policy-on-delete": "drop"}),
            canonical({"policy-on-delete": "retain"}),
        ]
    ),
)
ROLES = st.sampled_from([canonical({}), canonical({"role": "readWrite"}), canonical({"role": "readOnly"})])
BINDS = st.builds(Call, st.just(Verb.BIND), BINDINGS, ROLES)
ROTATIONS = st.builds(Call, st.just(Verb.ROTATE), BINDINGS, predecessor=BINDINGS)
UNBINDS = st.builds(Call, st.just(Verb.UNBIND), BINDINGS)
DEPROVISIONS = st.just(Call(Verb.DEPROVISION))
CHANGES = st.one_of(PROVISIONS, UPDATES, BINDS, BINDS, BINDS, ROTATIONS, UNBINDS, UNBINDS, DEPROVISIONS)
FETCHES = st.builds(Call, st.just(Verb.FETCH), st.none() | BINDINGS)
"""What a platform may ask, more often what gets it further."""

ATLAS: dict[str, Callable[[Emulator], object]] = {
    "applies at once": Emulator.apply_at_once,
    "applies after two polls": lambda atlas: atlas.apply_after(polls=2),
    "applies after a moment": lambda atlas: atlas.apply_after(seconds=0.4),
    "hangs, then makes users": lambda atlas: atlas.hang("POST", USERS, seconds=HANG_SECONDS, times=2),
    "makes users, then hangs": lambda atlas: atlas.hang("POST", USERS, seconds=HANG_SECONDS, when="after", times=2),
    "hangs, then deletes users": lambda atlas: atlas.hang("DELETE", USERS, seconds=HANG_SECONDS, times=2),
    "deletes users, then hangs": lambda atlas: atlas.hang("DELETE", USERS, seconds=HANG_SECONDS, when="after", times=2),
    "makes a user and answers 503": lambda atlas: atlas.fail("POST", USERS, status=503, act=True),
    "deletes a user and answers 503": lambda atlas: atlas.fail("DELETE", USERS, status=503, act=True),
}


class Findings:
    """What the runs of one test have come to."""

    def __init__(self) -> None:
        self.steps = self.requests = 0
        self.instance_ids: list[str] = []
        self.failure: BaseException | None = None


class APlatform(RuleBasedStateMachine):
    """Two instances; the ids of the second need encoding."""

    def __init__(self, client: OsbClient, atlas: Emulator, findings: Findings) -> None:
        super().__init__()
        self.atlas, self.findings, self.journal = atlas, findings, Journal()
        self.instances = [
            InstanceOfAPlatform("instance A", client, atlas, self.journal),
            InstanceOfAPlatform("instance B", client, atlas, self.journal, suffix="/ü $x"),
        ]

    @initialize()
    def begin_with_instances(self) -> None:
        for number, instance in enumerate(self.instances):
            self._ask(number, Call(Verb.PROVISION, parameters=canonical({"cluster": CLUSTER})))
            self._step(instance.settle)

    @rule(number=NUMBERS, call=CHANGES)
    def ask(self, number: int, call: Call) -> None:
        self._ask(number, call)

    @rule(number=NUMBERS, call=st.one_of(BINDS, ROTATIONS, UNBINDS))
    def ask_about_bindings(self, number: int, call: Call) -> None:
        self._ask(number, call)

    @rule(number=NUMBERS, call=st.one_of(PROVISIONS, UPDATES, BINDS, ROTATIONS, UNBINDS))
    def ask_without_polling(self, number: int, call: Call) -> None:
        self._ask(number, replace(call, waits=True))

    @rule(number=NUMBERS, call=st.one_of(PROVISIONS, UPDATES, BINDS, ROTATIONS))
    def ask_and_wait(self, number: int, call: Call) -> None:
        self._ask(number, call)
        self._step(self.instances[number].settle)

    @rule(number=NUMBERS, call=CHANGES)
    def ask_twice(self, number: int, call: Call) -> None:
        self._ask(number, call)
        self._ask(number, call)

    @rule(number=NUMBERS, calls=st.lists(CHANGES, min_size=2, max_size=4))
    def ask_different_things_at_once(self, number: int, calls: list[Call]) -> None:
        self._ask(number, *calls)

    @rule(number=NUMBERS, call=CHANGES, times=st.integers(2, 6))
    def ask_the_same_at_once(self, number: int, call: Call, times: int) -> None:
        self._ask(number, *[call] * times)

    @rule(number=NUMBERS, bind=st.one_of(BINDS, ROTATIONS), seconds=st.sampled_from([0, 0.05, 0.3]))
    def unbind_while_it_is_made(self, number: int, bind: Call, seconds: float) -> None:
        self._ask(number, bind)
        time.sleep(seconds)  # how far the bind has got is what varies
        self._ask(number, Call(Verb.UNBIND, bind.binding))

    @rule(number=NUMBERS, binding=st.none() | BINDINGS, which=st.integers(-2, 9))
    def poll(self, number: int, binding: int | None, which: int) -> None:
        """For the latest operation, for one that never was, for any that the platform was told."""
        told = self.instances[number].operations(binding)
        operation = None if which == -1 else "never-was" if which < 0 or not told else told[which % len(told)]
        self._ask(number, Call(Verb.POLL, binding, operation=operation))

    @rule(number=NUMBERS, binding=st.none() | BINDINGS)
    def fetch(self, number: int, binding: int | None) -> None:
        self._ask(number, Call(Verb.FETCH, binding))

    @rule(number=NUMBERS)
    def wait(self, number: int) -> None:
        self._step(self.instances[number].settle)

    @rule(seconds=st.sampled_from([0.03, 0.1, 0.4]))
    def let_time_pass(self, seconds: float) -> None:
        time.sleep(seconds)

    @rule(how=st.sampled_from(sorted(ATLAS)))
    def trouble_atlas(self, how: str) -> None:
        self.journal.note(f"   Atlas {how}")
        ATLAS[how](self.atlas)

    def teardown(self) -> None:
        self.atlas.heal()
        self.atlas.apply_at_once()
        for instance in self.instances:
            self._step(instance.clear)
            self.findings.requests += instance.requests
            self.findings.instance_ids.append(instance.instance_id)

    def _ask(self, number: int, *calls: Call) -> None:
        self._step(lambda: self.instances[number].ask(*calls))

    def _step(self, act: Callable[[], object]) -> None:
        """Keep the first failure: jobs take their own time, so Hypothesis may not meet it again."""
        if self.findings.failure:
            return
        self.findings.steps += 1
        try:
            act()
        except BaseException as error:
            self.findings.failure = error
            raise


def _play(client: OsbClient, atlas: Emulator, findings: Findings, number: int, steps: int) -> None:
    """Play two runs of so many steps."""

    def begin() -> APlatform:
        return APlatform(client, atlas, findings)

    how = settings(
        max_examples=2,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    machine: Any = seed(number)(begin)
    try:
        run_state_machine_as_test(machine, settings=how)
    except BaseException:
        if findings.failure is None:
            raise
        raise findings.failure from None


@pytest.mark.timeout(3600)
def test_whatever_a_platform_does_it_is_answered_as_the_specification_says(
    stack: Stack,
    client: OsbClient,
    atlas: Emulator,
    pytestconfig: pytest.Config,
    record_testsuite_property: Callable[[str, object], None],
    *,
    long_form: bool,
) -> None:
    first, findings, wanted = _first_seed(pytestconfig, long_form), Findings(), LONG if long_form else SHORT
    record_testsuite_property("hypothesis-seed", first)
    for number in itertools.count(first):
        sys.stdout.write(f"From --hypothesis-seed={number} on, after {findings.steps} steps:\n")
        _play(client, atlas, findings, number, min(MOST_STEPS, wanted // 2))
        if findings.steps >= wanted:
            break
    sys.stdout.write(f"{findings.steps} steps, {findings.requests} requests.\n")
    assert _left(stack, findings.instance_ids) == 0


def _left(stack: Stack, instance_ids: list[str]) -> int:
    """Documents of these instances that are not gone, or on which there is work left."""
    alive = {"$or": [{"phase": {"$ne": "gone"}}, {"operation.open": True}]}
    with stack.state.client() as mongo:
        collection = mongo[stack.database]["instances"]
        return collection.count_documents({"instance_id": {"$in": instance_ids}, **alive})


def _first_seed(pytestconfig: pytest.Config, long_form: bool) -> int:  # noqa: FBT001 - private, one caller
    """The short form is always the same, the long one never, unless told."""
    given = pytestconfig.getoption("--hypothesis-seed")
    return int(given) if given else random.randrange(2**32) if long_form else 0
