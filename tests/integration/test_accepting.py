"""What a request costs MongoDB until its answer, counted by MongoDB's profiler."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from bson import ObjectId
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
from broker_api.state.legacy import REMEMBERED_SECONDS, LegacyDocuments
from broker_api.state.mongo import connect
from broker_api.state.record_macs import RecordMacs
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
        """Return what MongoDB did for a request, without the look for documents of atlasbroker 2.0.0."""
        self.database.command("profile", 2)
        assert (answer := request()).status_code == status, answer.text
        self.database.command("profile", 0)
        found = self.database["system.profile"].find({"ns": self.documents.full_name})
        read = [entry for entry in found if "$or" not in entry["command"].get("filter", {})]
        commands = ["aggregate" if "aggregate" in entry["command"] else entry["op"] for entry in read]
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
    with connect(made.mongo_uri, 5000) as mongo:
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


@pytest.fixture
def documents(state_mongod: Mongod) -> Iterator[Documents]:
    with state_mongod.client() as mongo:
        name = f"legacy-{uuid4().hex[:8]}"
        yield mongo[name]["instances"]
        mongo.drop_database(name)


MADE_NOW = ObjectId()


@pytest.mark.parametrize(
    "other",
    [MADE_NOW, 7, {"restored": "by hand"}, "6b0af8a9794d323c074530f8", "zz"],
    ids=lambda other: "made now" if other is MADE_NOW else str(other),  # the same in each process of a run
)
def test_one_document_with_an_id_of_another_form_is_found_among_many(documents: Documents, other: object) -> None:
    own = [f"{kind}/{n}" for n in range(5_000) for kind in ("instance", "binding")]
    documents.insert_many([{"_id": key} for key in own])
    for expected in (False, True):
        documents.database.command("profile", 2)
        assert LegacyDocuments(documents, RecordMacs(Vault(()))).exist() is expected
        documents.database.command("profile", 0)
        (look,) = documents.database["system.profile"].find({"ns": documents.full_name})
        assert look["keysExamined"] + look["docsExamined"] < 10
        documents.database.drop_collection("system.profile")
        documents.replace_one({"_id": other}, {"instance_id": "i"}, upsert=True)


def test_that_there_are_none_is_remembered_for_seconds_only(documents: Documents) -> None:
    legacy = LegacyDocuments(documents, RecordMacs(Vault(())))
    assert not legacy.exist()
    documents.insert_one({"instance_id": "i", "parameters": {}})
    assert not legacy.exist()
    time.sleep(REMEMBERED_SECONDS)
    assert legacy.exist()


def test_what_was_written_a_moment_ago_is_not_said_to_be_gone(api: Api, instance: str) -> None:
    """A wrong 410 would leave a database user behind, which no platform removes any more."""
    assert api.ask("PUT", f"{instance}/service_bindings/new", json=BIND).status_code == 202  # there are none by now
    api.documents.insert_one({"instance_id": instance, "binding_id": "late", "parameters": {}})
    assert api.ask("DELETE", f"{instance}/service_bindings/late?{IDS}").status_code == 202
    api.documents.insert_one({"instance_id": f"{instance}-late", "database": "d", "cluster": "c", "parameters": {}})
    assert api.ask("PUT", f"{instance}-late/service_bindings/b", json=BIND).status_code == 202
