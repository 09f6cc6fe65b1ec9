"""The process of the API's server: an event loop with all connections, and threads that answer whole requests.

gunicorn's own worker with threads lets a thread read the request, with a limit for each read only: some hundred clients
that send a byte now and then would occupy all threads. Its event loop also waits for clients that do not close.
Others were measured with 300 clients that send a byte every three seconds. waitress answers nothing else meanwhile: it
has a limit of connections but no total deadline; it reads the body before the credentials are checked, and has no TLS.
granian has a deadline for heads only, and does not pass the raw path, with which ids with ``%2F`` differ from two path
segments. A proxy would protect only deployments that have it. So gunicorn still parses heads, makes the environment and
the answer, and rules the processes; only reading and writing are here.
"""

import contextlib
import errno
import json
import select
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import BinaryIO

import structlog
from gunicorn.http import wsgi
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.sock import ssl_context
from gunicorn.workers.gthread import ThreadWorker
from structlog.contextvars import clear_contextvars

from broker_api import child_processes
from broker_api.body_awaited import BODY_AWAITED
from broker_api.server_connection import (
    HEADER_BYTES,
    HEADERS_BYTES,
    LINE_BYTES,
    LINGER_SECONDS,
    Connection,
    Wait,
    Work,
)

CLIENT_CONNECTIONS = 4096
"""How many connections a process has at most; when there are more, the one that has waited longest is closed.

Half of them may wait for one address, which may be a proxy with all platforms behind it. Above that, the address loses
its own connection that has waited longest. So it can not use up the connections of others, and no new one is refused.
"""
HELD_BYTES = 33_554_432
"""How much unfinished requests and unread answers may take together; above it, the oldest ones are closed."""
ACCEPTED_AT_ONCE = 16
DEADLINE_CHECK_SECONDS = 0.5
"""How often the deadlines of all connections are checked."""
SOON_SECONDS = 0.02
"""How often deadlines are checked that end within ``DEADLINE_CHECK_SECONDS``."""
REPORT_SECONDS = 10
"""Closed connections are logged at most this often."""
READY_THREADS = 2

_DEFECT = HTTPStatus.INTERNAL_SERVER_ERROR
_STATUSES = {
    LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
    InvalidResponseHeader: _DEFECT,
    InvalidResponseHeaderName: _DEFECT,
    ConfigurationProblem: _DEFECT,
}
"""The statuses of gunicorn's exceptions; of others of its parser it is 400."""
_DESCRIPTIONS = {
    HTTPStatus.REQUEST_URI_TOO_LONG: f"The request line must have at most {LINE_BYTES} bytes.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"A header must have at most {HEADER_BYTES} bytes, all together "
    f"{HEADERS_BYTES}, and their number must be at most 100.",
    HTTPStatus.EXPECTATION_FAILED: "The only expectation that is understood is 100-continue.",
    HTTPStatus.NOT_IMPLEMENTED: "The only transfer encoding that is understood is chunked.",
    _DEFECT: "Internal error of the broker; its log has the reason.",
}

stopping = threading.Event()
"""Set when this process stops: it accepts no new connection, and finishes the requests that it has begun."""

log = structlog.get_logger(__name__)


class _Answer(bytearray):
    """What gunicorn takes for the client's socket: collects an answer."""

    def sendall(self, data: bytes) -> None:
        """Append to the answer."""
        self += data


