"""The users of docs/least-rights.md: Redis with access lists, MongoDB with access control, the whole broker on them."""

import json
import re
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest
import redis
import requests
from cryptography.fernet import Fernet
from prometheus_client.parser import text_string_to_metric_families
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import CHECKOUT, HOST, start_all
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.osb_client import OsbClient
from tests.tenant import REDIS_STALLED, Json, Tenant, eventually, log_events, redis_is_well, works

PAGE = (CHECKOUT / "docs" / "least-rights.md").read_text()
OF_PASSWORDS = (CHECKOUT / "docs" / "security.md").read_text().partition("## Change a password of MongoDB or Redis")[2]
ACL = re.findall(r"^ACL SETUSER .*$", PAGE, re.MULTILINE)
MONGO = re.findall(r"^db\.(createRole|createUser)\((\{.*?\})\)$", PAGE, re.MULTILINE | re.DOTALL)


class Confined(Stack):
    """A stack whose processes log in as the users of that page."""

    def _as(self, part: str) -> dict[str, str]:
        password = f"PASSWORD_OF_{part.upper()}"
        mongo = f"mongodb://broker-{part}:{password}@{self.state.address}/?authSource={quote(self.database)}"
        return {
            "BROKER_REDIS_URL": f"redis://broker-{part}:{password}@{HOST}:{self.redis.port}/0",
            "BROKER_MONGO_URI": mongo,
        }

    @property
    def shared_settings(self) -> dict[str, str]:
        return {**super().shared_settings, **self._as("flower")}

    @property
    def api_settings(self) -> dict[str, str]:
        return {**super().api_settings, **self._as("api")}

    @property
    def worker_settings(self) -> dict[str, str]:
        return {**super().worker_settings, **self._as("worker")}

    def start(self) -> None:
        """Start a worker first, as that page says: it writes the check value of the encryption keys."""
        start_all(self.workers)
        start_all([server for server in self._broker if server not in self.workers])

    def log_in(self, part: str) -> MongoClient[Json]:
        return MongoClient(self._as(part)["BROKER_MONGO_URI"], serverSelectionTimeoutMS=5000)


@pytest.fixture
def admin() -> Iterator[tuple[Redis, redis.Redis]]:
    """A Redis with the access list of that page, and a connection from before that."""
    with Redis("redis-acl") as server, server.client() as client:
        client.ping()
        for line in ACL:
            client.execute_command(*line.split())
        yield server, client


@pytest.fixture
def confined(admin: tuple[Redis, redis.Redis], cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Confined]:
    stack = Confined(
        workers=1,
        settings={"BROKER_SETTLE_SECONDS": "0"},
        state=cluster_mongod,
        cluster=cluster_mongod,
        redis=admin[0],
        emulator=emulator,
    )
    with cluster_mongod.client() as root:
        database = root[stack.database]
        for command, written in MONGO:
            given = json.loads(written.replace("atlas_broker", stack.database))
            name = given.pop("role" if command == "createRole" else "user")
            database.command(command, name, **given)
        try:
            with stack:
                yield stack
        finally:
            database.command("dropAllUsersFromDatabase")
            database.command("dropAllRolesFromDatabase")
            root.drop_database(stack.database)


def _counted(platform: OsbClient) -> bool:
    """Return whether /metrics tells the sends of the API, the four operations, and the two documents they left."""
    families = text_string_to_metric_families(platform.request("GET", "/metrics").text)
    samples = [sample for family in families for sample in family.samples]

    def total(name: str, label: str, value: str) -> float:
        return sum(each.value for each in samples if each.name == name and each.labels[label] == value)

    return (
        total("atlas_broker_sends_total", "result", "accepted") >= 4  # the sweep may send again
        and total("atlas_broker_operations_total", "result", "succeeded") == 4
        and total("atlas_broker_latest_operations", "state", "succeeded") == 2
    )


