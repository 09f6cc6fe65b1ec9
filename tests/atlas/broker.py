"""A broker for four Atlas projects, and what a platform does with it in a line."""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from broker_api.state.operator_actions import OperatorActions
from broker_api.state.records import Instance, Operation
from tests import tenant
from tests.atlas.operator_config import OTHER_PROJECT
from tests.books import call_users, make_user
from tests.conftest import measured
from tests.dev.broker import Worker
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.osb_client import IN_PROGRESS, Answer, Json, OsbClient
from workers.atlas.client import AtlasClient
from workers.context import Context

MAIN = Emulator.project_id
OTHER = OTHER_PROJECT
"""Opened by a service account; the rest by API keys."""
CROWD, TIGHT = "0" * 23 + "3", "0" * 23 + "4"
USERS = "/groups/{groupId}/databaseUsers"
STATUS = "/groups/{groupId}/clusters/{clusterName}/status"
TOKEN = "/api/oauth/token"

T = TypeVar("T")
_KEYS = {CROWD: ("crowd", "crowd-private-key"), TIGHT: ("tight", "tight-private-key")}


class ManyProjects(Stack):
    """``BROKER_SECRETS`` names a key or a service account for each project; only workers get them."""

    def __init__(
        self, emulator: AtlasEmulator, directory: Path, state: Mongod, cluster: Mongod, redis: Redis, *, settle: float
    ) -> None:
        secrets = directory / "secret.json"
        secrets.write_text(json.dumps({"atlas": project_secrets()}))
        settings = {
            "BROKER_CONFIG": "tests.atlas.operator_config:config",
            "BROKER_SECRETS": str(secrets),
            "BROKER_SETTLE_SECONDS": str(settle),
            # A database of its own in the Redis that others use, too.
            "BROKER_REDIS_URL": redis.uri.removesuffix("/0") + "/5",
        }
        super().__init__(
            flower=False, settings=settings | measured(), state=state, cluster=cluster, redis=redis, emulator=emulator
        )


def project_secrets() -> list[Json]:
    main = {"user": Emulator.public_key, "password": Emulator.private_key, "group": MAIN}
    other = {"client_id": Emulator.client_id, "client_secret": Emulator.client_secret, "group": OTHER}
    return [main, other, *({"user": u, "password": p, "group": group} for group, (u, p) in _KEYS.items())]


def furnish(atlas: Emulator) -> None:
    """Make the projects; users and clusters of tests may pile up."""
    for project in (MAIN, OTHER, TIGHT):
        atlas.put_project(project, user_limit=10_000, cluster_limit=1000)
    for project, key in _KEYS.items():
        atlas.put_project(project, key=key)
    atlas.put_account(Emulator.client_id, Emulator.client_secret, [OTHER])


