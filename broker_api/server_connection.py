"""One connection of the API's server: whole requests are read, and answers are written, without occupying a thread.

``Connection.talk`` is a generator that runs in the thread of the event loop. It yields what it waits for: the client
(``Wait``), or an answer that a thread makes (``Work``). Deadlines are for a whole head or body, never for one read:
a client that sends a byte now and then occupies some memory for some seconds, and nothing else.

Before the rest of a body is read, the app is asked whether it wants it. So it refuses wrong credentials at once.
"""

import contextlib
import io
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, BinaryIO, NamedTuple, Protocol

from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

HANDSHAKE_SECONDS = 10
HEAD_SECONDS = 10
"""How many seconds a client has for the head of a request, from its first byte."""
BODY_SECONDS = 30
"""How many seconds a client has for the body of a request, from the end of the head."""
PATIENCE_SECONDS = 0.05
"""How long the rest of a body is awaited before the app is asked: most clients send it right after the head."""
ANSWER_READ_SECONDS = 30
"""How many seconds a client has for reading an answer."""
CONNECTION_IDLE_SECONDS = 65
"""How many seconds a connection may be open without a request."""
LINGER_SECONDS = 2
"""How many seconds the server waits for the client to close first, so that the client gets the answer."""
LINE_BYTES = 8190
"""The limit of the request line: two ids of 255 characters, each percent-encoded."""
HEADER_BYTES = 65_536
"""The limit of one header: an originating identity may contain all groups of its user."""
HEADERS_BYTES = 2 * HEADER_BYTES
"""The limit of all headers of a request together, which are read before the client is authenticated."""
CHUNKED_BYTES = 1_048_576
"""How much of a chunked body is read before it is answered; the limit of what is in the chunks is the app's."""
DISCARDED_BYTES = 67_108_864
"""How much of a refused body is read: a client that sends all of it first must get the answer, not a reset."""
HEAD_BYTES = LINE_BYTES + HEADERS_BYTES
READ_BYTES = 65_536

_HEAD_END = re.compile(rb"\r\n\r\n|\n\n")  # the latter is an error, which is told at once
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;" + _TEXT + rb")?")
_TRAILERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:" + _TEXT + rb"\r\n)*")
_WITH_BODY = frozenset({"PUT", "PATCH"})
_WANTS = {BlockingIOError: None, ssl.SSLWantReadError: EVENT_READ, ssl.SSLWantWriteError: EVENT_WRITE}


class Wait(NamedTuple):
    """The connection waits for its client.

    Attributes:
        events: those of ``selectors``.
        deadline: when ``TimeoutError`` is raised, on the monotonic clock.
        idle: whether there is no request to answer; a server that stops does not wait for the client then.
    """

    events: int
    deadline: float
    idle: bool = False


class Work(NamedTuple):
    """The connection waits for a function that runs in a thread.

    Attributes:
        function: its result is sent into the generator; None: the app wants the body of the request.
        path: the path of the request.
    """

    function: Callable[[], bool | None]
    path: str


Talk = Generator[Wait | Work, Any, Any]


class Answerer(Protocol):
    """What answers requests; its methods run in threads, and put the answer into ``Connection.out``."""

    cfg: Config

    def answer(self, client: "Connection", request: Request, body: BinaryIO, *, asked: bool, last: bool) -> bool | None:
        """Answer a request.

        Args:
            client: the connection.
            request: the request.
            body: its body.
            asked: whether the app is only asked whether it wants the body, which has not arrived.
            last: whether the connection must be closed after the answer.

        Returns:
            Whether the connection can be used again; None if the app has been asked and wants the body.
        """

    def refuse(self, client: "Connection", error: Exception) -> bool:
        """Answer a request that cannot be understood; the connection must be closed."""


class _Received(Unreader):
    """The head of a request for gunicorn's parser, which never meets more."""

    def chunk(self, _size_hint: int | None = None) -> bytes:
        """Return nothing: there is no more."""
        return b""


