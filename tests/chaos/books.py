"""What platforms were told, and whether it agrees with MongoDB, Atlas and the clusters once all is quiet."""

import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.chaos import Chaos
from tests.osb_client import DEDICATED_PLAN_ID, FLEX_PLAN_ID, IN_PROGRESS, PLAN_ID, Json
from tests.tenant import eventually, works

APPLIED_SECONDS = 20


@dataclass(frozen=True)
class Accepted:
    """An operation that was answered with 202. ``may_fail``: it asked for what cannot be."""

    kind: str
    instance_id: str
    binding_id: str | None = None
    may_fail: bool = False
    plan_id: str = PLAN_ID


@dataclass
class Books:
    """Platforms write here from several threads; ``complaints`` says what they have seen that must not be."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    passwords: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    given: dict[tuple[str, str], Json] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, operation_id: str, entry: Accepted) -> None:
        with self._lock:
            self.accepted.setdefault(operation_id, entry)

    def hand_out(self, instance_id: str, binding_id: str, credentials: Json) -> None:
        """A platform has been given these."""
        with self._lock:
            self.passwords.setdefault((instance_id, binding_id), set()).add(credentials["password"])
            self.given[instance_id, binding_id] = credentials

    def wait_for_more(self) -> None:
        """Wait until one more operation has been accepted."""
        before = len(self.accepted)
        eventually(lambda: len(self.accepted) > before, "operations are accepted again")

    def recent(self) -> list[tuple[str, Accepted]]:
        with self._lock:
            return list(self.accepted.items())


def delete_everything(chaos: Chaos, books: Books) -> None:
    """Deprovision each instance that is there."""
    with chaos.platform() as client:
        for found in list(chaos.records.find({"binding_id": {"$exists": False}, "phase": {"$ne": "gone"}})):
            plan_id = found["plan_id"]
            answer = client.of_plan(plan_id).deprovision(found["instance_id"])
            assert answer.status == 202, answer.text
            books.accept(answer.operation, Accepted("deprovision", found["instance_id"], plan_id=plan_id))


class Audit:
    """Counts at rest: ``numbers``. Each look raises AssertionError with all differences when the books do not balance.

    ``differences`` names what should be empty, and holds what is in it.
    """

    def __init__(self, chaos: Chaos, books: Books) -> None:
        self._chaos, self._books = chaos, books
        self.numbers: dict[str, int] = {}
        self._differences: dict[str, object] = {"complaints": books.complaints}

    def of_life(self) -> None:
        """While bindings live: operations, users, clusters, passwords."""
        self._operations()
        ready = list(self._chaos.records.find({"binding_id": {"$exists": True}, "phase": "ready"}))
        users, expected = self._chaos.users(), {found["username"] for found in ready}
        live = {(found["instance_id"], found["binding_id"]) for found in ready}
        given = self._books.given
        self.numbers |= {"users in Atlas": len(users), "live bindings": len(expected)}
        self.numbers |= {"bindings with a password": len(given), "live bindings tried": len(live & set(given))}
        self._differences |= {
            "users in Atlas of no live binding": users - expected,
            "live bindings without a user in Atlas": expected - users,
        }
        self._clusters()
        self._none("passwords that are refused", [each for each in live & set(given) if not works(given[each])])
        self._none(
            "bindings with two passwords", [each for each, all_ in self._books.passwords.items() if len(all_) > 1]
        )
        self._none("passwords that outlive their binding", [each for each in set(given) - live if works(given[each])])
        self._balance()

    def of_death(self) -> None:
        """After everything was deleted: nothing is left anywhere."""
        self._operations()
        # Atlas may yet apply what it was told last; a failed bind's user is removed without waiting for that.
        with suppress(AssertionError):
            eventually(lambda: not self._on_the_cluster(), seconds=APPLIED_SECONDS)
        self._none("left: clusters in Atlas", [cluster["name"] for cluster in self._chaos.clusters()])
        self._none("left: users in Atlas", self._chaos.users())
        self._none("left: users on the cluster", self._on_the_cluster())
        not_gone = self._chaos.records.find({"phase": {"$ne": "gone"}}, {"_id": 1})
        self._none("left: records that are not gone", [found["_id"] for found in not_gone])
        self._balance()

    def _clusters(self) -> None:
        """Each live instance of a plan that makes clusters has one cluster, and Atlas has no other of the broker."""
        plans = {"$in": [DEDICATED_PLAN_ID, FLEX_PLAN_ID]}
        ready = {"binding_id": {"$exists": False}, "plan_id": plans, "phase": "ready"}
        live = Counter(found["instance_id"] for found in self._chaos.records.find(ready))
        made = Counter(cluster["tags"]["instance_id"] for cluster in self._chaos.clusters())
        self.numbers |= {"clusters in Atlas": made.total(), "live instances with a cluster": live.total()}
        self._differences |= {
            "clusters in Atlas of no live instance": made - live,
            "live instances without a cluster in Atlas": live - made,
        }

    def _operations(self) -> None:
        states = Counter[str]()
        with self._chaos.platform() as platform:
            for operation_id, entry in self._books.recent():
                client = platform.of_plan(entry.plan_id)
                answer = client.last_operation(entry.instance_id, entry.binding_id, operation_id)
                state = "succeeded" if answer.state == "gone" else answer.state
                states[state] += 1
                if state == IN_PROGRESS or (state == "failed" and not entry.may_fail):
                    self._differences[f"{state}: {operation_id}"] = f"{entry} {answer.text}"
        accepted, succeeded, failed = states.total(), states["succeeded"], states["failed"]
        self.numbers |= {"accepted": accepted, "succeeded": succeeded, "failed": failed}
        if accepted != succeeded + failed:
            self._differences["operations in other states"] = states
        self._differences["operations that are open in MongoDB"] = self._chaos.open_operations()

    def _on_the_cluster(self) -> set[str]:
        with self._chaos.stack.cluster.client() as root:
            users = root["admin"]["system.users"].find({}, {"user": 1})
            return {found["user"] for found in users} - {self._chaos.stack.cluster.user}

    def _none(self, what: str, found: set[str] | list[str] | list[tuple[str, str]]) -> None:
        self.numbers[what] = len(found)
        self._differences[what] = found

    def _balance(self) -> None:
        wrong = [f"{what}: {found}" for what, found in self._differences.items() if found]
        assert not wrong, "the books do not balance:\n" + "\n".join(wrong)
