"""However the bytes of requests are cut on their way, each request is read as it was sent, and nothing is read twice.

The server's ``Connection`` and ``Worker`` are real, and so is the app; only the event loop is this test, which decides
when a piece arrives and when the server's patience ends. So nothing here waits.
"""

import json
import re
import select
import socket
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pytest
from gunicorn.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_api.osb.app import create_app
from broker_api.server import HTTP_OPTIONS
from broker_api.server_connection import PATIENCE_SECONDS, READ_BYTES, Connection, Wait, Work
from broker_api.server_worker import Worker
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import IDS, PROVISION, USER

pytestmark = pytest.mark.timeout(3600)  # of the long form

MOST_BYTES = READ_BYTES + 10_000
"""The limit of bodies here: the longest that is taken comes in more than one read."""
REFUSALS = {400, 401, 413, 417, 501}
MANY = settings(max_examples=3 * settings().max_examples, derandomize=True, database=None)


class Piece(NamedTuple):
    """What is sent at once; if it is late, the server's patience for the rest of a body has ended before."""

    data: bytes
    is_late: bool


class Server:
    """The API's server without its event loop."""

    def __init__(self) -> None:
        self.service = InMemoryService()
        self.service.during = self.service.instances.clear  # each provision makes a new instance
        options = Config()
        for name, value in HTTP_OPTIONS.items():
            options.set(name, value)
        self.worker = Worker(0, 0, [], None, 0, options, None)
        self.worker.wsgi = create_app(self.service.service, dict([USER]), max_body_bytes=MOST_BYTES)

    def exchange(self, pieces: Sequence[Piece], *, half_closed: bool = False) -> tuple[bytes, bool]:
        """Send pieces on one connection; return what comes back, and whether the server has ended the connection."""
        client, accepted = socket.socketpair()
        with client, accepted:
            client.setblocking(False)  # noqa: FBT003 - as in socket
            talk = Connection(accepted, ("127.0.0.1", 1), ("127.0.0.1", 2), self.worker, None).talk
            left, answers, ended, step = deque(pieces), bytearray(), False, partial(next, talk)
            while True:
                try:
                    wanted: Wait | Work = step()
                except StopIteration:
                    return bytes(answers + (_arrived(client) or b"")), True
                step = partial(next, talk)
                if isinstance(wanted, Work):
                    step = partial(talk.send, wanted.function())
                elif new := _arrived(client):
                    answers += new
                elif not select.select([accepted], [], [], 0)[0]:
                    ended = ended or new == b""
                    is_patience = not wanted.idle and wanted.deadline <= time.monotonic() + PATIENCE_SECONDS
                    if is_patience and (not left or left[0].is_late):
                        step = partial(talk.throw, TimeoutError())
                    elif left:
                        client.sendall(left.popleft().data)
                    elif half_closed:
                        client.shutdown(socket.SHUT_WR)
                        half_closed = False
                    else:
                        return bytes(answers), ended


def _arrived(client: socket.socket) -> bytes | None:
    """Return what has arrived; None if nothing has, b"" at the end."""
    try:
        return client.recv(1_000_000)
    except BlockingIOError:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.worker.tmp.close()


# --- what is sent -------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A request and the status of its answer. ``given`` is the parameter that the service must get."""

    data: bytes
    status: int
    is_head: bool = False
    expects: bool = False
    given: str | None = None


