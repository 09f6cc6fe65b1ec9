"""What the measurements share: the servers, the processes of the clients, and how CPU and memory are read."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.bench import load
from tests.bench.load import Target
from tests.bench.report import Row, compared
from tests.bench.servers import LeanAtlas, OldBroker
from tests.dev.processes import HOST, Running, Server, close_all, start_all
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack

API, WORKER = "api", "worker"
OLD = "atlasbroker 2.0.0"
_TICKS_PER_SECOND = 100

P = ParamSpec("P")
T = TypeVar("T")


class MeasuredStack(Stack):
    """Our broker. Its processes have users of their own in MongoDB, by which the profiler tells them apart."""

    @property
    def api_settings(self) -> dict[str, str]:
        return {**super().api_settings, "BROKER_MONGO_URI": self._uri_of(API)}

    @property
    def worker_settings(self) -> dict[str, str]:
        return {**super().worker_settings, "BROKER_MONGO_URI": self._uri_of(WORKER)}

    def start(self) -> None:
        """Make the users first. A mongod without access control checks users that log in all the same."""
        with self.state.client() as client:
            for user in (API, WORKER):
                if not client.admin.command("usersInfo", user)["users"]:
                    client.admin.command("createUser", user, pwd=user, roles=["root"])
        super().start()

    def wait_for_ends(self) -> None:
        """Wait until no operation goes on. MongoDB is asked, so that the polls of a platform do not count.

        Raises:
            TimeoutError: An operation goes on after two minutes.
        """
        deadline = time.monotonic() + load.PATIENCE_SECONDS
        with self.state.client() as client:
            documents = client[self.database]["instances"]
            while documents.count_documents({"operation.open": True}):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"Operations have not ended after {load.PATIENCE_SECONDS:g} s.")
                time.sleep(0.02)

    def _uri_of(self, user: str) -> str:
        return self.state.uri.replace("mongodb://", f"mongodb://{user}:{user}@") + "&authSource=admin"


class Lab(Running):
    """One MongoDB, Redis and lean Atlas for all brokers that are measured.

    Args:
        short: Measure for a shorter time, at fewer points.
        old_python: The Python of an environment with atlasbroker 2.0.0; None leaves that broker out.
    """

    def __init__(self, *, short: bool, old_python: Path | None) -> None:
        self.short = short
        self.rounds = 1 if short else 3
        self.state, self.redis, self.atlas = Mongod("mongod-state"), Redis(), LeanAtlas()
        self.old = OldBroker(old_python, self.state, self.atlas.uri, self.atlas.project_id) if old_python else None
        self._clients = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
        self._shared: MeasuredStack | None = None
        self._end_of_shared = ExitStack()

    def start(self) -> None:
        """Start all servers but our broker."""
        start_all([self.state, self.redis, self.atlas])
        if self.old:
            self.old.start()
            load.prepare(self.old.target)

    def close(self) -> None:
        self._clients.shutdown()
        self._end_of_shared.close()
        close_all([*([self.old] if self.old else []), self.atlas, self.redis, self.state])

    def broker(self, workers: int = 1) -> MeasuredStack:
        """Return our broker with so many workers, as the measurement before has left it; start it if none has used it.

        An Atlas that answers at once is set.
        """
        if self._shared is None or len(self._shared.workers) != workers:
            self._shared = self._end_of_shared.enter_context(self.new_broker(workers))
        start_all([worker for worker in self._shared.workers if worker.returncode is not None])
        self.atlas.set()
        return self._shared

    @contextmanager
    def new_broker(self, workers: int = 1) -> Iterator[MeasuredStack]:
        """Run our broker with a database of its own, and with an instance to bind to; end that of other measurements.

        An APPLIED counts at once, since the lean Atlas never answers an old one.
        """
        self._end_of_shared.close()
        self._shared = None
        self.redis.flush()
        self.atlas.set()
        self.atlas.clear()
        stack = MeasuredStack(
            workers=workers,
            flower=False,
            forked=False,
            settings={"BROKER_SETTLE_SECONDS": "0"},
            state=self.state,
            cluster=self.atlas.cluster,
            redis=self.redis,
            emulator=self.atlas,
        )
        with stack:
            load.prepare(target_of(stack))
            yield stack

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function of ``load`` in a process of the clients."""
        return self._clients.submit(function, *args, **kwargs)

    def load(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of ``load`` in a process of the clients, and return its result."""
        return self.submit(function, *args, **kwargs).result()

    def alternate(self, ours: Target, measure: Callable[[Target], T]) -> tuple[list[T], list[T]]:
        """Measure ours and the old broker in turns."""
        mine, theirs = [], []
        for _ in range(self.rounds):
            mine.append(measure(ours))
            if self.old:
                theirs.append(measure(self.old.target))
        return mine, theirs


def beside_old(label: str, ours: list[float], old: list[float]) -> Row:
    """Return a row of ours beside the old broker."""
    return compared(label, OLD, ours, old)


def target_of(stack: Stack, poll: float = 0.1) -> Target:
    return Target(HOST, stack.api.port, stack.user, stack.password, poll=poll)


@contextmanager
def cpu_used(*servers: Server) -> Iterator[dict[str, float]]:
    """The dictionary has, afterwards, the share of a core that each server has used meanwhile, by name."""
    before, began = [cpu_seconds(server) for server in servers], time.perf_counter()
    used: dict[str, float] = {}
    yield used
    passed = time.perf_counter() - began
    for server, seconds in zip(servers, before, strict=True):
        used[server.name] = (cpu_seconds(server) - seconds) / passed


def cpu_seconds(server: Server) -> float:
    """Return the CPU time that all processes of a server have used."""
    ticks = 0
    for process in processes_of(server):
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def memory_mb(process: Path) -> float:
    """Return the resident memory of a process in MB; pages that it shares with others count in part (PSS)."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def processes_of(server: Server) -> list[Path]:
    """Return the folders of a server's processes in /proc: all that are in its session."""
    assert server.process is not None, f"{server.name} was never started"
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
        except OSError:
            continue  # it has ended meanwhile
        if int(session) == server.process.pid:
            found.append(folder)
    return found
