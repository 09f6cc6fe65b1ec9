"""The production WSGI server: gunicorn, with the worker of ``broker_api.server_worker``.

It passes the raw path to the app: only there an id with ``%2F`` differs from two path segments.
"""

import contextlib
import errno
import fcntl
import gc
import ipaddress
import math
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.glogging import Logger

from broker_api.certificate import ServerCertificate
from broker_api.server_connection import HEADER_BYTES, LINE_BYTES
from broker_api.server_worker import CLIENT_CONNECTIONS, Worker
from broker_api.service.operation_watcher import MOST_WAITING_REQUESTS

THREADS = MOST_WAITING_REQUESTS + 64
"""A request that waits for its job occupies a thread; 64 more threads answer all other requests."""
GRACE_SECONDS = 10
"""How many seconds a process may take to stop, beyond the longest wait for a job."""
LEFT_SECONDS = 60
"""How old a directory of metrics is at least that counts as left by a server that was killed."""
BACKLOG = 2048
OTHER_FILES = 512
"""How many open files a process needs beside its clients' connections: those to MongoDB and Redis, logs and metrics."""
MIN_CONNECTIONS = 64
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HTTP_OPTIONS: dict[str, Any] = {
    "http_parser": "python",  # a faster one would be used where it is installed, with rules of its own
    "limit_request_line": LINE_BYTES,
    "limit_request_field_size": HEADER_BYTES + len("X-Broker-API-Originating-Identity: \r\n"),
    "forwarder_headers": "",  # a header of a client is never a part of the path
    "forwarded_allow_ips": "",
}
"""gunicorn's options of how heads of requests are read."""
_METRICS = "atlas-broker-metrics-"

log = structlog.get_logger(__name__)


class _Logger(Logger):
    """gunicorn's log, written like all other lines of the process."""

    def setup(self, cfg: Config) -> None:
        """Leave format and level to ``broker_api.logs``."""
        self.cfg = cfg
        self._access_log_enabled = False  # the API logs requests
        self.error_log.propagate = True


class _Server(BaseApplication):
    """gunicorn with the broker's options instead of a command line."""

    def __init__(self, app: Flask, options: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        """Set the broker's options."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Return the app."""
        return self._app


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


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let all processes of the server count into files of one directory, which each of them reads for ``/metrics``.

    Enter this before ``prometheus_client`` is imported, since it reads the variable only then. A lock marks the
    directory as used, so that a later server removes it if this one is killed.
    """
    server, parent = os.getpid(), _memory_directory()
    for left in Path(parent or tempfile.gettempdir()).glob(f"{_METRICS}*"):
        # A new directory may not be locked yet. OSError: it is in use, belongs to another user, or is gone.
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_SECONDS:
                with _locked(left):
                    shutil.rmtree(left)
    directory = tempfile.mkdtemp(prefix=_METRICS, dir=parent)
    with _locked(directory):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        try:
            yield
        finally:
            if os.getpid() == server:  # its processes, which are forks, also come here when they end
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: str | Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _memory_directory() -> str | None:
    """Return a directory in memory; None for the default one of temporary files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - files there have random names


class WsgiFrontEnd(Protocol):
    """What all processes of a server share, made before they are forked."""

    app: Flask
    """The WSGI app. It has no connection and no thread yet, since they do not survive a fork."""

    def start(self) -> None:
        """Do what a process must do before it serves."""

    def forget_process(self, process: int) -> None:
        """Do what must be done after a process has ended."""


def serve(
    front_end: WsgiFrontEnd,
    listener: socket.socket,
    longest_wait: float,
    processes: int = 1,
    certificate: ServerCertificate | None = None,
) -> None:
    """Serve an app until a signal stops the process. Requests that have begun are finished first.

    Args:
        front_end: the app.
        listener: the socket of ``listen``.
        longest_wait: how many seconds a request may wait for its job.
        processes: how many processes serve. Another one replaces a process that ends.
        certificate: for TLS; None for plain HTTP.
    """

    def begin(arbiter: Any, _: object) -> None:  # noqa: ANN401 - gunicorn's master
        # Until gunicorn sets the handlers of this process, those of the master would only fill a copy of its queue, and
        # a signal to stop would be lost.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        while not arbiter.SIG_QUEUE.empty():
            if arbiter.SIG_QUEUE.get_nowait() in STOP_SIGNALS:
                sys.exit(0)
        front_end.start()

    options = {
        "bind": f"fd://{listener.detach()}",
        "backlog": BACKLOG,
        "worker_class": Worker,
        "workers": processes,
        "preload_app": True,
        "post_fork": begin,
        "child_exit": lambda _server, worker: front_end.forget_process(worker.pid),
        "threads": THREADS,
        "worker_connections": _allowed_connections(),
        "graceful_timeout": math.ceil(longest_wait + GRACE_SECONDS),
        "control_socket_disable": True,
        "logger_class": _Logger,
        "worker_tmp_dir": _memory_directory(),  # gunicorn's heartbeat
        **HTTP_OPTIONS,
    }
    if certificate:
        files = dict(zip(("certfile", "keyfile"), certificate.files, strict=True))
        options |= {**files, "ssl_context": certificate.context}
    gc.freeze()  # else the first collection of each process would copy all memory that it shares with the others
    _Server(front_end.app, options).run()


def _allowed_connections() -> int:
    """Raise the limit of open files as far as the system allows, and return how many connections fit into it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or hard >= CLIENT_CONNECTIONS + OTHER_FILES:
        return CLIENT_CONNECTIONS
    allowed = max(MIN_CONNECTIONS, hard - OTHER_FILES)
    log.warning("open_files_limited", open_files=hard, needed=CLIENT_CONNECTIONS + OTHER_FILES, connections=allowed)
    return allowed
