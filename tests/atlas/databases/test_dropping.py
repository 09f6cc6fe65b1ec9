"""Section 7: a database is dropped by a temporary user, after its own users, and never against anybody's will."""

import secrets
import socket
import socketserver
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.atlas.broker import MAIN, USERS, Broker, log_in, new_id
from tests.atlas.test_clusters_and_projects import read_again
from tests.books import held
from tests.dev.processes import free_port
from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.tenant import eventually
from workers.atlas.client import ApiKey, AtlasClient

DROP: dict[str, Any] = {"policy-on-delete": "drop"}


def write(broker: Broker, database: str) -> None:
    with broker.stack.cluster.client() as root:
        root[database]["things"].insert_one({})


def exists(broker: Broker, database: str) -> bool:
    with broker.stack.cluster.client() as root:
        return database in root.list_database_names()


def test_users_go_first_then_a_scoped_expiring_user_drops_the_database_and_goes_too(
    broker: Broker, atlas: Emulator
) -> None:
    cluster, database = broker.cluster(), f"shop-{secrets.token_hex(4)}"
    instance = broker.instance(cluster, database=database, **DROP)
    binding = broker.start_bind(instance)
    log_in(broker.credentials(instance, binding))
    write(broker, database)
    mark = broker.mark()
    atlas.apply_by_hand()
    broker.client.deprovision(instance)
    eventually(lambda: [u for u in atlas.users(MAIN) if u["username"] == binding and u["deleted"]], "its user goes")
    atlas.apply_now()  # the temporary user, which is made after this, waits for the next one
    dropper = eventually(
        lambda: next((u for u in atlas.users(MAIN) if u["username"].startswith("atlas-broker-")), None)
    )
    assert dropper["scopes"] == [{"name": cluster, "type": "CLUSTER"}]
    assert [(role["roleName"], role["databaseName"]) for role in dropper["roles"]] == [("dbAdmin", database)]
    assert "deleteAfterDate" in dropper
    atlas.apply_at_once()
    atlas.apply_now()
    assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert not exists(broker, database)
    changes = [call for call in broker.calls(mark) if call["method"] in ("POST", "DELETE") and MAIN in call["path"]]
    assert [call["method"] for call in changes] == ["DELETE", "POST", "DELETE"]
    assert changes[0]["path"].endswith(binding)
    assert changes[2]["path"].endswith(dropper["username"])


def test_a_temporary_user_that_somebody_removes_is_made_again(broker: Broker, atlas: Emulator) -> None:
    database = f"shop-{secrets.token_hex(4)}"
    instance = broker.instance(broker.cluster(), database=database, **DROP)
    write(broker, database)
    atlas.apply_by_hand()
    broker.client.deprovision(instance)
    dropper = eventually(
        lambda: next((u for u in atlas.users(MAIN) if u["username"].startswith("atlas-broker-")), None)
    )
    key = ApiKey(Emulator.public_key, Emulator.private_key)
    AtlasClient(broker.stack.emulator.uri, MAIN, key).delete_user(dropper["username"])
    atlas.apply_at_once()
    atlas.apply_now()
    assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert not exists(broker, database)
    assert dropper["username"] not in [user["username"] for user in atlas.users(MAIN)]


def test_by_default_the_database_stays(broker: Broker) -> None:
    database = f"shop-{secrets.token_hex(4)}"
    instance = broker.instance(broker.cluster(), database=database)
    write(broker, database)
    mark = broker.mark()
    broker.client.deprovision(instance)
    assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert exists(broker, database)
    assert not [call for call in broker.calls(mark) if USERS in call["template"]]


def test_a_database_that_another_instance_uses_is_not_dropped(broker: Broker) -> None:
    cluster, database = broker.cluster(), f"shop-{secrets.token_hex(4)}"
    mine, other = (broker.instance(cluster, database=database, **DROP) for _ in range(2))
    log_in(broker.bind(mine))
    write(broker, database)
    broker.client.deprovision(mine)
    sentence = broker.failure(mine)
    assert sentence == (
        f"The database {database} on {cluster} is not dropped: the instance {other} uses it too. "
        "Delete that first, or set policy-on-delete to retain."
    )
    assert exists(broker, database)
    assert broker.client.instance(mine).status == 200
    broker.client.deprovision(other)
    broker.failure(other)
    broker.client.update(other, {"policy-on-delete": "retain"})
    broker.client.wait(other)
    broker.client.deprovision(other)
    assert broker.client.wait(other).state in ("succeeded", "gone")
    broker.client.deprovision(mine)
    assert broker.client.wait(mine).state in ("succeeded", "gone")
    assert not exists(broker, database)