LOGIN = f"Authorization: Basic {b64encode(':'.join(USER).encode()).decode()}"
VERSION = "X-Broker-API-Version: 2.17"
PROBE = Sent(b"GET /live HTTP/1.1\r\nHost: b\r\n\r\n", 200)
SMUGGLED = b"0\r\n\r\nGET /live HTTP/1.1\r\nHost: b\r\n\r\n"
PROVISION_LINE = "PUT /v2/service_instances/made"
"""The only request that the service gets."""
KINDS = {
    "GET /live": (200, VERSION),
    "HEAD /live": (200, VERSION),
    "GET /v2/catalog": (200, LOGIN),
    "GET http://b/v2/catalog?x": (401, VERSION),
    f"DELETE /v2/service_instances/none?{IDS}": (410, LOGIN),
    "POST /v2/catalog": (405, LOGIN),
    "PUT /v2/nothing": (404, LOGIN),
    "PUT /v2/service_instances/refused": (401, VERSION),
    "PUT /v2/service_instances/no-json": (400, LOGIN),
    PROVISION_LINE: (201, LOGIN),
}
CHUNKS = ["{:x}", "{:X}", "000{:x}", "{:x};a", '{:x} ; a="b c";d=e']
TRAILERS = [b"", b"X-Trailer: a\r\n", b"A:\r\nB: c: d\r\n"]
SIZES = st.integers(0, 3000) | st.sampled_from([0, READ_BYTES, MOST_BYTES])


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    kind = draw(st.just(PROVISION_LINE) | st.sampled_from(list(KINDS)))
    (status, login), given = KINDS[kind], None
    framing = draw(st.sampled_from(["none", "length", "chunks"]))
    body = SMUGGLED * (draw(SIZES) // len(SMUGGLED))
    if kind == PROVISION_LINE:
        given = "x" * draw(SIZES)
        framing = "length" if framing == "none" else framing
        body = json.dumps({**PROVISION, "parameters": {"cluster": "c", "more": given}}).encode()
    if len(body) > MOST_BYTES and given is not None:
        status, given = 413, None
    version = "1.1" if framing == "chunks" else draw(st.sampled_from(["1.1", "1.0"]))
    fields = [f"{kind} HTTP/{version}", "Host: b", VERSION, login]
    fields += ["Connection: keep-alive"] if version == "1.0" else []
    expects = draw(st.booleans())
    fields += ["Expect: 100-Continue"] if expects else []
    if framing == "length":
        fields.append(f"Content-Length: {len(body)}")
    elif framing == "chunks":
        fields.append("Transfer-Encoding: Chunked")
        body = draw(chunked(body))
    else:
        body = b""
    data = "\r\n".join([*dict.fromkeys(fields), "", ""]).encode() + body
    return Sent(data, status, kind.startswith("HEAD"), expects, given)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    sizes = st.sampled_from(CHUNKS)
    chunks = [draw(sizes).format(len(part)).encode() + b"\r\n" + part + b"\r\n" for part in parts if part]
    return b"".join(chunks) + draw(sizes).format(0).encode() + b"\r\n" + draw(st.sampled_from(TRAILERS)) + b"\r\n"


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[Piece]:
    """Cut anywhere, often at the ends of lines."""
    lines = [found.end() for found in re.finditer(rb"\r\n", data[:5000])] or [0]
    near = st.builds(lambda line, more: max(0, line + more), st.sampled_from(lines), st.integers(-2, 2))
    cuts = sorted(set(draw(st.lists(near | st.integers(0, len(data)), max_size=8))))
    parts = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [Piece(part, draw(st.booleans())) for part in parts if part]


# --- what must be refused -----------------------------------------------------------------------------------------

LINES = [
    *(b"GET  /live HTTP/1.1\r\n", b"GET\t/live HTTP/1.1\r\n", b"GET /live HTTP/1.1 \r\n", b" GET /live HTTP/1.1\r\n"),
    *(b"GET /live\r\n", b"GET /live HTTP/2.0\r\n", b"GET /live HTTP/1.10\r\n", b"get /live HTTP/1.1\r\n"),
    *(
        b"GET /li\x00ve HTTP/1.1\r\n",
        b"GET /live HTTP/1.1\n",
        b"GET /live HTTP/1.1\r",
        b"\r\n\r\nGET /live HTTP/1.1\r\n",
    ),
]
LENGTHS = [b"-1", b"+5", b"5, 5", b"0x5", b"5_0", b"5.0", b"", b"\xb2", b"5 5", b"9" * 5000]
CODINGS = [b"identity", b"chunked, identity", b"chunked, chunked", b"gzip", b"xchunked", b"'chunked'", b"chunked;q=1"]
CODINGS += [b"", b"chunked\x0b", b"\x0bchunked", b"chu\x00nked"]
SEPARATORS = [b" : ", b"\t:", b":\r\n ", b":\n", b":\r", b"\x00:", b""]
LENGTH, CODING = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"
FIELDS = [
    *(LENGTH + CODING, CODING + LENGTH, LENGTH + LENGTH, LENGTH + b"Content-Length: 6\r\n", CODING + CODING),
    *(b"Content-Length: %b\r\n" % value for value in LENGTHS),
    *(b"Transfer-Encoding: %b\r\n" % value for value in CODINGS),
    *(b"Content-Length%b5\r\n" % separator for separator in SEPARATORS),
    *(b"Transfer-Encoding%bchunked\r\n" % separator for separator in SEPARATORS),
    *(b" " + LENGTH, b"X: a\n" + LENGTH, b"X: a\r" + LENGTH, b"X: \x7f\r\n", b"Host: c\r\n", b"Expect: 200-ok\r\n"),
]
BODIES = [
    *(b"5 \r\nhello\r\n0\r\n\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n"),
    *(b"5\r\nhello0\r\n\r\n", b"5\r\nhello!!0\r\n\r\n", b"5\r\nhello\r\n0 \r\n\r\n", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
    *(b"-5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"g\r\n\r\n0\r\n\r\n"),
    *(
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b";a\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b"f" * 17 + b"\r\n",
    ),
    *(b"0\r\nX: a\n\n", b"0\r\nX : a\r\n\r\n", b"0\r\n X: a\r\n\r\n", b"0\r\nX: a\r\n b\r\n\r\n", b"0\r\nX\r\n\r\n"),
    *(
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
        b"0\r\n: a\r\n\r\n",
        b"0\r\n\n\r\n",
        b"f" * 16 + b"\r\nhello\r\n",
    ),
]
PUT = b"PUT /v2/service_instances/malformed HTTP/1.1\r\nHost: b\r\n%b\r\n%b\r\n"
MALFORMED = [line + b"Host: b\r\n\r\n" for line in LINES]
MALFORMED += [PUT % (LOGIN.encode(), field) + b"\r\nhello" for field in FIELDS]
MALFORMED += [
    PUT % (login.encode(), CODING + VERSION.encode()) + b"\r\n" + body for body in BODIES for login in (LOGIN, "X: a")
]
MALFORMED += [PUT % (LOGIN.encode(), b"Content-Length: %d\r\n" % 10**20 + VERSION.encode()) + b"\r\n"]


class Answer(NamedTuple):
    status: int
    closes: bool


def read(data: bytes, sent: Sequence[Sent]) -> list[Answer]:
    """Return the final answers; those after the last of ``sent`` have a body."""
    answers: list[Answer] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        status = int(re.fullmatch(rb"HTTP/1\.[01] (\d{3}) .*", head.splitlines()[0])[1])  # type: ignore[index]  # None fails too
        if status == 100:
            continue
        is_head = len(answers) < len(sent) and sent[len(answers)].is_head
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        assert length, head
        size = 0 if is_head else int(length[1])
        assert len(data) >= size
        json.loads(data[:size] or b"0")
        data = data[size:]
        answers.append(Answer(status, b"connection: close" in head.lower()))
    return answers


# --- the properties -----------------------------------------------------------------------------------------------


@MANY
@given(st.data(), st.lists(requests(), min_size=1, max_size=4))
def test_requests_cut_anywhere_are_read_as_they_were_sent(
    server: Server, data: st.DataObject, sent: list[Sent]
) -> None:
    sent.append(PROBE)
    server.service.requests.clear()
    pieces, half_closed = data.draw(cut(b"".join(each.data for each in sent))), data.draw(st.booleans())
    received, ended = server.exchange(pieces, half_closed=half_closed)
    answers = read(received, sent)
    last = answers[-1]
    if last.closes and sent[len(answers) - 1].expects:  # it was refused before its body was asked for
        sent = sent[: len(answers)]
    assert [answer.status for answer in answers] == [each.status for each in sent]
    assert [each for each in answers[:-1] if each.closes] == []
    assert ended == (half_closed or last.closes)
    noted = [each.parameters["more"] for each in server.service.requests if each.parameters]
    assert noted == [each.given for each in sent if each.given is not None]


@MANY
@given(st.data(), st.lists(requests(), max_size=2), st.sampled_from(MALFORMED))
def test_a_malformed_request_cut_anywhere_is_refused_and_nothing_after_it_is_read(
    server: Server, data: st.DataObject, sent: list[Sent], malformed: bytes
) -> None:
    check_malformed(server, data.draw(cut(b"".join(each.data for each in sent) + malformed + PROBE.data)), sent)


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_request_that_others_could_read_in_another_way_is_refused(server: Server, malformed: bytes) -> None:
    whole = malformed + PROBE.data
    check_malformed(server, [Piece(whole, is_late=False)], [])
    for is_late in (False, True):
        check_malformed(server, [Piece(bytes([byte]), is_late) for byte in whole], [])


def check_malformed(server: Server, pieces: Sequence[Piece], sent: Sequence[Sent]) -> None:
    received, ended = server.exchange(pieces, half_closed=True)
    answers = read(received, sent)
    assert ended
    if answers[-1].closes and len(answers) <= len(sent) and sent[len(answers) - 1].expects:
        return  # it was refused before its body was asked for
    assert [each.status for each in answers[:-1]] == [each.status for each in sent]
    assert answers[-1].status in REFUSALS
