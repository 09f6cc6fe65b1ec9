"""Trouble with MongoDB is told to operators in words, without hosts and secrets."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymongo import MongoClient

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.store import Store
from tests.dev.broker import Api
from tests.dev.processes import HOST, free_port
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.osb_client import Answer, OsbClient
from tests.tenant import eventually, log_events

SECRET = "hidden-secret"


SLOW, REFUSED = "it did not answer in time", "the connection is refused"


def reason(uri: str) -> str:
    """What an operator reads when the broker writes to this MongoDB.

    A busy machine may need longer than a second for an answer; most cases take the whole time, so it is short at first.
    """
    return next((told for told in (_reason(uri, each) for each in (1000, 5000, 20_000)) if told != SLOW), SLOW)


def _reason(uri: str, milliseconds: int) -> str:
    with connect(uri, milliseconds) as client, pytest.raises(ErrStorageMongoConnection) as raised:
        Housekeeping(Store(client, "trouble", "instances")).write("x", {"value": 1})
    assert str(raised.value) == "The storage is not able to communicate with MongoDB [housekeeping]"
    assert SECRET not in raised.value.reason
    assert HOST not in raised.value.reason
    return raised.value.reason


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and says nothing."""
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[int]:
    """The port of a server whose certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    dated = unsigned.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(hours=1))
    pem = serialization.Encoding.PEM
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + dated.sign(key, hashes.SHA256()).public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = socket.create_server((HOST, 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with suppress(OSError), closing(client):
                    context.wrap_socket(client, server_side=True)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_server_that_is_not_there() -> None:
    assert reason(f"mongodb://u:{SECRET}@{HOST}:{free_port()}/") == REFUSED


def test_several_servers_that_are_not_there() -> None:
    hosts = f"{HOST}:{free_port()},{HOST}:{free_port()}"
    assert reason(f"mongodb://u:{SECRET}@{hosts}/?replicaSet=rs0") == REFUSED


def test_a_name_that_is_not_found() -> None:
    assert reason(f"mongodb://u:{SECRET}@no-such-host.invalid/") == "its host name is not found"


def test_a_server_that_does_not_answer(silent: int) -> None:
    assert _reason(f"mongodb://u:{SECRET}@{HOST}:{silent}/", 1000) == SLOW


def test_a_certificate_that_is_not_trusted(self_signed: int) -> None:
    assert reason(f"mongodb://u:{SECRET}@{HOST}:{self_signed}/?tls=true") == "its certificate is not trusted"


def test_tls_with_a_server_that_has_none(state_mongod: Mongod) -> None:
    uri = f"mongodb://u:{SECRET}@{state_mongod.address}/?tls=true"
    assert reason(uri) in ("the TLS handshake failed", "it closed the connection")


def test_a_password_that_is_refused(cluster_mongod: Mongod) -> None:
    assert reason(f"mongodb://u:{SECRET}@{cluster_mongod.address}/") == "it refuses the user name or password"


def test_a_user_that_may_not_write(cluster_mongod: Mongod) -> None:
    with cluster_mongod.client() as root:
        root.admin.command("createUser", "looker", pwd=SECRET, roles=["readAnyDatabase"])
        told = reason(f"mongodb://looker:{SECRET}@{cluster_mongod.address}/")
        root.admin.command("dropUser", "looker")
    assert told == "its user is not authorised to do this"


def test_a_replica_set_of_another_name(state_mongod: Mongod) -> None:
    assert reason(f"mongodb://{state_mongod.address}/?replicaSet=other") == "its replica set has another name"


def test_a_replica_set_without_a_primary() -> None:
    with Mongod("mongod-alone") as server:
        with MongoClient[dict[str, object]](server.address, directConnection=True) as client:
            client.admin.command("replSetStepDown", 30, force=True)
        assert reason(server.uri) == "the replica set has no primary at the moment (an election, perhaps)"


def test_the_log_and_ready_tell_the_reason_and_platforms_read_a_plain_sentence(stack: Stack) -> None:
    uri = f"mongodb://u:{SECRET}@{HOST}:{free_port()}/"
    settings = {**stack.api_settings, "BROKER_MONGO_URI": uri, "BROKER_MONGO_TIMEOUT_MS": "1000"}
    with Api(settings, "api-alone") as api, OsbClient(api.uri, stack.user, stack.password) as platform:

        def refused() -> Answer | None:
            """Return the answer once its reason is logged; a busy machine may need longer than a second for it."""
            answer = platform.instance("i")
            failed = [event for event in log_events(api.log_text()) if event["event"] == "request_failed"]
            return answer if REFUSED in [event["reason"] for event in failed] else None

        def unready() -> str | None:
            answer = requests.get(f"{api.uri}/ready", timeout=10)
            assert answer.status_code == 503
            return answer.text if answer.json()["mongodb"] == REFUSED else None

        with platform.expecting(503):
            told = eventually(refused, "the log has the reason")
        ready = eventually(unready, "/ready has the reason")
        text = api.log_text()
    assert told.status == 503
    assert told.description == "The broker cannot reach its database at the moment. Ask again in a while."
    assert any(event["event"] == "mongodb_unavailable" for event in log_events(text))
    assert SECRET not in text + ready
    assert HOST not in ready
