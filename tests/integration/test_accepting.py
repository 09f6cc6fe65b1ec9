"""What a request costs MongoDB until its answer, counted by MongoDB's profiler."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from cryptography.fernet import Fernet
from flask.testing import FlaskClient
from pymongo.collection import Collection
from pymongo.database import Database
from werkzeug.test import TestResponse

from broker_api.jobs.queue import Queue
from broker_api.osb.app import create_app
from broker_api.service.service import Service
from broker_api.settings import settings
from broker_api.state.encryption import Vault
from broker_api.state.mongo import connect
from broker_api.state.records import binding_key, instance_key
from broker_api.state.store import Store
from tests.dev.services import Mongod, Redis
from tests.unit.osb_requests import BIND, IDS, PROVISION, USER, send

Documents = Collection[dict[str, Any]]
READY = {"phase": "ready", "operation.state": "succeeded", "operation.open": False}
ASYNC = "accepts_incomplete=true"


@dataclass
class Api:
    """The API in this process, in a database of its own."""

    client: FlaskClient
    database: Database[dict[str, Any]]
    paths: list[str] = field(default_factory=list)

    @property
    def documents(self) -> Documents:
        return self.database["instances"]

    def ask(self, method: str, path: str, **more: Any) -> TestResponse:  # noqa: ANN401 - those of Werkzeug
        separator = "&" if "?" in path else "?"
        return send(self.client, method, f"/v2/service_instances/{path}{separator}{ASYNC}", **more)

    def ready(self, key: str) -> None:
        """End the operation as a worker would."""
        assert self.documents.update_one({"_id": key}, {"$set": READY}).matched_count == 1

    def commands(self, request: Callable[[], TestResponse], status: int) -> list[str]:
        """Return what MongoDB did for a request."""
        self.database.command("profile", 2)
        assert (answer := request()).status_code == status, answer.text
        self.database.command("profile", 0)
        found = self.database["system.profile"].find({"ns": self.documents.full_name})
        commands = ["aggregate" if "aggregate" in entry["command"] else entry["op"] for entry in found]
        self.database.drop_collection("system.profile")
        return commands


@pytest.fixture(scope="module")
def api(state_mongod: Mongod, redis_server: Redis) -> Iterator[Api]:
    name = f"accepting-{uuid4().hex[:8]}"
    environ = {
        "BROKER_MONGO_URI": state_mongod.uri,
        "BROKER_MONGO_DB": name,
        "BROKER_REDIS_URL": redis_server.uri,
        "BROKER_USERS": ":".join(USER),
        "BROKER_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    }
    made = settings.load(environ, "api")
    with connect(made.mongo_uri, 20_000) as mongo:
        store = Store(mongo, name, "instances", Vault(made.encryption_keys))
        store.prepare()
        app = create_app(Service.compose(made, store, Queue(made.redis)), made.users)
        yield Api(app.test_client(), mongo[name])
        mongo.drop_database(name)


@pytest.fixture
def instance(api: Api) -> str:
    """A ready instance."""
    name = uuid4().hex
    assert api.ask("PUT", name, json=PROVISION).status_code == 202
    api.ready(instance_key(name))
    return name


@pytest.fixture
def binding(api: Api, instance: str) -> str:
    """The path of a ready binding."""
    assert api.ask("PUT", f"{instance}/service_bindings/b", json=BIND).status_code == 202
    api.ready(binding_key(instance, "b"))
    return f"{instance}/service_bindings/b"


def test_a_provision_is_one_read_and_one_write(api: Api) -> None:
    assert api.commands(lambda: api.ask("PUT", uuid4().hex, json=PROVISION), 202) == ["query", "update"]


def test_a_bind_is_one_read_and_one_write(api: Api, instance: str) -> None:
    path = f"{instance}/service_bindings/b"
    assert api.commands(lambda: api.ask("PUT", path, json=BIND), 202) == ["aggregate", "update"]


def test_a_rotation_also_reads_the_predecessor(api: Api, binding: str) -> None:
    path, body = f"{binding.removesuffix('b')}c", {"predecessor_binding_id": "b"}
    assert api.commands(lambda: api.ask("PUT", path, json=body), 202) == ["aggregate", "query", "update"]


def test_an_update_is_one_read_and_one_write(api: Api, instance: str) -> None:
    body = {"service_id": PROVISION["service_id"], "parameters": {"policy-on-delete": "drop"}}
    assert api.commands(lambda: api.ask("PATCH", instance, json=body), 202) == ["query", "update"]


def test_a_delete_is_one_read_and_one_write(api: Api, binding: str) -> None:
    instance = binding.partition("/")[0]
    assert api.commands(lambda: api.ask("DELETE", f"{binding}?{IDS}"), 202) == ["query", "update"]
    assert api.commands(lambda: api.ask("DELETE", f"{instance}?{IDS}"), 202) == ["query", "update"]


def test_a_poll_and_a_repeated_request_are_one_read(api: Api, instance: str) -> None:
    assert api.commands(lambda: api.ask("GET", f"{instance}/last_operation"), 200) == ["query"]
    assert api.commands(lambda: api.ask("PUT", instance, json=PROVISION), 200) == ["query"]
    path = f"{instance}/service_bindings/b"
    assert api.ask("PUT", path, json=BIND).status_code == 202
    assert api.commands(lambda: api.ask("PUT", path, json=BIND), 202) == ["aggregate"]


# --- documents of atlasbroker 2.0.0 -------------------------------------------------------------------------------


def test_what_was_written_a_moment_ago_is_not_said_to_be_gone(api: Api, instance: str) -> None:
    """A wrong 410 would leave a database user behind, which no platform removes any more."""
    assert api.ask("PUT", f"{instance}/service_bindings/new", json=BIND).status_code == 202  # there are none by now
    api.documents.insert_one({"instance_id": instance, "binding_id": "late", "parameters": {}})
    assert api.ask("DELETE", f"{instance}/service_bindings/late?{IDS}").status_code == 202
    api.documents.insert_one({"instance_id": f"{instance}-late", "database": "d", "cluster": "c", "parameters": {}})
    assert api.ask("PUT", f"{instance}-late/service_bindings/b", json=BIND).status_code == 202
    wanted = PROVISION["parameters"]
    api.documents.insert_one({"instance_id": f"{instance}-last", "database": "d", "cluster": "c", "parameters": wanted})
    assert api.ask("PUT", f"{instance}-last", json=PROVISION).status_code == 200


def test_looking_for_what_was_written_elsewhere_reads_no_other_document(api: Api, instance: str) -> None:
    for binding in ("first", "second"):
        path = f"{instance}/service_bindings/{binding}"
        assert api.ask("PUT", path, json=BIND).status_code == 202
    api.database.command("profile", 2)
    assert api.ask("PUT", uuid4().hex, json=PROVISION).status_code == 202
    assert api.ask("PUT", f"{instance}/service_bindings/third", json=BIND).status_code == 202
    api.database.command("profile", 0)
    found = list(api.database["system.profile"].find({"ns": api.documents.full_name, "op": {"$ne": "update"}}))
    api.database.drop_collection("system.profile")
    assert len(found) == 2
    assert all(entry["docsExamined"] < 6 for entry in found), [entry["docsExamined"] for entry in found]
