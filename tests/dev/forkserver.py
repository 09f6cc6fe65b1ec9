"""Start servers written in Python as forks of a process that has already imported most of what they import.

Their imports take one to two seconds of CPU, which each API and each worker of a test run would spend again. What runs
is the same: the main module of the command, in a process and a session of its own, with its own environment.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.dev.processes import CHECKOUT, Child, Server, clean_environment

IMPORTED = (
    "arrow",
    "broker_api.jobs.redis_transport",
    "broker_api.service.service",
    "broker_api.state.encryption_key_check",
    "broker_api.state.operation_claims",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.worker.components",
    "celery.worker.consumer.gossip",
    "click_repl",
    "cryptography.fernet",
    "cryptography.hazmat.primitives.kdf.scrypt",
    "deprecated",
    "flask",
    "gunicorn.app.base",
    "gunicorn.workers.gthread",
    "humanize",
    "jsonschema",
    "kombu.transport.redis",
    "limits",
    "opentelemetry.sdk.metrics",
    "opentelemetry.trace",
    "pydantic_settings",
    "pymongo",
    "redis.sentinel",
    "requests",
    "structlog",
    "tornado.web",
)
"""What is imported before the first fork; not ``prometheus_client``, which then reads a variable that the API sets."""
OWN_VARIABLES = ("BROKER_", "MONGODB_ATLAS_")
"""How the variables begin that no import reads; others may have to be there when a process begins."""
PR_SET_PDEATHSIG = 1


class Fork:
    """A process that was forked; it is used as a ``subprocess.Popen`` is."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, the negative number of the signal that ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended; raise ``subprocess.TimeoutExpired`` after so many seconds."""
        while (status := self.poll()) is None:
            end = os.pidfd_open(self.pid)  # until it is polled, no other process is given its number
            readable, _, _ = select.select([end], [], [], timeout)
            os.close(end)
            if not readable:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """A process that forks on demand, and ends with this one, since its standard input is closed then."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = threading.Lock()

    def ask(self, **question: object) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to ``start=…``, the number of the process, or to ``ended=…``, an exit status or None."""
        with self._asking:
            self._process = self._process or subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=CHECKOUT,
                env=clean_environment({}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The fork server has ended; its last lines on the standard error say why.")
        return json.loads(answer)


_server = ForkServer()
"""The one of this process, which several threads use; it begins with the first question."""


def fork(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> Fork | None:
    """Start a Python program as ``processes.spawn`` does.

    Return None for another program, and where the process needs variables from its first moment on.
    """
    parts = [str(part) for part in command]
    python = parts[:2] == [sys.executable, "-m"] or Path(parts[0]).parent == Path(sys.executable).parent
    if not python or not all(name.startswith(OWN_VARIABLES) for name in environment):
        return None
    start = {"command": parts, "log": str(log), "environment": clean_environment(environment)}
    return Fork(_server, _server.ask(start=start))


class PythonServer(Server):
    """A server whose command is a Python program."""

    forked = True
    """Whether to save the time that its imports take."""

    def spawn(self) -> Child:
        forked = fork(self.command(), self.log, self.settings) if self.forked else None
        return forked or super().spawn()


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the other end is closed; in a fork, return when its command has ended."""
    for line in questions:
        question = json.loads(line)
        if pid := question.get("ended"):
            found, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
        else:
            has_session, in_fork = os.pipe()
            answer = os.fork()
            if not answer:
                os.close(has_session)
                os.setsid()
                os.close(in_fork)
                run(**question["start"])
                return
            os.close(in_fork)
            os.read(has_session, 1)  # a signal to its group finds it from now on
            os.close(has_session)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def run(command: list[str], log: str, environment: dict[str, str]) -> None:
    """Be the process of this command."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, file in enumerate((nothing, output, output)):
        os.dup2(file, stream)
    os.close(nothing)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    assert "prometheus_client" not in sys.modules
    gc.freeze()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
