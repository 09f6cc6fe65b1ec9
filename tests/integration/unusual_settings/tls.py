"""A Redis that is reached over TLS."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from typing import Self

from tests.certificates import Authority
from tests.dev.processes import HOST, free_port
from tests.dev.services import Redis

PASSWORD = "hidden-secret"


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Pass on bytes in both directions until one side ends."""
        assert isinstance(self.server, TlsFront)
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as client,
            socket.create_connection((HOST, self.server.redis.port)) as server,
        ):
            other = threading.Thread(target=_pump, args=(server, client), daemon=True)
            other.start()
            _pump(client, server)
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

    def __init__(self, redis: Redis, name: str, authority: Authority, address: str = HOST) -> None:
        self.redis = redis
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


def query(authority: Authority, **more: str) -> str:
    """The options of a URL: whom a client trusts, and its own certificate."""
    certificate, key = authority.folder / "secure.pem", authority.folder / "secure.key"
    options = {"ssl_ca_certs": str(authority.file), "ssl_certfile": str(certificate), "ssl_keyfile": str(key), **more}
    return "&".join(f"{name}={value}" for name, value in options.items())
