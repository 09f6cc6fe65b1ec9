"""Workers die, and stand still, at every point between two effects: around each call to Atlas that a job makes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal
from uuid import uuid4

from tests.chaos.chaos import USERS, Chaos, paused
from tests.emulator.faults import When
from tests.osb_client import Answer, OsbClient
from tests.tenant import credentials, eventually, succeeds, together, works

HANGS_SECONDS = 14.0
"""Longer than a worker waits, shorter than its lease: what a dead worker asked for acts before another goes on."""

Verb = Literal["provision", "bind", "unbind", "deprovision"]


@dataclass(frozen=True)
class Point:
    """Before or after one call of one job. ``first_lost``: the answer to the POST before it was lost."""

    verb: Verb
    method: str
    path: str
    when: When
    first_lost: bool = False


USER, STATUS, CLUSTER, DROPPER = "/admin/{user}$", "/{cluster}/status$", "/clusters/{cluster}$", "/admin/atlas-broker-"
SHAPES: list[tuple[Verb, str, str, bool]] = [
    ("provision", "GET", CLUSTER, False),
    ("bind", "POST", USERS, False),
    ("bind", "PATCH", USER, True),
    ("bind", "GET", STATUS, False),
    ("unbind", "DELETE", USER, False),
    ("unbind", "GET", STATUS, False),
    ("deprovision", "POST", USERS, False),
    ("deprovision", "GET", STATUS, False),
    ("deprovision", "DELETE", DROPPER, False),
]
WHENS: tuple[When, ...] = ("before", "after")
POINTS = [Point(verb, method, path, when, lost) for verb, method, path, lost in SHAPES for when in WHENS]


class Story:
    """One instance on a cluster of its own, with an operation that comes to one point."""

    def __init__(self, chaos: Chaos, platform: OsbClient, point: Point) -> None:
        self.chaos, self.platform, self.point = chaos, platform, point
        self.cluster = f"cluster-{uuid4().hex[:12]}"
        self.instance_id, self.binding_id = str(uuid4()), str(uuid4())
        chaos.atlas.put_cluster(self.cluster)

    def prepare(self) -> None:
        """What must be there before the operation: the instance, and for an unbind the binding."""
        if self.point.verb != "provision":
            succeeds(self.platform, self._act("provision"), self.instance_id)
        if self.point.verb == "unbind":
            succeeds(self.platform, self._act("bind"), self.instance_id, self.binding_id)

    def begin(self) -> None:
        """Ask for the operation; its call to Atlas will hang at the point."""
        point = self.point
        if point.first_lost:
            self.chaos.atlas.drop("POST", USERS, when="after", body=self.cluster)
        if point.path == DROPPER:
            self.answer = self._act(point.verb)
            path = f"{DROPPER}{self.answer.operation}$"
        else:
            path = point.path.format(cluster=self.cluster, user=self.binding_id)
        body = self.cluster if point.method == "POST" else ""
        self.rule = self.chaos.atlas.hang(point.method, path, seconds=HANGS_SECONDS, when=point.when, body=body)
        if point.path != DROPPER:
            self.answer = self._act(point.verb)

    def _act(self, verb: Verb) -> Answer:
        parameters = {"cluster": self.cluster, "policy-on-delete": "drop"}
        match verb:
            case "provision":
                return self.platform.provision(self.instance_id, parameters)
            case "deprovision":
                return self.platform.deprovision(self.instance_id)
            case "bind":
                return self.platform.bind(self.instance_id, self.binding_id)
            case "unbind":
                return self.platform.unbind(self.instance_id, self.binding_id)

    def check(self) -> None:
        """The operation has succeeded, with the one effect that it should have."""
        binding = self.binding_id if self.point.verb in ("bind", "unbind") else None
        succeeds(self.platform, self.answer, self.instance_id, binding)
        if self.point.verb == "bind":
            assert works(credentials(self.platform, self.instance_id, self.binding_id))
        if self.point.verb == "unbind":
            assert self.binding_id not in self.chaos.users()

    def remove(self) -> None:
        """Delete what is left of it."""
        answer = self._act("deprovision")
        if answer.status != 410:
            succeeds(self.platform, answer, self.instance_id)
        self.chaos.atlas.delete_cluster(self.cluster)


def each(stories: list[Story], act: Callable[[Story], None]) -> None:
    together(*(partial(act, story) for story in stories))


def an_operation_goes_on_wherever_its_worker_dies_or_stands_still(chaos: Chaos) -> None:
    """One worker is killed and the other stopped while an operation hangs at each point; the stopped one wakes late."""
    killed, stopped = chaos.stack.workers
    with chaos.platform() as platform:
        stories = [Story(chaos, platform, point) for point in POINTS]
        each(stories, Story.prepare)
        for story in stories:
            story.begin()
        chaos.arrives(*(story.rule for story in stories))
        with paused(stopped):
            chaos.kill(killed)
            chaos.start(killed)
            each(stories, Story.check)
        eventually(lambda: "lease_lost" in stopped.log_text(), "the stopped worker notices")
        chaos.calls_end()
        each(stories, Story.check)
        each(stories, Story.remove)
        assert not {user for user in chaos.users() if "atlas-broker-" in user}, "a temporary user is left"
        assert not {story.binding_id for story in stories} & chaos.users()
