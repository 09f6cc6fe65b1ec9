"""The whole broker on real parts: two MongoDBs, Redis, the emulated Atlas, the API, workers and Flower."""

import secrets
from collections.abc import Mapping

from cryptography.fernet import Fernet

from broker_api.logins import make_hash
from tests.dev.broker import Api, Flower, Worker
from tests.dev.emulated import AtlasEmulator
from tests.dev.forkserver import PythonServer
from tests.dev.processes import Running, Server, close_all, start_all
from tests.dev.services import Mongod, Redis
from tests.osb_client import OsbClient

OPERATOR, PLATFORM = "password of an operator", "password of a platform"
"""Passwords of further users of a stack with a service account."""


class Stack(Running):
    """Starts everything when entered, in parallel, and ends everything when left.

    Servers that are given (a test run's) are used as they run and left running. ``settings`` go over the environment
    variables of the broker's processes. Each stack has a database of its own in the state's MongoDB, and is the only
    one on its Redis. ``forked`` saves the time that imports take (see ``PythonServer``). ``apply_seconds`` is
    how long the emulated Atlas takes to apply a change, ``cluster_seconds`` how long to create, change or delete a
    cluster.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        flower: bool = True,
        oauth: bool = False,
        forked: bool = True,
        apply_seconds: float = 0,
        cluster_seconds: float = 0,
        settings: Mapping[str, str] | None = None,
        state: Mongod | None = None,
        cluster: Mongod | None = None,
        redis: Redis | None = None,
        emulator: AtlasEmulator | None = None,
    ) -> None:
        self.oauth = oauth
        self.settings = dict(settings or {})
        self.user, self.password = "dev", secrets.token_urlsafe(12)
        self.users = f"{self.user}:{self.password}"
        if oauth:  # the other way to give a password, and users with one role
            self.users = f"{self.user}:{make_hash(self.password)},o/operator:{OPERATOR},p/platform:{PLATFORM}"
        self.encryption_key = Fernet.generate_key().decode()
        self.database = f"broker-{secrets.token_hex(4)}"
        self.state = state or Mongod("mongod-state")
        self.cluster = cluster or Mongod("mongod-cluster", auth=True)
        self.redis = redis or Redis()
        self.emulator = emulator or AtlasEmulator(
            self.cluster, apply_seconds=apply_seconds, cluster_seconds=cluster_seconds
        )
        self.api = Api(self.api_settings)
        self.workers = [Worker(self.worker_settings, f"worker-{n}") for n in range(1, workers + 1)]
        self.flower = Flower(self.shared_settings) if flower else None
        given = (state, cluster, redis, emulator)
        self._servers: list[Server] = [
            s for s in (self.state, self.cluster, self.redis, self.emulator) if s not in given
        ]
        self._broker: list[Server] = [self.api, *self.workers, *([self.flower] if self.flower else [])]
        for server in self.servers:
            if isinstance(server, PythonServer):
                server.forked = forked

    @property
    def shared_settings(self) -> dict[str, str]:
        """Settings of every process of the broker; they hold no Atlas credential."""
        return {
            "MONGODB_ATLAS_PROJECT_ID": self.emulator.project_id,
            "BROKER_MONGO_URI": self.state.uri,
            "BROKER_MONGO_DB": self.database,
            "BROKER_MONGO_COLLECTION": "instances",
            "BROKER_REDIS_URL": self.redis.uri,
            "BROKER_USERS": self.users,
            "BROKER_SETTLE_SECONDS": "1",
            "BROKER_MONGO_TIMEOUT_MS": "20000",  # longer than a busy disk may take for one write to the journal
            **self.settings,
        }

    @property
    def api_settings(self) -> dict[str, str]:
        return {"BROKER_ENCRYPTION_KEYS": self.encryption_key, **self.shared_settings}

    @property
    def worker_settings(self) -> dict[str, str]:
        names = ("CLIENT_ID", "CLIENT_SECRET") if self.oauth else ("PUBLIC_API_KEY", "PRIVATE_API_KEY")
        atlas = self.emulator
        values = (atlas.client_id, atlas.client_secret) if self.oauth else (atlas.public_key, atlas.private_key)
        credentials = {f"MONGODB_ATLAS_{name}": value for name, value in zip(names, values, strict=True)}
        return {"MONGODB_ATLAS_BASE_URL": atlas.uri, **credentials, **self.api_settings}

    @property
    def servers(self) -> list[Server]:
        """The processes of this stack, those that were given left out."""
        return [*self._servers, *self._broker]

    def client(self) -> OsbClient:
        return OsbClient(self.api.uri, self.user, self.password)

    def ended(self) -> list[Server]:
        """Processes that were started and run no more."""
        return [server for server in self.servers if server.returncode is not None]

    def start(self) -> None:
        """RuntimeError when one does not start; ``close()`` is needed then, too."""
        start_all(self._servers)
        start_all(self._broker)

    def close(self) -> None:
        """End the broker's processes first, since they close their connections to the other servers."""
        close_all(self._broker)
        close_all(self._servers)
