"""The production WSGI server: gunicorn with threads.

It hands over the raw path, without which an id with ``%2F`` cannot be told from two path segments, and keeps idle
connections without a thread.
"""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from broker_api.waiting import MOST_WAITING

THREADS = MOST_WAITING + 64
"""Requests that wait for their job each hold a thread; as many again answer polls meanwhile."""
GRACE_SECONDS = 30


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

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        """Answer a request that could not be read."""
        super().handle_error(req, _JsonSocket(client), addr, exc)


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
