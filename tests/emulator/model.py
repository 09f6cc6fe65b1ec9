"""What the emulated Atlas holds: projects with their clusters, users, custom roles and access list."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from tests.emulator.waiting import Delay, Wait

Json = dict[str, Any]

STATES = frozenset({"IDLE", "CREATING", "UPDATING", "DELETING", "REPAIRING"})
KINDS = frozenset({"dedicated", "flex", "free"})


@dataclass
class User:
    """One version of a database user; `attributes` is its wire form without links, and never has the password."""

    attributes: Json
    password: str | None
    version: int

    @property
    def name(self) -> str:
        return str(self.attributes["username"])

    @property
    def expires(self) -> datetime | None:
        date = self.attributes.get("deleteAfterDate")
        return datetime.fromisoformat(date) if date else None

    def reaches(self, cluster: str) -> bool:
        """A user without scopes reaches every cluster of the project."""
        scopes = self.attributes["scopes"]
        return not scopes or any(s["type"] == "CLUSTER" and s["name"] == cluster for s in scopes)


@dataclass(eq=False)
class Change:
    """A user's new version (`user` is None: it goes away) on the way to one cluster.

    Until `stale` is over the cluster's status does not show it; from then on it reads PENDING until it is applied.
    """

    name: str
    version: int
    user: User | None
    stale: Wait
    delay: Delay
    applying: Wait | None = None
    forced: bool = False

    def visible(self, now: float) -> bool:
        if self.applying is None and self.stale.over(now):
            self.applying = Wait(self.delay, self.stale.end(now))
        return self.applying is not None

    def due(self, now: float) -> bool:
        return self.forced or (self.visible(now) and self.applying is not None and self.applying.over(now))

    def count_read(self) -> None:
        (self.applying or self.stale).reads += 1

    @property
    def by_reads(self) -> bool:
        """Only a status read may apply it, so that a login is refused as long as no read said APPLIED."""
        return bool(self.delay.reads or self.stale.delay.reads)


@dataclass(eq=False)
class Cluster:
    """`connection_strings` None: those that lead to its mongod. `following`: the next state, None is gone.

    `processes` None: those of its standard connection string; see `tests.emulator.processes`.
    """

    name: str
    mongo: str
    kind: str = "dedicated"
    state: str = "IDLE"
    paused: bool = False
    connection_strings: Json | None = None
    cluster_type: str = "REPLICASET"
    processes: list[Json] | None = None
    following: tuple[Wait, str | None] | None = None
    changes: list[Change] = field(default_factory=list)


@dataclass
class Project:
    id: str
    name: str
    user_limit: int = 100
    clusters: dict[str, Cluster] = field(default_factory=dict)
    users: dict[tuple[str, str], User] = field(default_factory=dict)
    roles: dict[str, Json] = field(default_factory=dict)
    access_list: list[str] = field(default_factory=lambda: ["0.0.0.0/0"])
    created: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Policy:
    """When changes of users reach a cluster, and how long its status goes on reading the old APPLIED before."""

    applied: Delay = field(default_factory=Delay)
    stale: Delay = field(default_factory=Delay)


@dataclass
class Atlas:
    """All state in memory. Whoever reads or changes it holds `lock`, and never talks to a mongod meanwhile.

    `hidden_databases` exist, but monitoring has not seen them yet.
    """

    policy: Policy = field(default_factory=Policy)
    projects: dict[str, Project] = field(default_factory=dict)
    hidden_databases: frozenset[str] = frozenset()
    lock: threading.RLock = field(default_factory=threading.RLock)
    versions: Iterator[int] = field(default_factory=lambda: count(1))

    def clusters(self) -> list[Cluster]:
        return [cluster for project in self.projects.values() for cluster in project.clusters.values()]


def wire_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def advance(project: Project, now: float) -> None:
    """One read of the project's clusters: states whose wait is over move on."""
    for cluster in list(project.clusters.values()):
        if cluster.following is None:
            continue
        wait, state = cluster.following
        if not wait.over(now):
            wait.reads += 1
        elif state is None:
            del project.clusters[cluster.name]
        else:
            cluster.state, cluster.following = state, None