@pytest.mark.parametrize("database", ["admin", "local", "config", "Admin", "a.b", "a/b", "a b", "x" * 64, ""])
def test_mongodbs_own_databases_and_impossible_names_are_nobodys_instance(broker: Broker, database: str) -> None:
    parameters = {"cluster": "c", "project": MAIN, "database": database, **DROP}
    assert broker.client.provision(new_id(), parameters).status == 400


@pytest.mark.parametrize("database", ["admin", "local", "config"])
def test_mongodbs_own_databases_are_never_dropped_even_when_the_old_broker_gave_them_out(
    broker: Broker, database: str
) -> None:
    instance = new_id()
    old = {"instance_id": instance, "database": database, "cluster": broker.cluster(), "parameters": DROP}
    with broker.stack.state.client() as client:
        client[broker.stack.database]["instances"].insert_one(old)
    mark = broker.mark()
    broker.client.deprovision(instance)
    ended = broker.client.wait(instance)
    assert ended.state == "succeeded"
    assert f"The database {database} on {old['cluster']} was kept" in ended.description
    assert not broker.posts(mark)


def test_a_cluster_that_cannot_be_reached_is_tried_again_until_it_can(broker: Broker) -> None:
    port, database = free_port(), f"shop-{secrets.token_hex(4)}"
    cluster = broker.cluster(connection_strings={"standard": f"mongodb://127.0.0.1:{port}/?authSource=admin"})
    instance = broker.instance(cluster, database=database, **DROP)
    write(broker, database)
    broker.client.deprovision(instance)
    trouble = f"The database {database} cannot be dropped yet: the cluster cannot be reached from the broker"
    eventually(lambda: broker.client.last_operation(instance).description.startswith(trouble))
    with Forwarder(port, broker.stack.cluster):
        assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert not exists(broker, database)
    assert not [user for user in broker.atlas.users(MAIN) if user["username"].startswith("atlas-broker-")]


def test_a_deadline_that_passes_before_the_database_is_dropped_leaves_it_and_no_temporary_user(broker: Broker) -> None:
    port, database = free_port(), f"shop-{secrets.token_hex(4)}"
    cluster = broker.cluster(connection_strings={"standard": f"mongodb://127.0.0.1:{port}/?authSource=admin"})
    instance = broker.instance(cluster, database=database, **DROP)
    write(broker, database)
    broker.client.deprovision(instance)
    eventually(lambda: "cannot be dropped yet" in broker.client.last_operation(instance).description)
    with held(broker.stack) as documents:
        documents.update_one({"instance_id": instance}, {"$set": {"operation.deadline": datetime.now(UTC)}})
    assert "before its deadline" in broker.failure(instance)
    eventually(lambda: not [user for user in broker.atlas.users(MAIN) if user["username"].startswith("atlas-broker-")])
    eventually(lambda: broker.client.instance(instance).status == 200)
    with Forwarder(port, broker.stack.cluster):
        assert exists(broker, database)
        assert broker.client.deprovision(instance).status == 202
        assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert not exists(broker, database)


def test_a_paused_clusters_database_stays_and_so_do_its_users(broker: Broker) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster, **DROP)
    credentials = broker.bind(instance)
    broker.atlas.put_cluster(cluster, paused=True)
    read_again(broker, cluster)
    broker.client.deprovision(instance)
    assert broker.failure(instance) == f"The cluster {cluster} is paused; resume it first."
    log_in(credentials)


class Forwarder:
    """The network to a cluster that has come back: a port that leads to its mongod."""

    def __init__(self, port: int, mongod: Mongod) -> None:
        target = ("127.0.0.1", mongod.port)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(target) as there:
                    back = threading.Thread(target=_pump, args=(there, self.request), daemon=True)
                    back.start()
                    _pump(self.request, there)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_database_is_dropped_in_a_full_project_as_soon_as_a_user_is_gone(broker: Broker, atlas: Emulator) -> None:
    database = f"full-{secrets.token_hex(4)}"
    instance = broker.instance(broker.cluster(), database=database, **DROP)
    write(broker, database)
    atlas.user_limit(len(atlas.users(MAIN)), project=MAIN)
    broker.client.deprovision(instance)
    waiting = "Waiting for room in the Atlas project"
    eventually(lambda: waiting in broker.client.last_operation(instance).description, "it waits")
    assert exists(broker, database)
    atlas.user_limit(100, project=MAIN)
    assert broker.client.wait(instance).state in ("succeeded", "gone")
    assert not exists(broker, database)
