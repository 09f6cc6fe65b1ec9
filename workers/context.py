"""The parts of a worker process, created once from its settings."""

import threading
from dataclasses import dataclass

from broker_api.catalog.catalog import Catalog
from broker_api.errors import SettingError
from broker_api.jobs.queue import Queue
from broker_api.settings.settings import Project, Settings
from broker_api.state.database_reservations import Reservations
from broker_api.state.encryption import Vault, derived_key
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.operation_claims import Claims
from broker_api.state.store import Store
from workers.atlas.client import ApiKey, AtlasClient, ServiceAccount, TokenStore
from workers.clusters.access_list import AccessNeeds
from workers.clusters.change_status import ClusterStatus
from workers.clusters.cluster_polls import ClusterPolls
from workers.clusters.connection_strings import ConnectionStringCache
from workers.clusters.watcher import ClusterWatcher
from workers.engine.leases import Lease, LeaseKeeper
from workers.guard.circuit_breaker import CircuitBreaker
from workers.guard.guard import Guard
from workers.guard.oauth_token_store import SharedTokens
from workers.guard.rate_limiter import RateLimiter


@dataclass(frozen=True)
class AtlasProject:
    """An Atlas project with its credentials. Call it through ``guarded``, never by ``client``."""

    client: AtlasClient
    breaker: CircuitBreaker
    limiter: RateLimiter

    def guarded(self, lease: Lease | None = None) -> AtlasClient:
        """Return a client whose calls pass the guard.

        Args:
            lease: The lease of the operation that makes the calls; None for maintenance.
        """
        guard = Guard(self.breaker, self.limiter, lease, lease.probes if lease else set())
        return self.client.guarded(guard)


@dataclass
class Context:
    """The parts of a worker. Each one connects at its first use; all of them are safe to share between threads."""

    settings: Settings
    catalog: Catalog
    store: Store
    claims: Claims
    housekeeping: Housekeeping
    reservations: Reservations
    vault: Vault
    keys: KeyCheck
    queue: Queue
    leases: LeaseKeeper
    status: ClusterStatus
    watcher: ClusterWatcher
    connection_strings: ConnectionStringCache
    access: AccessNeeds
    cluster_polls: ClusterPolls
    projects: dict[str, AtlasProject]
    """By project id, in the order of the settings."""
    stopping: threading.Event
    own_vault: Vault
    """That of what only workers may read."""

    def use(self, new: Settings) -> None:
        """Use the secrets of other settings from now on: keys, and credentials of the projects that this worker has.

        Other projects need a restart.

        Raises:
            SettingError: They cannot be used, and nothing is changed.
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        found = {each.project_id: each for each in new.projects if each.project_id in self.projects}
        try:
            credentials_of = {
                name: credentials(project, SharedTokens(self.housekeeping, self.own_vault, project.client_id))
                for name, project in found.items()
            }
        except ValueError as error:
            raise SettingError(f"MONGODB_ATLAS_…: must be credentials of Atlas: {error}") from None
        self.keys.replace_keys(new.encryption_keys)
        self.own_vault.replace(worker_keys(new))
        for name, project in found.items():
            if project not in self.settings.projects:
                self.projects[name].client.replace_credentials(credentials_of[name])
        self.settings = new


def compose(settings: Settings, worker: str | None = None) -> Context:
    """Create the parts of a worker; nothing connects yet.

    Args:
        settings: The settings.
        worker: The name of the worker; None for one that is made of the host and the process.

    Raises:
        SettingError: The catalog in the ``Config`` is wrong.
    """
    vault, client = Vault(settings.encryption_keys), connect(settings.mongo_uri, settings.mongo_timeout_ms)
    store = Store(client, settings.mongo_db, settings.mongo_collection, vault)
    claims = Claims(store, worker) if worker else Claims(store)
    housekeeping, queue = Housekeeping(store), Queue(settings.redis, store.report)
    projects, own_vault = {}, worker_vault(settings)
    for project in settings.projects:
        auth = credentials(project, SharedTokens(housekeeping, own_vault, project.client_id))
        projects[project.project_id] = AtlasProject(
            AtlasClient(settings.base_url, project.project_id, auth),
            CircuitBreaker(project.project_id, housekeeping, claims),
            RateLimiter(project.project_id, settings.redis),
        )
    stopping = threading.Event()
    status = ClusterStatus(
        housekeeping, settings.settle, {name: project.limiter.may_poll for name, project in projects.items()}
    )
    return Context(
        settings=settings,
        catalog=Catalog(settings.config, settings.plans),
        store=store,
        claims=claims,
        housekeeping=housekeeping,
        reservations=Reservations(housekeeping),
        vault=vault,
        keys=KeyCheck(housekeeping, vault),
        queue=queue,
        leases=LeaseKeeper(claims),
        status=status,
        watcher=ClusterWatcher(status, claims, queue, lambda project: projects[project].guarded(), stopping),
        connection_strings=ConnectionStringCache(housekeeping),
        access=AccessNeeds(housekeeping),
        cluster_polls=ClusterPolls(housekeeping),
        projects=projects,
        stopping=stopping,
        own_vault=own_vault,
    )


def worker_keys(settings: Settings) -> tuple[str, ...]:
    """Return the keys of what only workers may read: BROKER_WORKER_KEYS, by default keys from the Atlas credentials.

    The key of the first project encrypts. When credentials change, nothing is lost: a token is requested anew.
    """
    secrets = [f"{each.client_id}:{each.client_secret or each.private_key}" for each in settings.projects]
    return settings.worker_keys or tuple(derived_key(secret, "workers") for secret in secrets)


def worker_vault(settings: Settings) -> Vault:
    """Return the vault of what only workers may read."""
    return Vault(worker_keys(settings))


def credentials(project: Project, tokens: TokenStore) -> ApiKey | ServiceAccount:
    """Return the credentials of a project: its service account, as MongoDB recommends, else its API key.

    Raises:
        ValueError: A secret is not in the form that Atlas uses.
    """
    if project.client_id and project.client_secret:
        return ServiceAccount(project.client_id, project.client_secret, tokens)
    return ApiKey(project.public_key, project.private_key)
