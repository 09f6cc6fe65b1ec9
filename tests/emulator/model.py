"""What the emulated Atlas holds: projects with their clusters, users, custom roles and access list."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

Json = dict[str, Any]
Login = tuple[str, str]
"""The database and the name under which a user is known to a mongod."""

STATES = frozenset({"IDLE", "CREATING", "UPDATING", "DELETING", "REPAIRING"})
KINDS = frozenset({"dedicated", "flex", "free"})


@dataclass(frozen=True)
class Delay:
    """Over when `seconds` have gone by and `reads` reads have shown the old state; with `never`, only by hand."""

    seconds: float = 0
    reads: int = 0
    never: bool = False


@dataclass
class Wait:
    delay: Delay
    since: float
    reads: int = 0

    def over(self, now: float) -> bool:
        return not self.delay.never and self.reads >= self.delay.reads and now >= self.since + self.delay.seconds


@dataclass(frozen=True)
class Policy:
    """When changes of users reach a cluster, and how long its status goes on reading the old APPLIED before."""

    applied: Delay = field(default_factory=Delay)
    stale: Delay = field(default_factory=Delay)


@dataclass(frozen=True)
class Credential:
    """An API key or a service account, `name` its public half, with its roles in each of its projects."""

    name: str
    secret: str
    projects: frozenset[str]
    roles: frozenset[str] = frozenset({"GROUP_OWNER"})

    def may(self, role: str) -> bool:
        """Whether it has the role (each has the empty one), or the one that includes all others."""
        return not role or not self.roles.isdisjoint({role, "GROUP_OWNER"})


def subject_of(username: str) -> x509.Name:
    """Return the subject of the certificates of a user whom Atlas manages."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, username)])


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
    def has_certificates(self) -> bool:
        return bool(self.attributes["x509Type"] != "NONE")

    @property
    def login(self) -> Login:
        """A mongod knows a user with certificates by their subject, which Atlas makes of the name if it makes them."""
        managed = self.attributes["x509Type"] == "MANAGED"
        name = subject_of(self.name).rfc4514_string() if managed else self.name
        return self.attributes["databaseName"], name

    def reaches(self, cluster: str) -> bool:
        """A user without scopes reaches every cluster of the project."""
        scopes = self.attributes["scopes"]
        return not scopes or any(s["type"] == "CLUSTER" and s["name"] == cluster for s in scopes)


@dataclass(eq=False)
class Cluster:
    """`connection_strings` None: those that lead to its mongod. `following`: the next state, None is gone.

    `processes` None: those of its standard connection string; see `tests.emulator.bodies`. `tags` are in Atlas's form.
    """

    name: str
    mongo: str
    kind: str = "dedicated"
    state: str = "IDLE"
    paused: bool = False
    connection_strings: Json | None = None
    cluster_type: str = "REPLICASET"
    processes: list[Json] | None = None
    provider: str = "AWS"
    region: str = "US_EAST_1"
    tier: str = "M10"
    disk_size_gb: float = 30.0
    version: str = "8.0"
    backup: bool = False
    protected: bool = False
    tags: list[Json] = field(default_factory=list)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    following: tuple[Wait, str | None] | None = None
    changes: list["Change"] = field(default_factory=list)

    def begin(self, state: str, delay: Delay, then: str | None) -> None:
        """Go into a state that another one follows."""
        self.state, self.following = state, (Wait(delay, time.time()), then)


@dataclass
class AccessEntry:
    """An entry of the IP access list; its status is ACTIVE when `active` is over."""

    cidr: str
    comment: str = ""
    active: Wait = field(default_factory=lambda: Wait(Delay(), 0))


@dataclass
class Project:
    id: str
    name: str
    user_limit: int = 100
    cluster_limit: int = 25
    clusters: dict[str, Cluster] = field(default_factory=dict)
    users: dict[tuple[str, str], User] = field(default_factory=dict)
    roles: dict[str, Json] = field(default_factory=dict)
    certificates: dict[str, list[Json]] = field(default_factory=dict)
    access_list: dict[str, AccessEntry] = field(default_factory=lambda: {"0.0.0.0/0": AccessEntry("0.0.0.0/0")})
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def advance(self, now: float) -> list[Cluster]:
        """Count one read of the clusters: states whose wait is over move on. Return the clusters that are gone now."""
        gone = []
        for cluster in list(self.clusters.values()):
            wait, state = cluster.following or (None, None)
            if wait and not wait.over(now):
                wait.reads += 1
            elif wait and state is None:
                gone.append(self.clusters.pop(cluster.name))
            elif wait and state:
                cluster.state, cluster.following = state, None
        return gone


@dataclass(eq=False)
class Change:
    """A user's new version (`user` is None: it goes away) on the way to one cluster.

    Until `stale` is over the cluster's status does not show it; from then on it reads PENDING until it is applied.
    """

    project: Project
    cluster: Cluster
    login: Login
    version: int
    user: User | None
    stale: Wait
    delay: Delay
    applying: Wait | None = None
    forced: bool = False

    def visible(self, now: float) -> bool:
        if self.applying is None and self.stale.over(now):
            # Reads carry no time, so a stale phase that counted them ends now.
            end = now if self.stale.delay.reads else self.stale.since + self.stale.delay.seconds
            self.applying = Wait(self.delay, end)
        return self.applying is not None

    def due(self, now: float, *, in_read: bool = True) -> bool:
        """A change that waits for reads is due in one only: logins are refused until a read said APPLIED."""
        if self.forced:
            return True
        if not in_read and (self.delay.reads or self.stale.delay.reads):
            return False
        return self.visible(now) and self.applying is not None and self.applying.over(now)


def wire_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
