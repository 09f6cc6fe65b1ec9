"""``atlas-broker api --tls-cert … --tls-key …``: HTTPS, with certificates that are replaced while it serves."""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from cryptography.fernet import Fernet

from broker_api.server_connection import HEAD_SECONDS
from tests.certificates import Authority
from tests.dev.broker import Api
from tests.dev.processes import HOST, run_to_end, script
from tests.dev.services import Mongod
from tests.tenant import eventually


class TlsApi(Api):
    def __init__(self, settings: dict[str, str], authority: Authority, host: str) -> None:
        super().__init__(settings, "api-tls")
        self.host, self.authority = host, authority
        self.certificate, self.key = authority.certificate("api", host)

    @property
    def uri(self) -> str:
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        tls = ("--tls-cert", self.certificate, "--tls-key", self.key)
        return [script("atlas-broker"), "api", "--host", self.host, "--port", str(self.port), *tls]

    def answers(self) -> bool:
        return self.trusts(self.authority)

    def trusts(self, authority: Authority) -> bool:
        """Whether a client that trusts this authority gets an answer."""
        try:
            return requests.get(f"{self.uri}/health", timeout=10, verify=str(authority.file)).ok
        except requests.exceptions.SSLError:
            return False


@pytest.fixture(scope="module", params=[HOST, "::1"])
def serving(
    request: pytest.FixtureRequest, state_mongod: Mongod, tmp_path_factory: pytest.TempPathFactory, *, long_form: bool
) -> Iterator[TlsApi]:
    if ":" in request.param and not (long_form and socket.has_dualstack_ipv6()):
        pytest.skip(
            "with --long, where there is IPv6: only the address differs, and test_serving.py opens those of IPv6"
        )
    settings = {
        "BROKER_MONGO_URI": state_mongod.uri,
        "BROKER_MONGO_DB": f"tls-{uuid4().hex[:8]}",
        "BROKER_USERS": "name:password",
        "BROKER_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "BROKER_API_PROCESSES": "1",
    }
    with TlsApi(settings, Authority(tmp_path_factory.mktemp("first")), request.param) as running:
        yield running


@pytest.fixture
def api(serving: TlsApi) -> Iterator[TlsApi]:
    """An API whose test may replace its certificate."""
    files = {file: file.read_bytes() for file in (serving.certificate, serving.key)}
    yield serving
    for file, content in files.items():
        file.write_bytes(content)
    eventually(lambda: serving.trusts(serving.authority), "the first certificate is used again")


def test_it_serves_https_and_takes_new_files_for_new_connections(api: TlsApi, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    assert not api.trusts(other)
    with pytest.raises(requests.ConnectionError):
        requests.get(api.uri.replace("https", "http"), timeout=10)
    with requests.Session() as session:
        session.auth = ("name", "password")
        for _ in range(3):  # on one connection
            version, trusted = {"X-Broker-API-Version": "2.17"}, str(api.authority.file)
            catalog = session.get(f"{api.uri}/v2/catalog", headers=version, verify=trusted, timeout=5)
            assert catalog.status_code == 200
    certificate, key = other.certificate("api", api.host)
    api.certificate.write_bytes(certificate.read_bytes())
    assert api.trusts(api.authority), "the key is still that of the certificate before"
    api.key.write_bytes(key.read_bytes())
    eventually(lambda: api.trusts(other), "the new certificate is used")
    api.key.write_text("no key")
    assert all(api.trusts(other) for _ in range(4))
    assert "certificate_not_loaded" in api.log_text()
    assert "Traceback" not in api.log_text()


def test_silent_clients_delay_no_other(api: TlsApi) -> None:
    with ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(socket.create_connection((api.host, api.port)))
        assert api.trusts(api.authority)


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("serving", [HOST], indirect=True)
def test_clients_that_stop_in_the_handshake_or_drip_a_request_are_let_go(api: TlsApi) -> None:
    trusted = ssl.create_default_context(cafile=str(api.authority.file))
    with ExitStack() as held:
        in_handshake, in_request = (
            held.enter_context(socket.create_connection((api.host, api.port), timeout=HEAD_SECONDS + 5)) for _ in "ab"
        )
        in_handshake.sendall(b"\x16")
        in_request = held.enter_context(trusted.wrap_socket(in_request, server_hostname=api.host))
        in_request.sendall(b"GET /live HTTP/1.1\r\nHost: broker")
        with suppress(ConnectionError):  # on a busy machine these seconds are longer
            for _ in range(HEAD_SECONDS - 2):
                time.sleep(1)
                in_request.sendall(b"x")
        assert _is_closed(in_handshake)
        assert _is_closed(in_request)
    assert "Traceback" not in api.log_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tls-cert", "a.pem"], "Error: --tls-cert and --tls-key belong together."),
        (["--tls-cert", "no.pem", "--tls-key", "no.key"], "atlas-broker: --tls-cert and --tls-key cannot be used: No"),
        (["--tls-cert", __file__, "--tls-key", __file__], "atlas-broker: --tls-cert and --tls-key cannot be used: "),
    ],
)
def test_files_that_cannot_be_used_are_one_line(options: list[str], told: str) -> None:
    command = [str(script("atlas-broker")), "api", *options]
    ended = run_to_end(command)
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1].startswith(told)
    assert "Traceback" not in ended.stderr
