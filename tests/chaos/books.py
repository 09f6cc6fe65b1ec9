"""What platforms were told, and whether it agrees with MongoDB, Atlas and the clusters once all is quiet."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.chaos import Chaos, logs_in
from tests.osb_client import IN_PROGRESS

Json = dict[str, object]
APPLIED_SECONDS = 20


@dataclass(frozen=True)
class Accepted:
    """An operation that was answered with 202. ``may_fail``: it asked for what cannot be."""

    kind: str
    instance_id: str
    binding_id: str | None
    may_fail: bool


@dataclass
class Books:
    """Platforms write here from several threads."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    passwords: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    given: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, operation_id: str, entry: Accepted) -> None:
        with self._lock:
            self.accepted.setdefault(operation_id, entry)

    def hand_out(self, instance_id: str, binding_id: str, credentials: dict[str, str]) -> None:
        """A platform has been given these."""
        with self._lock:
            self.passwords.setdefault((instance_id, binding_id), set()).add(credentials["password"])
            self.given[instance_id, binding_id] = credentials

    def complain(self, sentence: str) -> None:
        """A platform has seen what must not be."""
        with self._lock:
            self.complaints.append(sentence)

    def recent(self) -> list[tuple[str, Accepted]]:
        with self._lock:
            return list(self.accepted.items())


class Audit:
    """Counts at rest; ``differences`` is empty when the books balance."""

    def __init__(self, chaos: Chaos, books: Books) -> None:
        self._chaos, self._books = chaos, books
        self.numbers: dict[str, int] = {}
        self.differences: list[str] = list(books.complaints)

    def of_life(self) -> None:
        """While bindings live: operations, users, passwords."""
        self._operations()
        live = self._live()
        self._compare("users in Atlas", self._chaos.users(), "live bindings", {user for _, _, user in live})
        self._passwords({(instance, binding) for instance, binding, _ in live})

    def of_death(self) -> None:
        """After everything was deleted: nothing is left anywhere."""
        self._operations()
        for what, left in (
            ("users in Atlas", self._chaos.users()),
            ("users on the cluster", self._on_the_cluster()),
            ("records that are not gone", self._not_gone()),
        ):
            self._count(f"left: {what}", len(left))
            self._differ(bool(left), f"left after everything was deleted: {what}: {sorted(left)}")

    def _operations(self) -> None:
        with self._chaos.platform() as platform:
            states = Counter[str]()
            for operation_id, entry in self._books.recent():
                answer = platform.last_operation(entry.instance_id, entry.binding_id, operation_id)
                state = "succeeded" if answer.state == "gone" else answer.state
                states[state] += 1
                self._differ(state == IN_PROGRESS, f"still in progress: {entry} {answer.text}")
                self._differ(state == "failed" and not entry.may_fail, f"failed: {entry} {answer.text}")
        accepted, succeeded, failed = sum(states.values()), states["succeeded"], states["failed"]
        self.numbers |= {"accepted": accepted, "succeeded": succeeded, "failed": failed}
        self._differ(accepted != succeeded + failed, f"{accepted} accepted, but the states are {dict(states)}")
        self._differ(self._open() > 0, f"{self._open()} operations are open in MongoDB")

    def _open(self) -> int:
        return self._chaos.records.count_documents({"operation.open": True})

    def _live(self) -> list[tuple[str, str, str]]:
        ready = self._chaos.records.find({"binding_id": {"$exists": True}, "phase": "ready"})
        return [(found["instance_id"], found["binding_id"], found["username"]) for found in ready]

    def _passwords(self, live: set[tuple[str, str]]) -> None:
        given = self._books.given
        refused = [each for each in live if each in given and not logs_in(given[each])]
        several = [each for each, passwords in self._books.passwords.items() if len(passwords) > 1]
        alive = [each for each in given if each not in live and logs_in(given[each])]
        self.numbers |= {"bindings with a password": len(given), "live bindings tried": len(live & set(given))}
        self._count("passwords that are refused", len(refused))
        self._count("bindings with two passwords", len(several))
        self._count("passwords that outlive their binding", len(alive))
        self._differ(bool(refused), f"these passwords are refused: {refused}")
        self._differ(bool(several), f"two passwords were handed out for {several}")
        self._differ(bool(alive), f"still able to log in: {alive}")

    def _on_the_cluster(self) -> set[str]:
        """Once Atlas has applied what it was told last; a failed bind's user is removed without waiting for that."""
        deadline = time.monotonic() + APPLIED_SECONDS
        while (left := self._real_users()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def _real_users(self) -> set[str]:
        with self._chaos.stack.cluster.client() as root:
            users = root["admin"]["system.users"].find({}, {"user": 1})
            return {found["user"] for found in users} - {self._chaos.stack.cluster.user}

    def _not_gone(self) -> set[str]:
        return {found["_id"] for found in self._chaos.records.find({"phase": {"$ne": "gone"}}, {"_id": 1})}

    def _compare(self, one: str, left: set[str], other: str, right: set[str]) -> None:
        self.numbers |= {one: len(left), other: len(right)}
        self._differ(left != right, f"{one}, not in {other}: {left - right}; the other way round: {right - left}")

    def _count(self, what: str, number: int) -> None:
        self.numbers[what] = number

    def _differ(self, differs: bool, sentence: str) -> None:  # noqa: FBT001 - a condition like assert's
        if differs:
            self.differences.append(sentence)


def balanced(audit: Audit, look: Callable[[], None]) -> Audit:
    """Do the counting; AssertionError with every difference."""
    look()
    assert not audit.differences, "the books do not balance:\n" + "\n".join(audit.differences)
    return audit
