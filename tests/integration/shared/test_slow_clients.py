"""Clients that send or read slowly, or not at all, to the API's process: others are answered meanwhile."""

import contextlib
import json
import random
import resource
import select
import socket
import struct
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Self

import pytest
import requests

from broker_api.server import OTHER_FILES, THREADS
from broker_api.server_connection import BODY_SECONDS, DISCARDED_BYTES, HEAD_SECONDS, PATIENCE_SECONDS
from tests.dev.broker import Api
from tests.dev.processes import HOST
from tests.dev.stack import Stack
from tests.tenant import eventually

PROBES = ("/live", "/ready", "/health", "/metrics")
PATH = "/v2/service_instances/slow"
PROBE_SECONDS, PROBE_ATTEMPTS = 5, 6
"""How long a platform waits for a probe's answer, and after how many missing ones in a row it restarts the process:
those of docker/kubernetes. Clients that occupy threads do it for as long as they drip."""
DRIP_SECONDS = 4.0
DRIPPING = 3 * THREADS
"""If threads read requests, all would be occupied."""


@pytest.fixture(scope="module", autouse=True)
def _open_files() -> Iterator[None]:
    """Allow the test as many open files as the system does: it is all the clients."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _head(stack: Stack | None, method: str, path: str, *fields: str) -> bytes:
    """The head of a request; without a stack, without credentials."""
    lines = [f"{method} {path} HTTP/1.1", "Host: broker", "X-Broker-API-Version: 2.17", *fields]
    if stack:
        lines.append(f"Authorization: Basic {b64encode(f'{stack.user}:{stack.password}'.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


class Client:
    """A connection to the API, on which a test sends and reads what it likes."""

    def __init__(self, port: int, sent: bytes = b"", source: str = HOST) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=HEAD_SECONDS + 5, source_address=(source, 0))
        self.sent = sent
        self.send(sent)
        self._received = self.body = b""
        self._arrived = select.poll()
        self._arrived.register(self.socket, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def head(self) -> str:
        """The head of the next answer, whose body is read too; "" when the server closes the connection."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                return ""
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().splitlines()[1:])
        length = int(fields.get("content-length", 0))
        while len(self._received) < length:
            assert self._receive(), "the answer is cut off"
        self.body, self._received = self._received[:length], self._received[length:]
        assert not self.body or json.loads(self.body)
        return head.decode()

    def status(self) -> int:
        head = self.head()
        return int(head.split()[1]) if head else 0

    def _receive(self) -> bool:
        data = self.socket.recv(65_536)
        self._received += data
        return bool(data)

    def is_open(self) -> bool:
        if not self.can_read():
            return True
        with contextlib.suppress(ConnectionError):
            return self.socket.recv(1, socket.MSG_PEEK) != b""
        return False

    def can_read(self) -> bool:
        """Whether an answer, or its end, has arrived."""
        return bool(self._arrived.poll(0))


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.api.port) as client:
        yield client


# --- many at once -------------------------------------------------------------------------------------------------


def test_probes_are_answered_while_hundreds_of_clients_drip_wait_and_do_not_read(
    stack: Stack, *, long_form: bool
) -> None:
    """One process serves: of several, one that has accepted few clients would answer the probes."""
    idle, seconds = (2000, HEAD_SECONDS + DRIP_SECONDS) if long_form else (300, 1.0)
    begun = [
        b"GET /v2/catalog HTTP/1.1\r\nHost: broker\r\n",
        _head(None, "PUT", PATH, "Content-Length: 1000"),
        _head(None, "PUT", PATH, "Transfer-Encoding: chunked"),
        _head(stack, "PUT", PATH, "Content-Length: 1000"),
        _head(stack, "PUT", PATH, "Transfer-Encoding: chunked") + b"1; x=",
    ]
    many_answers = _head(stack, "GET", "/v2/catalog") * 400
    with ExitStack() as opened:
        api = opened.enter_context(Api({**stack.api_settings, "BROKER_API_PROCESSES": "1"}, "api-alone"))
        port = api.port
        for number in range(idle):
            waiting = opened.enter_context(Client(port, b"" if number % 2 else _head(None, "GET", "/live")))
            waiting.is_open()
        kinds = [*islice(cycle(begun), 150), *repeat(begun[0], DRIPPING - 150)]
        drips = [opened.enter_context(Client(port, kind)) for kind in kinds]
        for _ in range(2):
            opened.enter_context(Client(port, many_answers))
        end, drip = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end:
            for path in PROBES:
                assert _probe(api, stack, path) == 200, path
            if time.monotonic() > drip:
                drip += DRIP_SECONDS
                for each in drips:
                    with contextlib.suppress(ConnectionError):
                        each.send(b"x")
        if long_form:
            assert not [each for each in drips if each.sent == begun[0] and each.is_open()], "heads have a deadline"


