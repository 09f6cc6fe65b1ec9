"""The production WSGI server: gunicorn with threads.

It passes the raw path to the app: only there an id with ``%2F`` differs from two path segments. Idle connections occupy
no thread.
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
from dataclasses import dataclass
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import ThreadWorker

from broker_api import child_processes
from broker_api.service.operation_watcher import MOST_WAITING

THREADS = MOST_WAITING + 64
"""A request that waits for its job occupies a thread; 64 more threads answer all other requests."""
GRACE_SECONDS = 10
"""How many seconds a process may take to stop, beyond the longest wait for a job."""
LINGER_SECONDS = 2
"""How many seconds a stopping process keeps connections on which no request has arrived yet."""
READ_SECONDS = 10
"""How many seconds a client may pause within a request; the request occupies a thread meanwhile."""
BACKLOG = 2048
HEADER_BYTES = 65_536
"""The limit of one header: an originating identity may contain all groups of its user."""
HEADERS_BYTES = 2 * HEADER_BYTES
"""The limit of all headers of a request together, which are read before the client is authenticated."""
_LONGEST_NAME = len("X-Broker-API-Originating-Identity: \r\n")

stopping = threading.Event()
"""Set when this process stops: it accepts no new connection, and finishes the requests that it has begun."""


@dataclass(frozen=True)
class _JsonSocket:
    """A client's socket that replaces gunicorn's HTML errors by JSON; for requests that never reach the app."""

    client: socket.socket

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a socket has
        return getattr(self.client, name)

    def sendall(self, answer: bytes) -> None:
        """Send the status line of gunicorn's answer, with a JSON body instead of its HTML."""
        status = answer.partition(b"\r\n")[0]
        body = json.dumps({"description": "The request is not valid HTTP, or too long; see the status."}).encode()
        head = b"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
        self.client.sendall(b"\r\n".join([status, head, b"", body]))


class _Request(Request):
    """A request with one limit for all headers together; gunicorn multiplies the limit of one by their number."""

    @property
    def max_buffer_headers(self) -> int:
        """Return the limit in bytes."""
        return HEADERS_BYTES

    @max_buffer_headers.setter
    def max_buffer_headers(self, _: int) -> None: ...


class _Parser(RequestParser):
    mesg_class = _Request


class _Worker(ThreadWorker):
    """gunicorn's worker with threads; its errors are JSON, and it closes the port as soon as it stops."""

    def init_process(self) -> None:
        """Start to serve. The process ends with its parent: an orphan would keep the port and answer no new request."""
        child_processes.end_with_parent(self.ppid, signal.SIGKILL)
        # No traceback for a client that pauses longer than READ_SECONDS.
        logging.getLogger("gunicorn.error").addFilter(
            lambda record: not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))
        )
        super().init_process()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's connection
        """Serve a request.

        The kernel limits the time of each read (``SO_RCVTIMEO``); this holds also after gunicorn makes the socket
        blocking.
        """
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_SECONDS, 0))
        conn.parser = conn.parser or _Parser(self.cfg, conn.sock, conn.client)
        return super().handle(conn)

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
        for silent in self.pending_conns:
            silent.timeout = min(silent.timeout, time.monotonic() + LINGER_SECONDS)

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        """Answer a request that gunicorn could not read, with a JSON body."""
        super().handle_error(req, _JsonSocket(client), addr, exc)


class _Server(BaseApplication):
    """gunicorn with the broker's options instead of a command line."""

    def __init__(self, make_app: Callable[[], Flask], options: dict[str, Any]) -> None:
        self._make_app = make_app
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        """Set the broker's options."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Make the app."""
        return self._make_app()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address or a name. ``::`` is every address of IPv6 and IPv4, and every IPv4 address on a machine
            without IPv6. An IPv6 address may be in brackets. Of a name with addresses of both families, the IPv4
            address is used.
        port: from 0 to 65535; 0 is any free port.

    Raises:
        SystemExit: the port cannot be opened; the message is one line with the reason.
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
    """Serve the app until a signal stops the process. Requests that have begun are finished first.

    Args:
        make_app: makes the app, in the process that serves: connections and threads do not survive a fork.
        listener: the socket of ``listen``.
        longest_wait: how many seconds a request may wait for its job.
    """
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
