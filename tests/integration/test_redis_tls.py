"""``rediss://``: each server's certificate is checked, for everything that connects to Redis."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from broker_api.jobs.queue import Queue
from broker_api.settings.redis_settings import RedisSettings
from tests.certificates import Authority
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import HOST, free_port
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.integration.rates import share_the_rate_limit
from tests.tenant import Tenant, works

PASSWORD = "hidden-secret"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("trusted"))


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Pass on bytes in both directions until one side ends."""
        assert isinstance(self.server, TlsFront)
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection((HOST, self.server.upstream)) as redis,
        ):
            other = threading.Thread(target=_pump, args=(redis, client), daemon=True)
            other.start()
            _pump(client, redis)
            other.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class TlsFront(socketserver.ThreadingTCPServer):
    """TLS in front of a Redis, which the wheel's server lacks; clients need a certificate of the authority."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: int, name: str, authority: Authority, address: str = HOST) -> None:
        self.upstream = upstream
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
        self.context.load_cert_chain(*authority.certificate(name, address))
        self.context.verify_mode = ssl.CERT_REQUIRED
        super().__init__((HOST, free_port()), _Handler)

    @property
    def uri(self) -> str:
        return f"rediss://:{PASSWORD}@{HOST}:{self.server_address[1]}/0"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Redis]:
    with Redis("behind-tls", ("--requirepass", PASSWORD), f"redis://:{PASSWORD}@{HOST}:{{port}}/0") as running:
        yield running


@pytest.fixture(scope="module")
def secure(plain: Redis, trusted: Authority) -> Iterator[TlsFront]:
    with TlsFront(plain.port, "secure", trusted).serving() as running:
        yield running


@pytest.fixture(scope="module")
def impostor(plain: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFront]:
    """Has a certificate of another authority."""
    with TlsFront(plain.port, "impostor", Authority(tmp_path_factory.mktemp("other"))).serving() as running:
        yield running


def query(authority: Authority, **more: str) -> str:
    certificate, key = authority.folder / "secure.pem", authority.folder / "secure.key"
    options = {"ssl_ca_certs": str(authority.file), "ssl_certfile": str(certificate), "ssl_keyfile": str(key), **more}
    return "&".join(f"{name}={value}" for name, value in options.items())


def trouble(url: str) -> str | None:
    """What /ready and check tell."""
    return Queue(RedisSettings.parse(url)).problem()


def test_the_certificate_of_each_server_in_the_list_is_checked(
    secure: TlsFront, impostor: TlsFront, trusted: Authority
) -> None:
    away = f"rediss://{HOST}:{free_port()}"
    assert trouble(f"{away};{secure.uri}?{query(trusted)}") is None
    assert trouble(f"{secure.uri}?{query(trusted)};{away}") is None
    for url in (
        f"{impostor.uri}?{query(trusted)}",
        f"{impostor.uri}?{query(trusted)};{impostor.uri}",
        f"{impostor.uri};{impostor.uri}?{query(trusted)}",
    ):
        told = trouble(url)
        assert told is not None
        assert "its certificate is not trusted" in told
        assert PASSWORD not in told


def test_the_name_in_the_certificate_is_checked(plain: Redis, trusted: Authority) -> None:
    with TlsFront(plain.port, "elsewhere", trusted, "192.0.2.1").serving() as running:
        told = trouble(f"{running.uri}?{query(trusted)}")
        assert told is not None
        assert "its certificate is not trusted" in told


@pytest.fixture(scope="module")
def over_tls(
    secure: TlsFront, trusted: Authority, state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator
) -> Iterator[Stack]:
    settings = {"BROKER_REDIS_URL": f"rediss://{HOST}:{free_port()};{secure.uri}?{query(trusted)}"}
    with Stack(workers=1, settings=settings, state=state_mongod, cluster=cluster_mongod, emulator=emulator) as running:
        yield running


def test_the_broker_works_over_tls_with_certificates_of_clients(over_tls: Stack) -> None:
    with over_tls.client() as client:
        assert client.request("GET", "/ready").json["redis"] == "ok"
        assert works(Tenant(client).provision().bind())
    for process in (over_tls.api, *over_tls.workers, over_tls.flower):
        assert process is not None
        assert PASSWORD not in process.log_text()
        assert "redis_lost" not in process.log_text()


@pytest.mark.parametrize(
    "options",
    ["", "&ssl_cert_reqs=CERT_REQUIRED", "&ssl_cert_reqs=required", "&ssl_cert_reqs=optional"],
)
def test_the_rate_limit_is_shared_over_tls(secure: TlsFront, trusted: Authority, options: str) -> None:
    url = f"rediss://{HOST}:{free_port()};{secure.uri}?{query(trusted)}{options}"
    share_the_rate_limit(RedisSettings.parse(url), f"project{options}")