def _probe(api: Api, stack: Stack, path: str) -> int:
    """Ask as a platform does, which forgives single late answers and 503; return the last status, 0 if it is late."""
    status = 0
    for _ in range(PROBE_ATTEMPTS):
        status = 0
        with contextlib.suppress(requests.Timeout):
            status = requests.get(api.uri + path, auth=(stack.user, stack.password), timeout=PROBE_SECONDS).status_code
            if status != requests.codes.unavailable:
                break
            time.sleep(1)  # an answer of /ready is given again for a moment
    return status


def test_a_body_that_drips_and_an_answer_that_is_not_read_end_at_their_deadlines(
    stack: Stack, *, long_form: bool
) -> None:
    if not long_form:
        pytest.skip(f"with --long: takes {BODY_SECONDS} s")
    with ExitStack() as opened:
        kinds = [("Content-Length: 1000", b"{"), ("Transfer-Encoding: chunked", b"3e8\r\n{")]
        clients = [
            opened.enter_context(Client(stack.api.port, _head(stack, "PUT", PATH, field) + begin))
            for field, begin in kinds
        ]
        unread = opened.enter_context(Client(stack.api.port, _head(stack, "GET", "/v2/catalog") * 1000))
        began = time.monotonic()
        while not all(each.can_read() for each in clients):
            for each in clients:
                each.send(b" ")
            time.sleep(1)
        assert BODY_SECONDS - 2 < time.monotonic() - began < 2 * BODY_SECONDS, "each byte could begin it again"
        assert [each.status() for each in clients] == [400, 400]

        def is_closed() -> bool:
            try:
                unread.send(b"x")
            except ConnectionError:
                return True
            return False

        eventually(is_closed, "the server has closed it")


# --- the body of a request ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_refusal_does_not_wait_for_the_body_and_the_connection_can_be_used_again(
    stack: Stack, client: Client, field: str
) -> None:
    body = b"hello" if field == "Content-Length: 5" else b"5\r\nhello\r\n0\r\n\r\n"
    for refused, path, status in ((None, PATH, 401), (stack, "/v2/nothing", 404)):
        client.send(_head(refused, "PUT", path, field))
        assert client.status() == status, "only then the body is sent"
        client.send(body + _head(stack, "GET", "/v2/catalog"))
        assert client.status() == 200


def test_the_body_is_asked_for_only_after_the_credentials_were_checked(stack: Stack) -> None:
    expecting = ("Content-Length: 2", "Expect: 100-continue")
    with Client(stack.api.port, _head(None, "PUT", PATH, *expecting)) as refused:
        assert refused.status() == 401
        assert refused.head() == "", "the server cannot know whether the body comes"
    with Client(stack.api.port, _head(stack, "PUT", PATH, *expecting)) as welcome:
        assert welcome.status() == 100
        welcome.send(b"{}")
        assert welcome.status() == 400
    with Client(stack.api.port, _head(stack, "PUT", PATH, "Content-Length: 999999999", expecting[1])) as long:
        assert long.status() == 413


@pytest.mark.parametrize("shares", [(40, 40, 20), (1, 98, 1), (0, 60, 40)])
def test_a_body_that_comes_in_pieces_is_read_whole(stack: Stack, client: Client, shares: Sequence[int]) -> None:
    pieces = [b" " * (1000 * share) for share in shares]
    client.send(_head(stack, "PUT", PATH, f"Content-Length: {sum(map(len, pieces)) + 2}"))
    for piece in (*pieces, b"{}"):
        client.send(piece)
        time.sleep(2 * PATIENCE_SECONDS)
    assert client.status() == 400
    assert b"service_id" in client.body


def test_a_client_that_sends_a_long_body_before_it_reads_gets_its_refusal(stack: Stack) -> None:
    size = DISCARDED_BYTES // 4
    with Client(stack.api.port, _head(None, "PUT", PATH, f"Content-Length: {size}") + b"x" * size) as client:
        assert client.status() == 401


def test_bodies_of_requests_that_need_none_are_skipped(stack: Stack, client: Client) -> None:
    for method, path, status in (("GET", "/v2/catalog", 200), ("DELETE", PATH, 400), ("GET", "/live", 200)):
        client.send(_head(stack, method, path, "Content-Length: 5") + b"hel")
        assert client.status() == status
        client.send(b"lo")


@pytest.mark.parametrize(
    "chunks",
    [b"1;" + b"x" * 1_200_000, b"1\r\nx\r\n" * 200_000, b"0\r\nX-Trailer: " + b"x" * 1_200_000, b"fffffffff\r\n"],
    ids=["extension", "tiny chunks", "trailer", "size"],
)
def test_chunks_without_an_end_are_refused(stack: Stack, client: Client, chunks: bytes) -> None:
    client.send(_head(stack, "PUT", PATH, "Transfer-Encoding: chunked"))
    with contextlib.suppress(ConnectionError):
        client.send(chunks)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.status() in (400, 413)