class Worker(ThreadWorker):
    """gunicorn's worker with threads, whose threads get whole requests only."""

    def init_process(self) -> None:
        """Start to serve. The process ends with its parent: an orphan would keep the port and answer no new request."""
        child_processes.end_with_parent(self.ppid, signal.SIGKILL)
        # Above it, gunicorn accepts no more: that is only so if none waits for its client, and none can be closed.
        self.worker_connections = self.cfg.worker_connections + ACCEPTED_AT_ONCE
        self._clients: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # the one that has waited longest comes first
        self._of_address: dict[str, dict[Connection, None]] = defaultdict(dict)
        self._soon: set[Connection] = set()
        self._held, self._shed, self._next_look, self._next_report = 0, 0, 0.0, 0.0
        # Probes have their own threads: they are answered although all others wait for MongoDB, and a flood of /ready,
        # which needs no credentials, does not occupy the threads of platforms.
        live, ready = ThreadPoolExecutor(1, "live"), ThreadPoolExecutor(READY_THREADS, "ready")
        self._probes = {"/live": live, "/health": live, "/ready": ready}
        super().init_process()

    # --- connections ---------------------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """Accept connections that have arrived."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, peer = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._close_oldest(self._waiting)
                return
            try:
                tls = ssl_context(self.cfg) if self.cfg.is_ssl else None
                client = Connection(accepted, peer, listener.getsockname(), self, tls)
            except OSError:  # it has gone already
                accepted.close()
                continue
            self._clients.add(client)
            self._go_on(client, partial(next, client.talk))
            if len(self._clients) > self.cfg.worker_connections:
                self._close_oldest(self._waiting)

    def _close_oldest(self, clients: Iterable[Connection]) -> None:
        if client := next(iter(clients), None):
            self._shed += 1
            self._close(client)

    def _go_on(self, client: Connection, step: Callable[[], Wait | Work]) -> None:
        """Let a connection continue until it waits again."""
        if client not in self._clients:  # it was closed meanwhile
            return
        client.wait = None
        self._soon.discard(client)
        try:
            wanted = step()
        except (StopIteration, OSError):  # the end, the client has gone, or a deadline
            self._close(client)
        except Exception:
            log.exception("connection_failed")
            self._close(client)
        else:
            if isinstance(wanted, Wait):
                self._wait(client, wanted)
            else:
                self._forget(client)
                pool: ThreadPoolExecutor = self._probes.get(wanted.path) or self.tpool
                pool.submit(self._work, client, wanted)

    def _work(self, client: Connection, work: Work) -> None:
        """Run a function of a connection, in a thread."""
        result: bool | None = False
        try:
            result = work.function()
            with contextlib.suppress(OSError):  # the event loop meets it again
                client.push()
        finally:
            self.method_queue.defer(self._go_on, client, partial(client.talk.send, result))

    def _wait(self, client: Connection, wait: Wait) -> None:
        now = time.monotonic()
        if wait.idle and not self.alive:
            wait = wait._replace(deadline=min(wait.deadline, now + LINGER_SECONDS))
        client.wait = wait
        if wait.deadline < now + DEADLINE_CHECK_SECONDS:
            self._soon.add(client)
        self._waiting.setdefault(client)
        of_address = self._of_address[client.address]
        of_address.setdefault(client)
        held = len(client.received) + len(client.body) + len(client.out)
        self._held += held - client.held
        client.held = held
        if client.events != wait.events:
            change = self.poller.modify if client.events else self.poller.register
            change(client.socket, wait.events, partial(self._client_ready, client))
            client.events = wait.events
        if len(of_address) > self.cfg.worker_connections // 2:
            self._close_oldest(of_address)
        if self._held > HELD_BYTES:
            self._close_oldest(client for client in self._waiting if client.held)

    def _client_ready(self, client: Connection, _: socket.socket) -> None:
        if client.wait:
            self._go_on(client, partial(next, client.talk))
        elif client in self._clients:  # a thread works for it: what arrives meanwhile stays in the kernel
            self._ignore(client)

    def _ignore(self, client: Connection) -> None:
        if client.events:
            self.poller.unregister(client.socket)
            client.events = 0

    def _forget(self, client: Connection) -> None:
        """Take a connection from those that wait for their clients."""
        self._waiting.pop(client, None)
        self._of_address[client.address].pop(client, None)
        if not self._of_address[client.address]:
            del self._of_address[client.address]
        self._held -= client.held
        client.held = 0

    def _close(self, client: Connection) -> None:
        self._clients.discard(client)
        self._forget(client)
        self._soon.discard(client)
        client.wait = None
        self._ignore(client)
        client.socket.close()
        client.talk.close()

    # --- gunicorn's event loop -----------------------------------------------------------------------------------

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve what has happened; return after some time at the latest."""
        super().wait_for_and_dispatch_events(min(timeout, SOON_SECONDS if self._soon else DEADLINE_CHECK_SECONDS))

    def murder_pending(self) -> None:
        """Close connections whose clients are late; gunicorn calls this after each round."""
        now = time.monotonic()
        for client in [*self._soon]:
            self._look(client, now)
        if now >= self._next_look:
            self._next_look = now + DEADLINE_CHECK_SECONDS
            for client in [*self._waiting]:
                self._look(client, now)
        if self._shed and now >= self._next_report:
            log.warning("connections_closed", number=self._shed, open=len(self._clients))
            self._shed, self._next_report = 0, now + REPORT_SECONDS
        self.nr_conns = len(self._clients)

    def _look(self, client: Connection, now: float) -> None:
        if client.wait and client.wait.deadline <= now:
            self._go_on(client, partial(client.talk.throw, TimeoutError()))

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's
        """Accept connections or not; close the port when this process stops.

        gunicorn closes the port only after the last request; a client that connects before that would get no answer.
        """
        super().set_accept_enabled(enabled)
        if self.alive:
            return
        stopping.set()
        for listener in self.sockets:
            arrived = select.poll()
            arrived.register(listener, select.POLLIN)
            while arrived.poll(0):
                self.accept(listener)
            listener.close()
        for client in [*self._waiting]:
            if client.wait and client.wait.idle:
                self._wait(client, client.wait)
        self.nr_conns = len(self._clients)

    # --- answers, in threads -------------------------------------------------------------------------------------

    def answer(self, client: Connection, request: Request, body: BinaryIO, *, asked: bool, last: bool) -> bool | None:
        """Answer a request; see ``Answerer``."""
        answer = _Answer()
        try:
            response, environ = wsgi.create(request, answer, client.peer, client.server, self.cfg)
            environ |= {"wsgi.multithread": True, "wsgi.input": body}
            if asked:
                environ[BODY_AWAITED] = True
            if last or not self.alive:
                response.force_close()
            with contextlib.closing(self.wsgi(environ, response.start_response)) as pages:
                for page in pages:
                    response.write(page)
            response.close()
            if asked and response.status_code == 100:  # noqa: PLR2004 - Continue
                return None
            client.out += answer
            return not response.should_close()
        except Exception as error:  # noqa: BLE001 - the client must have an answer
            return self.refuse(client, error)

    def refuse(self, client: Connection, error: Exception) -> bool:
        """Answer a request that cannot be understood, or whose answer cannot be made."""
        status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST if isinstance(error, ParseException) else _DEFECT)
        clear_contextvars()  # those of the thread's request before
        if status == _DEFECT:
            log.error("request_met_unexpected_error", exc_info=error)
        else:
            log.warning("request_malformed", address=client.peer[0], reason=type(error).__name__)
        body = json.dumps({"description": _DESCRIPTIONS.get(status, "The request is not valid HTTP.")}).encode()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        client.out += f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return False
