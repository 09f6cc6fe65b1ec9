"""Stories of instances with a cluster of their own: it is made once, found again, and never forgotten."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from broker_api.naming import cluster_name
from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import Scenario
from tests.osb_client import FLEX_PLAN_ID, Answer, Json, OsbClient
from tests.tenant import Tenant, ends, eventually, succeeds, works

FLEX = "/flexClusters$"


class Owner(Tenant):
    """An instance with a Flex cluster of its own."""

    def __init__(self, chaos: Chaos, platform: OsbClient) -> None:
        super().__init__(platform.of_plan(FLEX_PLAN_ID))
        self.chaos = chaos
        self.cluster = cluster_name(self.instance_id)
        self.path = f"/flexClusters/{self.cluster}$"

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
        return self.chaos.atlas.rule(method="POST", path=FLEX, body=self.instance_id, times=None)


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


def a_cluster_is_made_once_although_the_workers_die(chaos: Chaos) -> None:
    """All workers are killed after Atlas has made the cluster, before they know and can write it down."""
    with owner(chaos) as mine:
        rule = chaos.atlas.hang("POST", FLEX, seconds=3, when="after", body=mine.instance_id)
        second = mine.later_posts()
        answer = mine.ask()
        chaos.arrives(rule)
        eventually(mine.made, "the cluster is there")
        chaos.kill(*chaos.stack.workers)
        chaos.start(*chaos.stack.workers)
        mine.succeed(answer)
        assert (len(mine.made()), chaos.reached(second)) == (1, False)
        mine.deprovision()
        assert not mine.made()


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
    a_cluster_is_made_once_although_the_workers_die,
    a_creation_that_arrives_late_leaves_no_cluster,
    waiting_provisions_hold_no_worker,
]
