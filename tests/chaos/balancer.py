"""A balancer of connections in front of several APIs, and a platform's client that repeats what one would repeat."""

import select
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import requests
from urllib3.exceptions import NewConnectionError, ProtocolError

from tests.chaos.books import Books
from tests.dev.processes import HOST, Server
from tests.osb_client import Answer, OsbClient

ATTEMPTS = 5
PIECE = 65_536
LOOK_SECONDS = 0.5


@contextmanager
def balanced(servers: Sequence[Server]) -> Iterator[str]:
    """Give each connection to the next server that takes one; yield the address.

    It knows nothing of HTTP and of health checks, so it is as hard on the servers as any balancer.
    """
    turns, ended = count(), threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            first = next(turns)
            for number in range(len(servers)):
                with suppress(OSError):
                    there = socket.create_connection((HOST, servers[(first + number) % len(servers)].port), timeout=5)
                    with there:
                        return _pipe(self.request, there, ended)
            return None

    class Balancer(socketserver.ThreadingTCPServer):
        request_queue_size = 128

    with Balancer((HOST, 0), Handler) as balancer:
        serving = threading.Thread(target=balancer.serve_forever, kwargs={"poll_interval": 0.1})
        serving.start()
        try:
            yield f"http://{HOST}:{balancer.server_address[1]}"
        finally:
            ended.set()
            balancer.shutdown()
            serving.join()


def _pipe(here: socket.socket, there: socket.socket, ended: threading.Event) -> None:
    """Copy both ways until either side ends."""
    other = {here: there, there: here}
    while not ended.is_set():
        for ready in select.select([here, there], [], [], LOOK_SECONDS)[0]:
            piece = ready.recv(PIECE)
            if not piece:
                return
            other[ready].sendall(piece)


class RetryingClient(OsbClient):
    """Sends a request again after a connection that ended before any answer, as balancers do for such requests.

    ``happened`` counts these (``retried``), and connections that ended in any other way (``broken``).
    """

    def __init__(self, base_url: str, user: str, password: str, books: Books) -> None:
        super().__init__(base_url, user, password)
        self.happened = Counter[str]()
        self._books = books

    def request(self, *args: Any, **options: Any) -> Answer:  # noqa: ANN401 - those of OsbClient
        for _ in range(ATTEMPTS):
            self.happened["sent"] += 1
            try:
                return super().request(*args, **options)
            except requests.ConnectionError as error:
                kind = "retried" if _had_no_answer(error) else "broken"
                self.happened[kind] += 1
                if kind == "broken":
                    self._books.complaints.append(f"a connection broke: {error!r}")
        raise requests.ConnectionError(f"{ATTEMPTS} connections in a row have ended without an answer")


def _had_no_answer(error: requests.ConnectionError) -> bool:
    cause = error.args[0] if error.args else None
    refused = isinstance(getattr(cause, "reason", None), NewConnectionError)
    ended = isinstance(cause, ProtocolError) and "Connection aborted" in str(cause)
    return refused or ended
