"""The production WSGI server: gunicorn with threads.

It hands over the raw path, without which an id with ``%2F`` cannot be told from two path segments, and keeps idle
connections without a thread.
"""

import errno
import ipaddress
import json
import logging
import math
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from broker_api import parent
from broker_api.service.watcher import MOST_WAITING

THREADS = MOST_WAITING + 64
"""Requests that wait for their job each hold a thread; as many again answer polls meanwhile."""
GRACE_SECONDS = 10
"""What a process that is told to stop gets beyond the longest wait of a request for its job."""
LINGER_SECONDS = 2
"""So long a process that stops keeps connections on which no request has come yet."""
READ_SECONDS = 10
"""So long a client may pause in the middle of a request: each one that does holds a thread."""
BACKLOG = 2048
HEADER_BYTES = 65_536
"""Of a header's value: an originating identity names all groups of its user."""
HEADERS_BYTES = 2 * HEADER_BYTES
"""Of all headers of a request together: they are read before the client is authenticated."""
_LONGEST_NAME = len("X-Broker-API-Originating-Identity: \r\n")

stopping = threading.Event()
"""Set in a process that was told to stop: it takes no new connection, and finishes what it has begun."""


class _JsonSocket:
    """A client's socket on which gunicorn's own HTML errors become JSON; they are about requests that no app saw."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a socket has
        return getattr(self._client, name)

    def sendall(self, answer: bytes) -> None:
        """Send the answer's status with a body of ours."""
        status = answer.partition(b"\r\n")[0]
        body = json.dumps({"description": "The request is not valid HTTP, or too long; see the status."}).encode()
        head = b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
        self._client.sendall(b"\r\n".join([status, head, b"", body]))


class _Request(Request):  # type: ignore[misc]
    """A request whose headers have a limit together; gunicorn's own is the limit of one times their number."""

    @property
    def max_buffer_headers(self) -> int:
        """Return the limit."""
        return HEADERS_BYTES

    @max_buffer_headers.setter
    def max_buffer_headers(self, _: int) -> None: ...


class _Parser(RequestParser):  # type: ignore[misc]
    mesg_class = _Request


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with errors that platforms can read, and a port that is closed once it is not served."""

    def init_process(self) -> None:
        """Begin to serve. An orphan would hold the port for as long as its requests last, and answer no new one."""
        parent.end_with(self.ppid, signal.SIGKILL)
        logging.getLogger("gunicorn.error").addFilter(_is_no_pause)
        super().init_process()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's connection
        """Serve a request. The system's own time limit stays when gunicorn makes the socket a blocking one."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_SECONDS, 0))
        conn.parser = conn.parser or _Parser(self.cfg, conn.sock, conn.client)
        return super().handle(conn)

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's
        """Accept connections or not; once this process is to stop, close the port.

        gunicorn closes it only after the last request: until then a client could connect, and would never be answered.
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
        for silent in self.pending_conns:
            silent.timeout = min(silent.timeout, time.monotonic() + LINGER_SECONDS)

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        """Answer a request that could not be read."""
        super().handle_error(req, _JsonSocket(client), addr, exc)


def _is_no_pause(record: logging.LogRecord) -> bool:
    """A client that paused too long is nothing to tell with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


class _Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with our options, and no command line of its own."""

    def __init__(self, make_app: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._make_app = make_app
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        """Take our options instead of files and arguments."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the app in the serving process: connections and threads do not survive a fork."""
        return self._make_app()


def listen(host: str, port: int) -> socket.socket:
    """Open the port, or end the process with one line that says why that cannot be.

    ``::`` is every address, also those of IPv4, and on a machine without IPv6 only those. An IPv6 address may stand in
    brackets. A name that has addresses of both families stands for that of IPv4.
    """
    try:
        return _open(host.removeprefix("[").removesuffix("]"), port)
    except (OSError, ValueError) as error:
        code = None if isinstance(error, socket.gaierror) else getattr(error, "errno", None)
        reason = os.strerror(code) if code else getattr(error, "strerror", None) or str(error)
        sys.exit(f"atlas-broker: Cannot listen on {host!r} port {port}: {reason}.")


def _open(host: str, port: int) -> socket.socket:
    if port not in range(65_536):
        raise ValueError("a port is a number from 0 to 65535")
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    if family == socket.AF_INET6 and ipaddress.IPv6Address(address[0]).is_unspecified:
        return _open_everywhere(port)
    return socket.create_server(address, family=family, backlog=BACKLOG)


def _open_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104 - what was asked for


def serve(make_app: Callable[[], Flask], listener: socket.socket, longest_wait: float) -> None:
    """Serve until told to stop; requests under way, which may wait so long for their job, are finished first."""
    options = {
        "bind": f"fd://{listener.detach()}",
        "backlog": BACKLOG,
        "worker_class": _Worker,
        "workers": 1,
        "threads": THREADS,
        "keepalive": 65,
        "graceful_timeout": math.ceil(longest_wait + GRACE_SECONDS),
        "limit_request_line": 8190,  # two ids of 255 characters, each percent-encoded
        "limit_request_field_size": HEADER_BYTES + _LONGEST_NAME,
        "control_socket_disable": True,
        "loglevel": "warning",
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108 - gunicorn's heartbeat
    }
    _Server(make_app, options).run()
