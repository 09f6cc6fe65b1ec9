"""Child processes that never outlive the process which started them, and leave nothing on the disk.

Three mechanisms ensure that: leaving the context kills the child's process group; the kernel kills the child when its
parent is killed (SIGKILL); a shell that waits for the end of the parent removes the directory.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self

CHECKOUT = Path(__file__).parents[2]
HOST = "127.0.0.1"
NO_PROXY = dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},::1,localhost")
"""The variables that keep requests to this machine away from any proxy."""
_PORTS = range(15_000, 32_000)
"""Below the ephemeral range: a client that reconnects to a server which is down must not be given the server's port."""
_given: list[int] = []
"""The files whose locks keep other processes from the ports that this process has been given, until it ends."""


def free_port() -> int:
    """Return a port of the loopback address that is free and that no process has been given that still runs.

    A server opens its port only a while later, and one that is restarted leaves it for a while. Meanwhile another test
    run, or another process of the same one, must not get it: its clients would talk to the wrong server.
    """
    for port in random.sample(_PORTS, 200):
        if take_port(port):
            return port
    raise RuntimeError(f"No free port between {_PORTS.start} and {_PORTS.stop}.")


def take_port(port: int) -> bool:
    """Take a port for this process until it ends; return whether it was free on every address, and not taken before."""
    directory = Path(tempfile.gettempdir(), f"atlas-broker-ports-{os.getuid()}")
    directory.mkdir(exist_ok=True)
    lock = os.open(directory / str(port), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.bind(("", port))
    except OSError:
        os.close(lock)
        return False
    _given.append(lock)
    return True


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without the broker's settings, proxies and buffered output.

    It may be called in a thread: pytest changes its own variable meanwhile, so that ``os.environ.items()`` would fail.
    """
    dropped = ("BROKER_", "MONGODB_ATLAS_", "CELERY_", "FLOWER_", "PYTEST_")
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(dropped)}
    return {**kept, **NO_PROXY, "PYTHONUNBUFFERED": "1", **extra}


def run_to_end(
    command: Sequence[str | Path], settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout with these settings of the broker and no others; return its end and its output."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=CHECKOUT,
        env=clean_environment(settings or {}),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@functools.cache
def run_directory() -> Path:
    """One temporary directory for all children of this process; gone when the process is, however it ends."""
    directory = Path(tempfile.mkdtemp(prefix="atlas-broker-"))
    janitor = 'cat >/dev/null; for _ in 1 2 3; do rm -rf "$1" && exit; sleep 1; done'
    # Only this process holds the other end of the janitor's standard input: it ends when the process ends.
    process = subprocess.Popen(
        ["sh", "-c", janitor, "janitor", str(directory)], stdin=subprocess.PIPE, start_new_session=True
    )
    atexit.register(process.communicate)
    return directory


_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="launcher")
"""One thread forks all children: the kernel's death signal is sent when the *thread* that forked ends."""


def spawn(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a child in its own session (Ctrl-C does not reach it), killed by the kernel if this process dies."""
    setpriv = shutil.which("setpriv")
    tied = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    with log.open("ab") as output:
        child = _launcher.submit(
            lambda: subprocess.Popen(
                [*tied, *map(str, command)],
                cwd=CHECKOUT,
                env=clean_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return child.result()


def script(name: str) -> Path:
    """Return a command of this virtual environment; raise RuntimeError when the checkout is not installed in it."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise RuntimeError(f"There is no command {name} beside {sys.executable}: run pip install -e '.[dev]' first.")
    return path


class Child(Protocol):
    """What is used of a ``subprocess.Popen``."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None, /) -> int: ...

    def send_signal(self, number: int, /) -> None: ...


class Running(ABC):
    """What is started when entered, and ended when left or when the start fails."""

    @abstractmethod
    def start(self) -> object: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server(Running):
    """A child process with a port and a directory of its own; the same port and data after ``restart()``."""

    ready_seconds = 180.0
    stop_signal = signal.SIGTERM
    """What ends the process for good; SIGKILL where a clean stop would only save its data."""

    def __init__(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.settings = settings or {}
        self.port = free_port()
        self.home = run_directory() / f"{name}-{self.port}"
        self.log = self.home / "log"
        self.process: Child | None = None
        self._group_ended = True  # the number of a group that has ended may be reused
        self._log_start = 0

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    @abstractmethod
    def command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server serves; ask once, for at most a second. A connection error means no."""

    def prepare(self) -> None:
        """Do what a server needs after its first answer, once for its data."""

    def start(self) -> Self:
        """Return once the server serves; RuntimeError with the end of its log when it does not get there."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        self.home.mkdir(exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self.process = self.spawn()
        self._group_ended = False

    def spawn(self) -> Child:
        return spawn(self.command(), self.log, self.settings)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_seconds
        while not self._probe():
            if self.returncode is not None:
                raise RuntimeError(self._trouble(f"ended with status {self.returncode} before it was ready"))
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(self._trouble(f"was not ready after {self.ready_seconds:g} s"))
            time.sleep(0.1)  # the process that starts needs the processor more than the question
        self.prepare()

    def _probe(self) -> bool:
        try:
            return self.answers()
        except Exception:  # noqa: BLE001 - each client library has its own errors for a server that does not listen
            return False

    def report_of_end(self) -> str:
        return self._trouble(f"ended with status {self.returncode}")

    def _trouble(self, what: str) -> str:
        return f"{self.name} {what}; the end of its log:\n{self.log_tail()}"

    def log_text(self) -> str:
        """Return what the process has written since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-25:])

    @property
    def returncode(self) -> int | None:
        """None while it runs (or was never started)."""
        return self.process.poll() if self.process else None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """To the whole group: gunicorn has children of its own."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the whole group, so that no child of the process is left either."""
        if self.process and not self._group_ended:
            self.send(signal.SIGKILL)
            self.process.wait()
            self._group_ended = True

    def stop(self, seconds: float = 10.0) -> int:
        """Send SIGTERM, and SIGKILL after ``seconds``; return the exit status."""
        self.ask_to_stop()
        return self.wait_for_end(seconds)

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the leader only, which ends its own children."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)

    def wait_for_end(self, seconds: float) -> int:
        assert self.process is not None, f"{self.name} was never started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.kill()
        return self.process.wait()

    def restart(self) -> Self:
        """Start again, on the same port and data; stop first what runs."""
        if self.running:
            self.stop()
        return self.start()

    def close(self) -> None:
        """End it for good and remove its data."""
        close_all([self])

    def remove(self) -> None:
        """The second half of ``close()``: wait for the end and remove the data."""
        if self.process:
            self.wait_for_end(10.0)
        shutil.rmtree(self.home, ignore_errors=True)


def start_all(servers: Sequence[Server]) -> None:
    """Start all at the same time; raise the first error once every attempt has ended."""
    with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
        for started in [pool.submit(server.start) for server in servers]:
            started.result()


def close_all(servers: Sequence[Server]) -> None:
    """Send every server its signal, once (a second SIGTERM means hurry), then wait for each."""
    for server in servers:
        server.ask_to_stop(server.stop_signal)
    for server in servers:
        server.remove()


def descendants(pid: int) -> list[int]:
    """All processes that descend from a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]