# --- order and ends -----------------------------------------------------------------------------------------------


def test_requests_that_come_together_are_answered_in_order(stack: Stack, client: Client) -> None:
    client.send(
        _head(stack, "GET", "/v2/catalog")
        + _head(stack, "PUT", PATH, "Content-Length: 2")
        + b"{}"
        + _head(stack, "PUT", PATH, "Transfer-Encoding: chunked")
        + b"2;a=b\r\n{}\r\n0\r\n\r\n"
        + _head(None, "GET", "/v2/nothing")
        + _head(None, "GET", "/live", "Connection: close")
    )
    assert [client.status() for _ in range(6)] == [200, 400, 400, 401, 200, 0]


def test_a_client_that_has_sent_all_and_closed_its_half_gets_its_answer(stack: Stack, client: Client) -> None:
    client.send(_head(stack, "GET", "/v2/catalog"))
    client.socket.shutdown(socket.SHUT_WR)
    assert (client.status(), client.status()) == (200, 0)


def test_a_request_cut_off_in_its_body_is_400(stack: Stack, client: Client) -> None:
    client.send(_head(stack, "PUT", PATH, "Content-Length: 100") + b"{")
    client.socket.shutdown(socket.SHUT_WR)
    assert (client.status(), client.status()) == (400, 0)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "X-Forwarded-Proto"])
def test_headers_of_clients_change_no_path(stack: Stack, client: Client, name: str) -> None:
    client.send(_head(stack, "GET", "/v2/nothing", f"{name}: /v2"))
    assert client.status() == 404


PIECES = [
    *(b"GET /live HTTP/1.1\r\nHost: b\r\n", b"PUT /v2/service_instances/a HTTP/1.1\r\nX-Broker-API-Version: 2.17\r\n"),
    *(
        b"HEAD / HTTP/1.0\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ),
    *(b"Content-Length: %d\r\n" % length for length in (-1, 0, 2, 100, 300_000, 10**12)),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n"),
    *(
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"{}",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"f" * 16 + b"\r\n",
        b"1;a=b\r\nx\r\n",
    ),
    *(b"X: " + b"x" * 70_000 + b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(range(256))),
]


def test_no_sequence_of_pieces_of_requests_is_a_defect(stack: Stack, *, long_form: bool) -> None:
    chosen = random.Random(20261128)
    pieces = [*PIECES, _head(stack, "PUT", PATH)[:-2]]
    before = stack.api.log_text().count("\n")
    for number in range(2000 if long_form else 200):
        with Client(stack.api.port) as client, contextlib.suppress(OSError):
            client.send(b"".join(chosen.choices(pieces, k=chosen.randint(1, 10))))
            if number % 3 == 0:
                client.socket.shutdown(socket.SHUT_WR)
            elif number % 3 == 1:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert requests.get(f"{stack.api.uri}/live", timeout=5).ok
    new = stack.api.log_text().splitlines()[before:]
    assert not [line for line in new if '"level": "error"' in line or "Traceback" in line]
    assert any("request_malformed" in line for line in new)


# --- few open files -----------------------------------------------------------------------------------------------


class ApiWithFewFiles(Api):
    """An API whose system allows it few open files."""

    connections = 80

    def command(self) -> Sequence[str | Path]:
        limit = f'ulimit -n {OTHER_FILES + self.connections}; exec "$0" "$@"'
        return ["sh", "-c", limit, *super().command()]


def test_the_oldest_waiting_connections_of_an_address_with_too_many_are_closed(stack: Stack) -> None:
    settings = {**stack.api_settings, "BROKER_API_PROCESSES": "1"}
    with ApiWithFewFiles(settings, "api-few-files") as api, ExitStack() as opened:
        assert "open_files_limited" in api.log_text()
        other = opened.enter_context(Client(api.port, source="127.0.0.2"))
        clients = [opened.enter_context(Client(api.port)) for _ in range(api.connections)]
        newest = clients[-1]
        newest.send(_head(None, "GET", "/live"))
        assert newest.status() == 200
        eventually(lambda: sum(each.is_open() for each in clients) <= api.connections // 2, "the bound is kept")
        states = [each.is_open() for each in clients]
        assert states == sorted(states), "the oldest ones"
        assert other.is_open()
        eventually(lambda: "connections_closed" in api.log_text(), "it is logged")
        others = (f"127.0.0.{number}" for number in range(2, 100))
        clients += [opened.enter_context(Client(api.port, source=address)) for address in others]
        last = opened.enter_context(Client(api.port, _head(None, "GET", "/live"), source="127.0.0.2"))
        assert last.status() == 200
        assert sum(each.is_open() for each in [other, *clients]) <= api.connections
        assert "Traceback" not in api.log_text()
