"""``atlas-broker demo --new-cluster``: instances that get a cluster of their own, from the request until it is gone."""

import time
from collections.abc import Callable
from typing import Any

from tests.dev.demo_tour import Screen, Tour, TourError
from tests.dev.stack import Stack
from tests.osb_client import DEDICATED_PLAN_ID, FLEX_PLAN_ID, IN_PROGRESS, Answer, OsbClient
from tests.tenant import works

PLANS = {"flex": FLEX_PLAN_ID, "dedicated": DEDICATED_PLAN_ID}
SETTINGS = {"BROKER_PLANS": "existing,dedicated,flex"}
SAME_SECONDS = 4.0
CLUSTER_SECONDS = 8.0
"""Atlas takes some 8 s for a Flex cluster, and a quarter of an hour for a dedicated one, which is shortened here."""


class NewClusterTour(Tour):
    """One instance with a cluster of its own, and one binding; each step returns what the platform's user would see."""

    def __init__(self, stack: Stack, client: OsbClient, screen: Screen, kind: str) -> None:
        super().__init__(stack, client.of_plan(PLANS[kind]), screen)
        self.kind = kind
        self.parameters = {"region": "EU_WEST_1"} | ({"tier": "M10"} if kind == "dedicated" else {})
        self.cluster = ""
        self._told, self._told_at = "", 0.0

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("provision", self.provision),
            ("cluster", self.look_at_the_cluster),
            ("bind", self.bind),
            ("credentials", self.fetch_credentials),
            ("log in", self.log_in_and_write),
            *([("update", self.update)] if self.kind == "dedicated" else []),
            ("unbind", self.unbind),
            ("refused", self.log_in_again),
            ("deprovision", self.deprovision),
            ("cluster", self.look_for_the_cluster),
        ]

    def provision(self) -> str:
        self._finish("provision", self.client.provision(self.instance_id, self.parameters))
        wanted = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        return f"succeeded: instance {self.instance_id} with a {self.kind} cluster of its own ({wanted})"

    def look_at_the_cluster(self) -> str:
        (cluster,) = self._clusters()
        self.cluster = cluster["name"]
        tags = ", ".join(f"{key} {value}" for key, value in cluster["tags"].items())
        return f"{self.cluster} is {cluster['state']} in Atlas, tagged {tags}"

    def update(self) -> str:
        self._finish("update", self.client.update(self.instance_id, {"tier": "M20"}))
        (cluster,) = self._clusters()
        if cluster["tier"] != "M20" or not works(self.credentials):
            raise TourError(f"the tier is {cluster['tier']}, or the credentials do not work any more")
        return "succeeded: tier M20, and the credentials still work"

    def look_for_the_cluster(self) -> str:
        if self._clusters():
            raise TourError(f"{self.cluster} is still there")
        return f"{self.cluster} is gone"

    def _clusters(self) -> list[dict[str, Any]]:
        found = self.stack.emulator.control.clusters()
        return [cluster for cluster in found if cluster["tags"].get("instance_id") == self.instance_id]

    def _polled(self, step: str, answer: Answer) -> None:
        """Show each new sentence; where lines are not rewritten, one that differs in the time only not so often."""
        super()._polled(step, answer)
        sentence, now = answer.description, time.monotonic()
        if self.screen.terminal or answer.state != IN_PROGRESS or sentence == self._told:
            return
        if _without_time(sentence) != _without_time(self._told) or now >= self._told_at + SAME_SECONDS:
            self.screen.done(step, sentence)
            self._told, self._told_at = sentence, now


def _without_time(sentence: str) -> str:
    return sentence.rpartition(", for ")[0] or sentence
