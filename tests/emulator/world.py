"""The whole emulated Atlas in one object, how it begins, and the log of what was asked of it."""

import time
from dataclasses import dataclass, field

from tests.emulator.atlas import Atlas
from tests.emulator.authority import UserAuthority
from tests.emulator.bodies import identifier
from tests.emulator.buckets import Buckets
from tests.emulator.credentials import Digest, OAuth
from tests.emulator.faults import Faults
from tests.emulator.model import KINDS, Cluster, Credential, Delay, Policy, Project

PROJECT_ID = identifier("project")
PUBLIC_KEY = "emulator"
PRIVATE_KEY = "5e1f0c2a-emul-ated-0000-9b7d3c4e5f60"
CLIENT_ID = f"mdb_sa_id_{identifier('account')}"
CLIENT_SECRET = "mdb_sa_sk_emulated-and-no-secret-at-all"
CLUSTERS = ("cluster-dev", "cluster-test")


@dataclass
class Call:
    """`status` stays None while the answer is on its way, and when the connection was closed without one."""

    method: str
    path: str
    query: str
    template: str
    accept: str
    user_agent: str
    authentication: str
    start: float = field(default_factory=time.time)
    end: float | None = None
    status: int | None = None
    error_code: str | None = None
    challenge: bool = False
    caller: str | None = None
    fault: int | None = None


@dataclass
class World:
    """The fields say what it is at its beginning and after a reset. A cluster is `NAME` or `NAME=MONGO_URI`.

    `allowed_addresses` None: the API is reachable from everywhere. `latency` is added to every call, in seconds.
    `calls` is what was asked of the Admin API, by whom and with what result; it holds no body and no secret.
    """

    mongo: str
    project: str = PROJECT_ID
    public_key: str = PUBLIC_KEY
    private_key: str = PRIVATE_KEY
    clusters: tuple[str, ...] = CLUSTERS
    apply_seconds: float = 0
    cluster_seconds: float = 0
    ca_certificate: str = ""
    ca_key: str = ""

    def __post_init__(self) -> None:
        self.atlas = Atlas(UserAuthority(self.ca_certificate, self.ca_key))
        self.faults, self.calls = Faults(), list[Call]()
        self.reset()

    def reset(self) -> None:
        """Everything as at the beginning: users are gone from the mongods, tokens and nonces have ended."""
        with self.atlas.lock:
            self.atlas.projects.clear()
        self.atlas.clear()
        self.digest, self.oauth, self.buckets = Digest(), OAuth(), Buckets()
        self.faults.clear()
        self.calls.clear()
        self.latency: float = 0
        self.allowed_addresses: list[str] | None = None
        projects = frozenset({self.project})
        self.digest.keys[self.public_key] = Credential(self.public_key, self.private_key, projects)
        self.oauth.accounts[CLIENT_ID] = Credential(CLIENT_ID, CLIENT_SECRET, projects)
        named = [given.partition("=") for given in self.clusters]
        clusters = {name: Cluster(name, own or self.mongo) for name, _, own in named}
        with self.atlas.lock:
            self.atlas.hidden_databases = frozenset()
            self.atlas.new_clusters_mongod = self.mongo
            self.atlas.policy = Policy(Delay(seconds=self.apply_seconds))
            self.atlas.lost_deletions, self.atlas.access_delay, self.atlas.access_gap = 0, Delay(), 0
            taking = Delay(seconds=self.cluster_seconds)
            states = ("CREATING", "UPDATING", "DELETING")
            self.atlas.cluster_times = {(kind, state): taking for kind in KINDS for state in states}
            self.atlas.projects[self.project] = Project(self.project, "emulated", clusters=clusters)