def test_the_broker_works_with_these_rights_and_no_process_can_do_what_only_others_do(
    confined: Confined, admin: tuple[Redis, redis.Redis]
) -> None:
    client = admin[1]
    flower = confined.flower
    assert flower is not None
    log_in = ("dev", confined.password)
    with confined.client() as platform:
        redis_is_well(platform)
        tenant = Tenant(platform).provision()
        assert works(tenant.bind("b"))
        tenant.unbind("b")
        tenant.deprovision()
        seen = partial(requests.get, f"{flower.uri}/api/tasks", auth=log_in, timeout=20)
        eventually(lambda: len(seen().json()) >= 4, "Flower shows the jobs")
        workers = requests.get(f"{flower.uri}/api/workers", auth=log_in, timeout=20).json()
        assert [*workers] == [confined.workers[0].uri]
        assert requests.get(f"{flower.uri}/broker", auth=log_in, timeout=20).ok
        eventually(lambda: _counted(platform), "the metrics count jobs and operations")
        sends = platform.ready().json["sends"]
        assert sends in ("ok", f"Redis does not answer: {REDIS_STALLED}")
    logged = {line["event"] for line in log_events(confined.api.log_text())}
    assert not {"operations_not_counted", "mongodb_unavailable"} & logged
    confined.workers[0].stop()
    flower.stop()
    refused = [(entry["username"], entry["object"], entry["reason"]) for entry in client.acl_log()]
    assert refused == []
    for part, words in (
        ("api", ["BRPOP", "bindings", "1"]),
        ("api", ["PUBLISH", "/0.celeryev/worker.heartbeat", "{}"]),
        ("api", ["SET", "other", "1"]),
        ("worker", ["SUBSCRIBE", "/0.celeryev/*"]),
        ("worker", ["RPUSH", "bindings", "{}"]),
        ("worker", ["FLUSHALL"]),
        ("worker", ["CONFIG", "GET", "*"]),
        ("flower", ["LPUSH", "bindings", "{}"]),
        ("flower", ["BRPOP", "bindings", "1"]),
    ):
        given = client.acl_dryrun(f"broker-{part}", *words)
        assert given not in (b"OK", "OK"), (part, words)
    with confined.log_in("api") as api:
        database = api[confined.database]
        rotated = Vault((Fernet.generate_key().decode(), confined.encryption_key))
        keys = KeyCheck(Housekeeping(Store(api, confined.database, "instances")), rotated)
        assert keys.problem(renew=True) is None, "a worker encrypts the check value again"
        for write in (database.instances_housekeeping.insert_one, database.other.insert_one):
            with pytest.raises(OperationFailure, match="not authorized"):
                write({"_id": "sweep"})
    _change_passwords_of_the_api(confined, client)


def _change_passwords_of_the_api(confined: Confined, client: redis.Redis) -> None:
    """Follow the page: both passwords log in for a while, then only the new one."""
    add, remove = re.findall(r"^ACL SETUSER .*$", OF_PASSWORDS, re.MULTILINE)
    (created,) = re.findall(r"^db\.createUser\((\{.*\})\)$", OF_PASSWORDS, re.MULTILINE)
    (dropped,) = re.findall(r'^db\.dropUser\("(.*)"\)$', OF_PASSWORDS, re.MULTILINE)
    given = json.loads(created)
    settings = confined.api_settings
    old = settings["BROKER_REDIS_URL"], settings["BROKER_MONGO_URI"]
    new = old[0].replace(":PASSWORD", ":NEW_PASSWORD"), old[1].replace("broker-api:", f"{given['user']}:NEW_")
    with confined.cluster.client() as root:
        client.execute_command(*add.split())  # type: ignore[no-untyped-call]  # redis has no type for it
        root[confined.database].command("createUser", given.pop("user"), **given)
        assert (_log_in(*old), _log_in(*new)) == (True, True)
        client.execute_command(*remove.split())  # type: ignore[no-untyped-call]  # redis has no type for it
        root[confined.database].command("dropUser", dropped)
        assert (_log_in(*old), _log_in(*new)) == (False, True)


def _log_in(redis_url: str, mongo_uri: str) -> bool:
    """Return whether both let in; False when both do not."""
    with redis.Redis.from_url(redis_url) as queue, MongoClient[Json](mongo_uri, serverSelectionTimeoutMS=5000) as state:
        try:
            queue.ping()
        except redis.AuthenticationError:
            with pytest.raises(OperationFailure):
                state.admin.command("connectionStatus")
            return False
        state.get_database("admin").command("connectionStatus")
        return True
