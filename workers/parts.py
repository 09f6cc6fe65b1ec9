"""Everything that a worker process works with, composed once from its settings."""

import threading
from dataclasses import dataclass, field

import structlog

from broker_api.catalog import Catalog
from broker_api.queue import Queue
from broker_api.settings import Project, Settings
from broker_api.state.claims import Claims
from broker_api.state.crypto import Vault
from broker_api.state.databases import Databases
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.keys import KeyCheck
from broker_api.state.mongo import connect
from broker_api.state.store import Store
from workers.atlas.auth import ApiKey, ServiceAccount, TokenStore
from workers.atlas.client import Answer, AtlasClient, Refused
from workers.circuit import Circuit
from workers.clusters import Clusters
from workers.connections import Connections
from workers.lease import Keeper, check_current
from workers.politeness import Politeness
from workers.tokens import SharedTokens

log = structlog.get_logger(__name__)


@dataclass
class Parts:
    """The parts of a worker. Nothing connects before it is used; threads and forks share what is here safely."""

    settings: Settings
    catalog: Catalog
    store: Store
    claims: Claims
    housekeeping: Housekeeping
    databases: Databases
    vault: Vault
    keys: KeyCheck
    queue: Queue
    keeper: Keeper
    clusters: Clusters
    connections: Connections
    circuits: dict[str, Circuit]
    projects: dict[str, AtlasClient]
    """Clients by project id, in the order of the settings."""
    stopping: threading.Event = field(default_factory=threading.Event)


def compose(settings: Settings) -> Parts:
    """Put a worker together.

    Raises:
        SettingError: the catalog in the ``Config`` is wrong.
    """
    store = Store(connect(settings.mongo_uri, settings.mongo_timeout_ms), settings.mongo_db, settings.mongo_collection)
    claims, housekeeping, queue = Claims(store), Housekeeping(store), Queue(settings.redis)
    vault = Vault(settings.encryption_keys)
    circuits = {each.project_id: Circuit(each.project_id, housekeeping, claims) for each in settings.projects}
    return Parts(
        settings=settings,
        catalog=Catalog(settings.config),
        store=store,
        claims=claims,
        housekeeping=housekeeping,
        databases=Databases(housekeeping),
        vault=vault,
        keys=KeyCheck(store, vault),
        queue=queue,
        keeper=Keeper(claims),
        clusters=Clusters(housekeeping, claims, queue, settings.settle),
        connections=Connections(housekeeping),
        circuits=circuits,
        projects={
            each.project_id: _client(settings, each, circuits[each.project_id], housekeeping, vault)
            for each in settings.projects
        },
    )


def _client(
    settings: Settings, project: Project, circuit: Circuit, housekeeping: Housekeeping, vault: Vault
) -> AtlasClient:
    """Make a project's client, which asks lease, circuit and rate limit before each request."""
    politeness = Politeness(project.project_id, settings.redis)

    def before() -> None:
        check_current()
        circuit.check()
        politeness.check()

    def observe(answer: Answer) -> None:
        # Atlas counts calls about processes in a small bucket of their own, and not every tier answers them: a limit or
        # a refusal there says nothing of the other calls.
        about_processes = "/processes" in answer.path
        if not about_processes:
            politeness.observe(answer)
        if not (about_processes and answer.status in range(400, 500)):
            judge(circuit, answer)

    tokens = SharedTokens(housekeeping, vault, project.client_id)
    auth = credentials(project, tokens)
    return AtlasClient(settings.base_url, project.project_id, auth, before=before, observe=observe)


def credentials(project: Project, tokens: TokenStore) -> ApiKey | ServiceAccount:
    """Give what opens a project; a service account goes first, as MongoDB recommends."""
    if project.client_id and project.client_secret:
        return ServiceAccount(project.client_id, project.client_secret, tokens)
    return ApiKey(project.public_key, project.private_key)


def judge(circuit: Circuit, answer: Answer) -> None:
    """Tell the circuit what a call says about Atlas as a whole: a no to one request, or 429, is an answer like any."""
    error = answer.error
    log.debug("atlas", method=answer.method, path=answer.path, status=answer.status, seconds=round(answer.seconds, 3))
    if error and (error.unauthorized or not isinstance(error, Refused) or error.status >= SERVER_ERROR):
        circuit.failed(str(error), unauthorized=error.unauthorized)
    else:
        circuit.succeeded()


SERVER_ERROR = 500
