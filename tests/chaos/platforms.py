"""The load: platforms that make and remove instances and bindings, repeat what was not answered, and note it all."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from uuid import UUID

import requests

from tests.chaos.books import Accepted, Books
from tests.osb_client import DEDICATED_PLAN_ID, FLEX_PLAN_ID, IN_PROGRESS, PLAN_ID, Answer, OsbClient

FINAL = frozenset({200, 201, 202, 400, 404, 409, 410})
"""Statuses that end a request; others (422 of a concurrent operation, 5xx) and broken connections are asked again."""
PATIENCE_SECONDS = 240.0
TRANSPORT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class Platform:
    """One platform that has one instance at a time. All its choices come from its seed.

    With ``new_clusters``, some of its instances have a cluster of their own.
    """

    def __init__(
        self, client: OsbClient, books: Books, clusters: list[str], seed: str, *, new_clusters: bool = False
    ) -> None:
        self._client, self._books, self._clusters = client, books, clusters
        self._random = random.Random(seed)
        self._plans = [*[PLAN_ID] * 4, FLEX_PLAN_ID, FLEX_PLAN_ID, DEDICATED_PLAN_ID] if new_clusters else []

    def live(self, over: threading.Event) -> None:
        """Instances one after the other, until it is over; the last one may be left with its bindings."""
        try:
            while not over.is_set():
                self._one_life(over)
        except TimeoutError as error:
            self._books.complaints.append(str(error))

    def _one_life(self, over: threading.Event) -> None:
        self._client = self._client.of_plan(self._random.choice(self._plans) if self._plans else PLAN_ID)
        made = self._make(instance_id := self._id())
        for binding_id in (bindings := [self._bind(instance_id) for _ in range(made and self._random.randint(1, 4))]):
            self._fetch(instance_id, binding_id)
        if made and self._random.random() < 0.3:
            self._update(instance_id)
        for binding_id in bindings:
            if self._random.random() < 0.7 and not over.is_set():
                self._carry_out(Accepted("unbind", instance_id, binding_id), self._client.unbind)
        if not made or not over.is_set():
            self._carry_out(Accepted("deprovision", instance_id), self._client.deprovision)

    # --- what it asks for -----------------------------------------------------------------------------------------

    def _make(self, instance_id: str) -> bool:
        if self._client.plan_id != PLAN_ID:
            self._carry_out(Accepted("provision", instance_id), self._client.provision, {"region": "EU_WEST_1"})
            return True
        nonsense = self._random.random() < 0.06
        cluster = "there-is-no-such-cluster" if nonsense else self._random.choice(self._clusters)
        parameters = {"cluster": cluster, "policy-on-delete": self._random.choice(["drop", "retain", "retain"])}
        self._carry_out(Accepted("provision", instance_id, may_fail=nonsense), self._client.provision, parameters)
        return not nonsense

    def _bind(self, instance_id: str) -> str:
        """Some are left before they are done: by an unbind, or by the deprovision of the instance."""
        binding_id, hasty = self._id(), self._random.random() < 0.2
        self._carry_out(Accepted("bind", instance_id, binding_id, may_fail=hasty), self._client.bind, wait=not hasty)
        if hasty:
            time.sleep(self._random.random())
        return binding_id

    def _fetch(self, instance_id: str, binding_id: str) -> None:
        """Credentials by GET, or by the same bind once more."""
        ask = self._random.choice([self._client.bind, self._client.binding])
        answer = self._ask(partial(ask, instance_id, binding_id))
        if answer.status in (200, 201):
            self._books.hand_out(instance_id, binding_id, answer.json["credentials"])
        elif answer.status == 202:
            again = Accepted("bind", instance_id, binding_id, may_fail=True, plan_id=self._client.plan_id)
            self._books.accept(answer.operation, again)

    def _update(self, instance_id: str) -> None:
        choices = {PLAN_ID: ("policy-on-delete", ["drop", "retain"]), DEDICATED_PLAN_ID: ("tier", ["M20", "M30"])}
        name, values = choices.get(self._client.plan_id, ("policy-on-delete", ["drop"]))
        parameters = {name: self._random.choice(values)}
        self._carry_out(Accepted("update", instance_id), self._client.update, parameters)

    # --- how it asks ----------------------------------------------------------------------------------------------

    def _carry_out(
        self, entry: Accepted, verb: Callable[..., Answer], *parameters: dict[str, str], wait: bool = True
    ) -> None:
        """Ask until it is answered, sometimes once more, and poll like a platform."""
        entry = replace(entry, plan_id=self._client.plan_id)
        ask = partial(verb, *filter(None, (entry.instance_id, entry.binding_id)), *parameters)
        answer = self._ask(ask)
        if answer.status == 202:
            self._books.accept(answer.operation, entry)
            if self._random.random() < 0.2:
                self._repeat(entry, answer, ask)
            if wait:
                self._poll(entry, answer.operation)
        elif answer.status in (400, 404, 409):
            self._books.complaints.append(f"refused: {entry} {answer.status} {answer.text}")

    def _repeat(self, entry: Accepted, first: Answer, ask: Callable[[], Answer]) -> None:
        """The same request: the same operation, unless that has ended meanwhile."""
        again = self._ask(ask)
        if again.status == 202 and again.operation != first.operation and not entry.may_fail:
            self._books.complaints.append(
                f"the same request began another operation: {entry} {first.text} {again.text}"
            )

    def _poll(self, entry: Accepted, operation_id: str) -> None:
        ask = partial(self._client.last_operation, entry.instance_id, entry.binding_id, operation_id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := self._ask(ask)).status == 200 and answer.state == IN_PROGRESS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not done after {PATIENCE_SECONDS:g} s: {entry} {answer.text}")
            time.sleep(self._random.uniform(0.15, 0.4))

    def _ask(self, ask: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = ask()
                if answer.status in FINAL:
                    return answer
                said = answer.text
            except TRANSPORT as error:
                said = type(error).__name__
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer for {PATIENCE_SECONDS:g} s: {said}")
            time.sleep(self._random.uniform(0.1, 0.4))

    def _id(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))


@contextmanager
def living(platforms: Sequence[Platform]) -> Iterator[None]:
    """Let platforms live meanwhile, each in a thread; at the end each has had its answers."""
    over = threading.Event()
    with ThreadPoolExecutor(len(platforms)) as pool:
        load = [pool.submit(platform.live, over) for platform in platforms]
        try:
            yield
        finally:
            over.set()
        for each in load:
            each.result()
