"""The production WSGI server: gunicorn with threads.

It hands over the raw path, without which an id with ``%2F`` cannot be told from two path segments, and keeps idle
connections without a thread.
"""

import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from broker_api import parent
from broker_api.waiting import MOST_WAITING

THREADS = MOST_WAITING + 64
"""Requests that wait for their job each hold a thread; as many again answer polls meanwhile."""
GRACE_SECONDS = 30
READ_SECONDS = 10
"""So long a client may pause in the middle of a request: each one that does holds a thread."""


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


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with errors that platforms can read."""

    def init_process(self) -> None:
        """Begin to serve. An orphan would hold the port for as long as its requests last, and answer nobody new."""
        parent.end_with(self.ppid, signal.SIGKILL)
        logging.getLogger("gunicorn.error").addFilter(_is_no_pause)
        super().init_process()

    def handle(self, conn: Any) -> Any:  # noqa: ANN401 - gunicorn's connection
        """Serve a request. The system's own time limit stays when gunicorn makes the socket a blocking one."""
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_SECONDS, 0))
        return super().handle(conn)

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


def serve(make_app: Callable[[], Flask], host: str, port: int) -> None:
    """Serve until told to stop; requests under way are finished first."""
    options = {
        "bind": f"{host}:{port}",
        "worker_class": _Worker,
        "workers": 1,
        "threads": THREADS,
        "keepalive": 65,
        "graceful_timeout": GRACE_SECONDS,
        "limit_request_line": 8190,  # two ids of 255 characters, each percent-encoded
        "limit_request_field_size": 16_380,
        "control_socket_disable": True,
        "loglevel": "warning",
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108 - gunicorn's heartbeat
    }
    _Server(make_app, options).run()