class _CutOff(io.BytesIO):
    """What has arrived of a body that has no end: a read that meets the missing part fails."""

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes.

        Raises:
            EOFError: there are fewer, or all were asked for.
        """
        data = super().read(size)
        if size is None or size < 0 or len(data) < size:
            raise EOFError
        return data


@dataclass
class _Body:
    """The body of a request, without the frames of its chunks.

    gunicorn's own reader copies all that has arrived for each chunk, so a megabyte of small ones would take minutes.

    Attributes:
        left: how many bytes of the body, or of its chunk, are still to come.
        chunked: whether the body has chunks.
        whole: whether all has arrived.
        broken: whether a chunk is malformed.
        kept: whether ``data`` is of use.
        data: what has arrived.
        size: how many bytes have arrived, with the frames.
        line_end: what must come before the next chunk's line.
    """

    left: int
    chunked: bool
    whole: bool = False
    broken: bool = False
    kept: bool = True
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    line_end: bytes = b""

    def take(self, received: bytearray) -> bool:
        """Move what belongs to the body out of ``received``; return whether that is all."""
        at, before, self.whole = 0, -1, self.whole or not (self.left or self.chunked)
        while not (self.whole or self.broken) and at > before:
            before = at
            at = self._take_data(received, at) if self.left else self._take_line(received, at)
        self.size += at
        del received[:at]
        return self.whole

    def _take_data(self, received: bytearray, at: int) -> int:
        """Return where what follows begins."""
        part = received[at : at + self.left]
        self.left -= len(part)
        if self.kept:
            self.data += part
        self.whole, self.line_end = not (self.left or self.chunked), b"\r\n"
        return at + len(part)

    def _take_line(self, received: bytearray, at: int) -> int:
        """Take the line before a chunk, or all after the last one; return as ``_take_data``.

        A proxy before the broker may forgive what is malformed, and find other requests behind it: nothing is forgiven.
        """
        start = at + len(self.line_end)
        end = received.find(b"\r\n", start)
        if end < 0:
            return at
        line = _CHUNK_LINE.fullmatch(received, start, end)
        self.broken = not (line and received.startswith(self.line_end, at))
        if not line or self.broken:
            return at
        self.left = int(line[1], 16)
        if self.left:
            return end + 2
        trailers, end = end + 2, received.find(b"\r\n\r\n", end)
        if end < 0:
            return at
        self.whole = bool(_TRAILERS.fullmatch(received, trailers, end + 2))
        self.broken = not self.whole
        return end + 4


class Connection:
    """A client's connection.

    Args:
        client: the socket.
        peer: the address of the client.
        server: the address that it has connected to.
        answerer: answers its requests.
        tls: for TLS; None for plain HTTP.

    Attributes:
        address: what counts as one client; of IPv6 the network, since a client has all addresses in it.
        received: what has arrived and belongs to no request yet.
        body: what has arrived of the body of a request.
        out: what is to be sent.
        talk: the generator.

    Raises:
        OSError: the client has gone already.
    """

    def __init__(
        self,
        client: socket.socket,
        peer: tuple[Any, ...],
        server: tuple[Any, ...],
        answerer: Answerer,
        tls: ssl.SSLContext | None,
    ) -> None:
        client.setblocking(False)  # noqa: FBT003 - as in socket
        if tls:
            client = tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self.socket, self.peer, self.server, self.address = client, peer, server, _group(peer[0])
        self.received, self.body, self.out = bytearray(), bytearray(), bytearray()
        self.talk = self._talk()
        self.wait: Wait | None = None
        self.events = 0
        self.held = 0
        self._answerer = answerer
        self._ended = False
        self._requests = 0

    def push(self) -> int:
        """Send what the socket takes.

        Returns:
            The events to wait for; 0 when everything is sent.

        Raises:
            OSError: the client has gone.
        """
        while self.out:
            try:
                del self.out[: self.socket.send(self.out)]
            except tuple(_WANTS) as want:
                return _WANTS[type(want)] or EVENT_WRITE
        return 0

    def _talk(self) -> Talk:
        if isinstance(self.socket, ssl.SSLSocket):
            yield from self._shake_hands(self.socket)
        while (yield from self._head_arrives()):
            if not (yield from self._exchange()):
                yield from self._linger()
                return

    def _shake_hands(self, client: ssl.SSLSocket) -> Talk:
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        while True:
            try:
                return client.do_handshake()
            except tuple(_WANTS) as want:
                yield Wait(_WANTS[type(want)] or EVENT_READ, deadline, idle=True)

    def _receive(self, deadline: float, *, idle: bool = False) -> Talk:
        """Return whether more has arrived; if not, the client sends nothing more."""
        while not self._ended:
            try:
                data = self.socket.recv(READ_BYTES)
            except tuple(_WANTS) as want:
                yield Wait(_WANTS[type(want)] or EVENT_READ, deadline, idle)
            else:
                self.received += data
                self._ended = not data
                return bool(data)
        return False

    def _head_arrives(self) -> Talk:
        """Return whether a head is there, or too much for one; if not, the client has left."""
        searched, deadline = 0, time.monotonic() + CONNECTION_IDLE_SECONDS
        while True:
            if self.received and not searched:
                deadline = time.monotonic() + HEAD_SECONDS
            if _HEAD_END.search(self.received, max(0, searched - 3)):
                return True
            searched = len(self.received)
            if searched > HEAD_BYTES:
                return True
            if not (yield from self._receive(deadline, idle=True)):
                return False

    def _exchange(self) -> Talk:
        """Answer a request whose head is there; return whether the connection can be used again."""
        head, blank, _ = self.received.partition(b"\r\n\r\n")
        whole = _Received()
        whole.unread(bytes((head + blank)[:HEAD_BYTES]))
        self._requests += 1
        try:
            request = Request(self._answerer.cfg, whole, self.peer, self._requests)
        except Exception as error:  # noqa: BLE001 - gunicorn's parser has many
            told = LimitRequestHeaders("They are too long together.") if isinstance(error, NoMoreData) else error
            yield Work(partial(self._answerer.refuse, self, told), "")
            return (yield from self._send(keep=False))
        del self.received[: len(head + blank)]
        return (yield from self._answer(request))

    def _answer(self, request: Request) -> Talk:
        """Read the body of a request if the app wants it, and answer; return as ``_exchange``."""
        reader, deadline = request.body.reader, time.monotonic() + BODY_SECONDS
        has_length = isinstance(reader, LengthReader)
        body = _Body(reader.length if has_length else 0, chunked=not has_length)
        self.body = body.data
        expected = request._expected_100_continue  # noqa: SLF001 - gunicorn has no other name for it
        request._expected_100_continue = False  # noqa: SLF001 - else gunicorn itself would ask for the body
        patience = 0 if expected else PATIENCE_SECONDS
        if not (yield from self._body_arrives(body, time.monotonic() + patience, READ_BYTES)) and not self._ended:
            asked = request.method in _WITH_BODY  # of other methods the app reads no body
            keep = yield self._work(request, io.BytesIO(), asked=asked, last=expected)
            if keep is not None:
                return (yield from self._send(keep=keep)) and (yield from self._discard(body, deadline))
            if expected:
                self.out += b"HTTP/1.1 100 Continue\r\n\r\n"
                yield from self._send(keep=True)
            yield from self._body_arrives(body, deadline, CHUNKED_BYTES if body.chunked else body.size + body.left)
        last = not body.whole and (body.broken or self._ended or time.monotonic() >= deadline)
        keep = yield self._work(request, io.BytesIO(body.data) if body.whole else _CutOff(body.data), last=last)
        return (yield from self._send(keep=keep)) and (yield from self._discard(body, deadline))

    def _work(self, request: Request, body: BinaryIO, *, asked: bool = False, last: bool) -> Work:
        return Work(partial(self._answerer.answer, self, request, body, asked=asked, last=last), request.path)

    def _body_arrives(self, body: _Body, deadline: float, most: int) -> Talk:
        """Return whether the body is there; if not, it is late, cut off, malformed, or longer than so many bytes."""
        with contextlib.suppress(TimeoutError):
            while not body.take(self.received):
                too_long = body.size + len(self.received) > most
                if body.broken or too_long or not (yield from self._receive(deadline)):
                    return False
            return True
        return False

    def _discard(self, body: _Body, deadline: float) -> Talk:
        """Read the rest of a body that has been answered; return whether it had an end within the limit."""
        body.data.clear()
        body.kept, most = False, body.size + DISCARDED_BYTES
        while not body.take(self.received):
            if body.broken or body.size > most or len(self.received) > HEAD_BYTES:
                return False
            yield Wait(EVENT_READ, deadline, idle=True)  # others come first
            if not (yield from self._receive(deadline, idle=True)):
                return False
        return True

    def _send(self, *, keep: bool) -> Talk:
        """Send the answer; return ``keep``."""
        deadline = time.monotonic() + ANSWER_READ_SECONDS
        while events := self.push():
            yield Wait(events, deadline)
        return keep

    def _linger(self) -> Talk:
        """Close the sending half, and wait for the client to close; unread bytes destroy the answer on its way."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # it has no patience with a socket that does not block
                self.socket.unwrap()
        self.socket.shutdown(socket.SHUT_WR)  # of TLS, what comes now is discarded without decryption
        deadline, left = time.monotonic() + LINGER_SECONDS, DISCARDED_BYTES
        while left > 0 and (yield from self._receive(deadline, idle=True)):
            left -= len(self.received)
            self.received.clear()
            yield Wait(EVENT_READ, deadline, idle=True)


def _group(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