class Broker:
    """What tests do. Each takes a cluster of its own: what the broker knows of one does not disturb another's test."""

    def __init__(self, stack: Stack, client: OsbClient, workers: Iterable[Worker | InThisProcess] = ()) -> None:
        self.stack, self.client, self._workers = stack, client, workers or stack.workers
        self.atlas = stack.emulator.control

    def cluster(self, *, project: str = MAIN, **settings: object) -> str:
        """A new cluster's name."""
        name = f"c-{secrets.token_hex(6)}"
        self.atlas.put_cluster(name, project=project, **settings)
        return name

    def instance(self, cluster: str, *, project: str = MAIN, **parameters: object) -> str:
        """A new instance that is ready."""
        instance_id, answer = self.provision({"cluster": cluster, "project": project, **parameters})
        assert answer.state == "succeeded", answer.text
        return instance_id

    def provision(self, parameters: Json | None, fields: Json | None = None) -> tuple[str, Answer]:
        """A new instance, and how its provision ended."""
        instance_id = new_id()
        accepted = self.client.provision(instance_id, parameters, fields=fields)
        assert accepted.status == 202, accepted.text
        return instance_id, self.client.wait(instance_id, operation=accepted.operation)

    @property
    def context(self) -> Context:
        """The parts of the worker, for a broker in this process."""
        (worker,) = self._workers
        assert isinstance(worker, InThisProcess)
        return worker.context

    def atlas_client(self, project: str) -> AtlasClient:
        return self.context.projects[project].guarded()

    def access_list(self, project: str) -> dict[str, str]:
        """The comments of the entries by CIDR."""
        return {str(entry.cidr): entry.comment for entry in self.atlas_client(project).access_list()}

    def start_bind(self, instance_id: str, parameters: Json | None = None, binding_id: str | None = None) -> str:
        binding_id = binding_id or new_id()
        answer = self.client.bind(instance_id, binding_id, parameters)
        assert answer.status == 202, answer.text
        return binding_id

    def bind(self, instance_id: str, parameters: Json | None = None, binding_id: str | None = None) -> Json:
        """The credentials of a new binding, at the very moment at which it has succeeded."""
        return self.credentials(instance_id, self.start_bind(instance_id, parameters, binding_id))

    def credentials(
        self, instance_id: str, binding_id: str, *, seconds: float = 60, every: float | None = None
    ) -> Json:
        ended = self.client.wait(instance_id, binding_id, seconds=seconds, every=every)
        assert ended.state == "succeeded", ended.text
        return tenant.credentials(self.client, instance_id, binding_id)

    def failed_bind(self, instance_id: str, parameters: Json | None = None, binding_id: str | None = None) -> str:
        """The sentence that a bind fails with."""
        return self.failure(instance_id, self.start_bind(instance_id, parameters, binding_id))

    def failure(self, instance_id: str, binding_id: str | None = None) -> str:
        ended = self.client.wait(instance_id, binding_id)
        assert ended.state == "failed", ended.text
        return ended.description

    def unbind(self, instance_id: str, binding_id: str) -> None:
        tenant.succeeds(self.client, self.client.unbind(instance_id, binding_id), instance_id, binding_id)

    def in_progress(self, instance_id: str, binding_id: str | None = None) -> bool:
        return self.client.last_operation(instance_id, binding_id).state == IN_PROGRESS

    def user(self, username: str, project: str = MAIN) -> Json | None:
        """The user in Atlas; one whose removal is on its way is gone."""
        users = (user for user in self.atlas.users(project) if user["username"] == username)
        return next((user for user in users if not user["deleted"]), None)

    def posts(self, since: int = 0) -> list[Json]:
        """The calls since the one of that number that made, or tried to make, a user."""
        return [call for call in self.calls(since) if call["method"] == "POST" and call["template"] == USERS]

    def calls(self, since: int = 0) -> list[Json]:
        """Without the first legs of digest."""
        return [call for call in self.atlas.calls()[since:] if not call["challenge"]]

    def mark(self) -> int:
        """Where the call log ends now."""
        return len(self.atlas.calls())

    def logs(self) -> str:
        return "\n".join(worker.log_text() for worker in self._workers)


def instance_of(broker: Broker, instance_id: str) -> Instance:
    """The instance as it is stored."""
    found = broker.context.store.instance(instance_id)
    assert found
    return found


def operation_of(broker: Broker, instance_id: str) -> Operation:
    """The latest operation on an instance, as it is stored."""
    return instance_of(broker, instance_id).operation


def cancel(broker: Broker, instance_id: str) -> None:
    """Cancel the operation on an instance, as the command does."""
    found = broker.context.store.instance(instance_id)
    assert found
    OperatorActions(broker.context.store, broker.context.reservations, "a test").cancel(found)


def new_id() -> str:
    return f"t-{secrets.token_hex(8)}"


def log_in(credentials: Json) -> None:
    """Use credentials once, without the patience that drivers have with a refusal; raises OperationFailure."""
    with tenant.log_in(credentials) as client:
        client[credentials["database"]]["things"].find_one()


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """So many calls at the same time, and their results in order."""
    return tenant.together(*(partial(act, number) for number in range(count)))


def strings_of(cluster: Mongod) -> str:
    return f"mongodb://{cluster.address}/?authSource=admin"


@contextmanager
def foreign_user(
    atlas: Emulator, cluster: str, name: str | None = None, labels: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A user of the project that the broker has nothing to do with."""
    name = name or f"foreign-{secrets.token_hex(4)}"
    listed = [{"key": key, "value": value} for key, value in (labels or {}).items()]
    make_user(atlas, name, scopes=[{"name": cluster, "type": "CLUSTER"}], labels=listed)
    yield name
    call_users(atlas, "DELETE", f"/admin/{name}")


def can_write(credentials: Json) -> bool:
    with MongoClient[Json](credentials["uri"]) as client:
        try:
            client[credentials["database"]]["things"].insert_one({})
        except OperationFailure:
            return False
        return True
