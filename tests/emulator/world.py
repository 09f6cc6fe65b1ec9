"""The whole emulated Atlas in one object, and how it begins."""

from dataclasses import dataclass, field

from tests.emulator.bodies import identifier
from tests.emulator.buckets import Buckets
from tests.emulator.calls import CallLog
from tests.emulator.changes import Deployment
from tests.emulator.digest import Credential, Digest
from tests.emulator.faults import Faults
from tests.emulator.model import Atlas, Cluster, Policy, Project
from tests.emulator.oauth import OAuth
from tests.emulator.waiting import Delay

PROJECT_ID = identifier("project")
PUBLIC_KEY = "emulator"
PRIVATE_KEY = "5e1f0c2a-emul-ated-0000-9b7d3c4e5f60"
CLIENT_ID = f"mdb_sa_id_{identifier('account')}"
CLIENT_SECRET = "mdb_sa_sk_emulated-and-no-secret-at-all"
CLUSTERS = ("cluster-dev", "cluster-test")


@dataclass(frozen=True)
class Setup:
    """What the world is at its beginning and after a reset. A cluster is `NAME` or `NAME=MONGO_URI`."""

    mongo: str
    project: str = PROJECT_ID
    public_key: str = PUBLIC_KEY
    private_key: str = PRIVATE_KEY
    client_id: str = CLIENT_ID
    client_secret: str = CLIENT_SECRET
    clusters: tuple[str, ...] = CLUSTERS
    apply_seconds: float = 0


@dataclass
class World:
    """`allowed_addresses` None: the API is reachable from everywhere. `latency` is added to every call, in seconds."""

    setup: Setup
    atlas: Atlas = field(default_factory=Atlas)
    digest: Digest = field(default_factory=Digest)
    oauth: OAuth = field(default_factory=OAuth)
    buckets: Buckets = field(default_factory=Buckets)
    faults: Faults = field(default_factory=Faults)
    log: CallLog = field(default_factory=CallLog)
    latency: float = 0
    allowed_addresses: list[str] | None = None

    def __post_init__(self) -> None:
        self.deployment = Deployment(self.atlas)
        self._begin()

    def reset(self) -> None:
        """Everything as at the beginning: users are gone from the mongods, tokens and nonces have ended."""
        with self.atlas.lock:
            self.atlas.projects.clear()
        self.deployment.clear()
        self.digest, self.oauth, self.buckets = Digest(), OAuth(), Buckets()
        self.faults.clear()
        self.log.clear()
        self.latency, self.allowed_addresses = 0, None
        self._begin()

    def _begin(self) -> None:
        setup = self.setup
        projects = frozenset({setup.project})
        self.digest.keys[setup.public_key] = Credential(setup.public_key, setup.private_key, projects)
        self.oauth.accounts[setup.client_id] = Credential(setup.client_id, setup.client_secret, projects)
        clusters = [_cluster(given, setup.mongo) for given in setup.clusters]
        with self.atlas.lock:
            self.atlas.hidden_databases = frozenset()
            self.atlas.policy = Policy(Delay(seconds=setup.apply_seconds))
            self.atlas.projects[setup.project] = Project(
                setup.project, "emulated", clusters={cluster.name: cluster for cluster in clusters}
            )


def _cluster(given: str, mongo: str) -> Cluster:
    name, _, own = given.partition("=")
    return Cluster(name, own or mongo)
