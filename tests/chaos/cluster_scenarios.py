"""Stories of instances with a cluster of their own: it is made once, found again, and never forgotten."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from broker_api.naming import cluster_name
from tests.chaos.chaos import Chaos
from tests.chaos.points import HANGS_SECONDS
from tests.chaos.scenarios import Scenario
from tests.emulator.faults import When
from tests.osb_client import DEDICATED_PLAN_ID, FLEX_PLAN_ID, Answer, Json, OsbClient
from tests.tenant import Tenant, ends, eventually, succeeds, together, works

FLEX = "/flexClusters$"


class Owner(Tenant):
    """An instance with a cluster of its own, by default a Flex one."""

    def __init__(self, chaos: Chaos, platform: OsbClient, plan_id: str = FLEX_PLAN_ID) -> None:
        super().__init__(platform.of_plan(plan_id))
        self.chaos = chaos
        self.cluster = cluster_name(self.instance_id)
        self.all_path = FLEX if plan_id == FLEX_PLAN_ID else "/clusters$"
        self.path = f"{self.all_path[:-1]}/{self.cluster}$"

    def ask(self) -> Answer:
        """Request the instance, and do not wait."""
        return self.client.provision(self.instance_id, {})

    def begin(self) -> Answer:
        """Request the instance; return when Atlas has the cluster, whose creation does not end."""
        self.chaos.atlas.cluster_times("flex", creating={"never": True})
        answer = self.ask()
        eventually(self.made, "the cluster is there")
        return answer

    def made(self) -> list[Json]:
        return self.chaos.clusters(self.instance_id)

    def later_posts(self) -> int:
        """Return a rule of the emulator that meets each POST for this instance that no rule before it has met."""
        return self.chaos.atlas.rule(method="POST", path=self.all_path, body=self.instance_id, times=None)


@contextmanager
def owner(chaos: Chaos) -> Iterator[Owner]:
    with chaos.platform() as platform:
        yield Owner(chaos, platform)


def a_cluster_made_without_an_answer_is_found_again(chaos: Chaos) -> None:
    """Atlas makes the cluster and closes the connection; the next attempt finds it, and asks for no second one."""
    with owner(chaos) as mine:
        chaos.atlas.drop("POST", FLEX, when="after", body=mine.instance_id)
        second = mine.later_posts()
        mine.succeed(mine.ask())
        assert len(mine.made()) == 1
        assert not chaos.reached(second), "the cluster was asked for twice"
        assert works(mine.bind())


def a_cluster_of_another_with_the_name_is_not_touched(chaos: Chaos) -> None:
    """A cluster without our tags: the provision fails with a sentence, and the deprovision leaves it, too."""
    with owner(chaos) as mine:
        chaos.atlas.put_cluster(mine.cluster, kind="flex")
        ended = mine.end(mine.ask())
        assert (ended.state, mine.cluster in ended.description) == ("failed", True), ended.text
        assert mine.client.deprovision(mine.instance_id).status in (202, 410)
        assert not chaos.calls("DELETE", mine.cluster)
        assert not chaos.calls("PATCH", mine.cluster)


def what_atlas_does_not_allow_fails_with_its_reason(chaos: Chaos) -> None:
    """No payment, no room: the sentence says so, nothing is left, and the instance can be deleted."""
    refusals = {402: "NO_PAYMENT_INFORMATION_FOUND", 403: "CLUSTER_LIMIT_EXCEEDED", 409: "OUT_OF_CAPACITY"}
    for status, code in refusals.items():
        with owner(chaos) as mine:
            chaos.atlas.fail("POST", FLEX, body=mine.instance_id, status=status, error_code=code)
            ended = mine.end(mine.ask())
            assert (ended.state, code in ended.description) == ("failed", True), ended.text
            assert not mine.made()


def a_failed_provision_leaves_no_cluster(chaos: Chaos) -> None:
    """Atlas says no for good while it makes the cluster: the operation fails, and the cluster is terminated."""
    with owner(chaos) as mine:
        answer = mine.begin()
        chaos.atlas.fail("GET", mine.path, status=400, error_code="INVALID_ATTRIBUTE")
        ended = mine.end(answer)
        assert ended.state == "failed", ended.text
        assert not mine.made(), "a failed provision has left its cluster"


def a_delete_stops_the_creation(chaos: Chaos) -> None:
    """A deprovision while Atlas makes the cluster; nothing is left."""
    with owner(chaos) as mine:
        mine.begin()
        mine.deprovision()
        assert not mine.made(), "the cluster outlives its instance"


def a_lost_deletion_is_repeated(chaos: Chaos) -> None:
    """Atlas accepts the deletion of a Flex cluster, and the cluster returns to IDLE."""
    with owner(chaos) as mine:
        mine.succeed(mine.ask())
        chaos.atlas.lose_flex_deletions(2)
        mine.deprovision()
        assert not mine.made(), "the cluster outlives its instance"


@dataclass
class Interrupted:
    """An operation on a cluster whose workers are killed before or after Atlas has acted on its call."""

    owner: Owner
    verb: Literal["provision", "update", "deprovision"]
    when: When

    def prepare(self) -> None:
        if self.verb != "provision":
            self.owner.succeed(self.owner.ask())

    def begin(self) -> None:
        """Request the operation; its call to Atlas will hang, and act, whatever becomes of the worker."""
        mine = self.owner
        method, path = {
            "provision": ("POST", mine.all_path),
            "update": ("PATCH", mine.path),
            "deprovision": ("DELETE", mine.path),
        }[self.verb]
        body = mine.instance_id if self.verb == "provision" else ""
        self.rule = mine.chaos.atlas.hang(method, path, seconds=HANGS_SECONDS, when=self.when, body=body)
        self.second = mine.later_posts()
        match self.verb:
            case "provision":
                self.answer = mine.ask()
            case "update":
                self.answer = mine.client.update(mine.instance_id, {"tier": "M30"})
            case "deprovision":
                self.answer = mine.client.deprovision(mine.instance_id)

    def check(self) -> None:
        """The operation has succeeded, with the one effect that it should have."""
        mine = self.owner
        mine.succeed(self.answer)
        made = mine.made()
        assert len(made) == (self.verb != "deprovision"), f"{self.verb} {self.when}: {made}"
        if self.verb == "update":
            assert made[0]["tier"] == "M30"
        assert not mine.chaos.reached(self.second), "the cluster was asked for twice"


def operations_on_clusters_go_on_when_all_workers_die(chaos: Chaos) -> None:
    """All workers are killed before, or after, Atlas acts on the call that creates, changes or deletes a cluster."""
    whens: tuple[When, ...] = ("before", "after")
    with chaos.platform() as platform:
        flex: list[Literal["provision", "deprovision"]] = ["provision", "deprovision"]
        stories = [Interrupted(Owner(chaos, platform), verb, when) for verb in flex for when in whens]
        dedicated = [Interrupted(Owner(chaos, platform, DEDICATED_PLAN_ID), "update", when) for when in whens]
        stories += dedicated
        together(*(story.prepare for story in stories))
        for story in stories:
            story.begin()
        chaos.arrives(*(story.rule for story in stories))
        chaos.kill(*chaos.stack.workers)
        chaos.start(*chaos.stack.workers)
        together(*(story.check for story in stories))
        left = [story.owner for story in stories if story.verb != "deprovision"]
        together(*(each.deprovision for each in left))
        assert not any(each.made() for each in left)


def a_creation_that_arrives_late_leaves_no_cluster(chaos: Chaos) -> None:
    """The request reaches Atlas after the worker has given it up, and after the platform has deleted the instance."""
    with owner(chaos) as mine:
        rule = chaos.atlas.hang("POST", FLEX, seconds=13, body=mine.instance_id)
        mine.ask()
        chaos.arrives(rule)
        answer = mine.client.deprovision(mine.instance_id)
        ended = ends(mine.client, answer, mine.instance_id)
        assert ended.state in ("succeeded", "gone"), ended.text
        chaos.calls_end()
        time.sleep(1)
        assert not mine.made(), "a cluster came into being after its instance was gone"


def waiting_provisions_hold_no_worker(chaos: Chaos) -> None:
    """As many provisions as the workers have slots wait for Atlas; another one is done, each cluster is looked at once.

    The interval of looks at a Flex cluster is 2 s.
    """
    chaos.atlas.cluster_times("flex", creating={"never": True})
    with chaos.platform() as platform:
        waiting = [Owner(chaos, platform) for _ in range(70)]
        answers = [each.ask() for each in waiting]
        eventually(lambda: len(chaos.clusters()) >= len(waiting), "all clusters are asked for", 60)
        chaos.atlas.forget_calls()
        began = time.monotonic()
        Tenant(platform).provision()
        time.sleep(8)
        looks = [
            call for call in chaos.atlas.calls("GET") if "/flexClusters/" in call["path"] and not call["challenge"]
        ]
        assert len(looks) <= len(waiting) * (1 + (time.monotonic() - began) / 2)
        chaos.cluster_times(0)
        for each in waiting:
            chaos.atlas.put_cluster(each.cluster, state="IDLE", then={"state": "IDLE"})
        for each, answer in zip(waiting, answers, strict=True):
            succeeds(each.client, answer, each.instance_id)
            each.client.deprovision(each.instance_id)
        eventually(partial(_none_left, chaos, waiting), "all clusters are gone", 120)


def _none_left(chaos: Chaos, owners: list[Owner]) -> bool:
    mine = {each.instance_id for each in owners}
    return not any(cluster["tags"]["instance_id"] in mine for cluster in chaos.clusters())


QUICK: list[Scenario] = [a_cluster_made_without_an_answer_is_found_again]
CLUSTER_STORIES: list[Scenario] = [
    *QUICK,
    a_cluster_of_another_with_the_name_is_not_touched,
    what_atlas_does_not_allow_fails_with_its_reason,
    a_failed_provision_leaves_no_cluster,
    a_delete_stops_the_creation,
    a_lost_deletion_is_repeated,
    operations_on_clusters_go_on_when_all_workers_die,
    a_creation_that_arrives_late_leaves_no_cluster,
    waiting_provisions_hold_no_worker,
]
