"""Serves the application with gunicorn: one process, a thread for each call, connections that are kept."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from tests.emulator.app import App

THREADS = 256  # calls that hang keep their thread


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """`make` is called in the serving process. Prints the base URL as one line when it listens."""

    def __init__(self, make: Callable[[], App], host: str, port: int, *, until_stdin_closes: bool) -> None:
        self._make = make
        self._host = host
        self._settings: dict[str, object] = {
            "bind": f"{host}:{port}",
            "worker_class": "gthread",
            "threads": THREADS,
            "keepalive": 60,
            "timeout": 0,
            "graceful_timeout": 0,
            "limit_request_line": 8190,
            "control_socket_disable": True,
            "loglevel": "warning",
            "post_worker_init": self._announce,
            "when_ready": _end_with_stdin if until_stdin_closes else _do_nothing,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> App:
        return self._make()

    def _announce(self, worker: Any) -> None:  # noqa: ANN401 -- gunicorn has no types
        port = worker.sockets[0].getsockname()[1]
        print(f"http://{self._host}:{port}", flush=True)  # noqa: T201 -- what it is started for


def _do_nothing(_arbiter: object) -> None: ...


def _end_with_stdin(_arbiter: object) -> None:
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)
