"""The platforms of the benchmark: clients that bind, unbind and poll. They run in a process of their own.

The connections are kept and the requests are written by hand, so that the clients take little of the CPU that they
share with the brokers.
"""

import base64
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Self, TypeVar

from tests.osb_client import PLAN_ID, SERVICE_ID

PATIENCE_SECONDS = 120.0
REMOVERS = 32
METRICS_EVERY = 10
T = TypeVar("T")
INSTANCE_PATH = "/v2/service_instances/bench"
POLL_PATH = f"{INSTANCE_PATH}/service_bindings/polled/last_operation"
_PROVISION = {"organization_guid": "org", "space_guid": "space", "parameters": {"cluster": "bench"}}
_IDS = f"service_id={SERVICE_ID}&plan_id={PLAN_ID}"


class LoadError(Exception):
    """A broker answered something that the benchmark does not expect."""


@dataclass(frozen=True)
class Target:
    """Where a broker listens, and the seconds between two polls of a client.

    atlasbroker 2.0.0 ignores user and password, and is never polled.
    """

    host: str
    port: int
    user: str
    password: str
    poll: float = 0.1


@dataclass
class Loop:
    """What a closed loop did: completed binds with their unbinds, and seconds of single requests and whole binds."""

    pairs: int = 0
    seconds: float = 0.0
    client_cpu: float = 0.0
    accepts: list[float] = field(default_factory=list)
    binds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.pairs / self.seconds


class Client:
    """One connection to a broker, kept."""

    def __init__(self, target: Target) -> None:
        token = base64.b64encode(f"{target.user}:{target.password}".encode()).decode()
        self._head = (
            f"Host: {target.host}\r\nAuthorization: Basic {token}\r\nX-Broker-API-Version: 2.17\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._poll = target.poll
        self._address = (target.host, target.port)
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and body. atlasbroker 2.0.0 closes the connection after each answer."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=PATIENCE_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n".encode() + body)
        received, head, blank = b"", b"", b""
        while not blank:
            received += self._receive()
            head, blank, _ = received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:])
        whole = len(head) + len(blank) + int(fields[b"content-length"])
        while len(received) < whole:
            received += self._receive()
        if lines[0].startswith(b"http/1.0") or fields.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), received[len(head) + len(blank) :]

    def _receive(self) -> bytes:
        data = self._socket.recv(65_536) if self._socket else b""
        if not data:
            raise LoadError("The broker has closed the connection.")
        return data

    def read(self, path: str) -> None:
        """Send a GET; raise LoadError when the answer is not 200."""
        status, answer = self.request("GET", path)
        if status != 200:
            raise LoadError(f"GET {path} was answered with {status}: {answer.decode(errors='replace')}")

    def provision(self) -> None:
        """Make the instance, and wait for it."""
        self._change("PUT", INSTANCE_PATH, _PROVISION)

    def begin_provision(self, instance: str) -> int:
        """Make another instance, without waiting; return the status: 202, or 201 when it is done."""
        return self._accept("PUT", f"/v2/service_instances/{instance}", _PROVISION)

    def bind(self, binding: str) -> float:
        """Bind and wait; return the seconds until the first answer."""
        return self._change("PUT", self.binding(binding), {})

    def begin_bind(self, binding: str) -> int:
        """Bind without waiting; return the status: 202, or 201 when it is done."""
        return self._accept("PUT", self.binding(binding), {})

    def begin_unbind(self, binding: str) -> int:
        """Unbind without waiting; return the status: 202, or 200 when it is done."""
        return self._accept("DELETE", self.binding(binding), None)

    def unbind(self, binding: str) -> None:
        self._change("DELETE", self.binding(binding), None)

    def binding(self, name: str) -> str:
        return f"{INSTANCE_PATH}/service_bindings/{name}"

    def _accept(self, method: str, path: str, fields: Mapping[str, object] | None) -> int:
        """Send a change, and return the status."""
        body = {"service_id": SERVICE_ID, "plan_id": PLAN_ID, **(fields or {})}
        query = "accepts_incomplete=true" + (f"&{_IDS}" if method == "DELETE" else "")
        status, answer = self.request(method, f"{path}?{query}", b"" if fields is None else json.dumps(body).encode())
        if status not in (200, 201, 202):
            raise LoadError(f"{method} {path} was answered with {status}: {answer.decode(errors='replace')}")
        return status

    def wait(self, path: str) -> None:
        """Poll until the operation has succeeded."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        time.sleep(self._poll)
        while not self.has_ended(path):
            if time.monotonic() > deadline:
                raise LoadError(f"The operation on {path} has not ended after {PATIENCE_SECONDS:g} s.")
            time.sleep(self._poll)

    def has_ended(self, path: str) -> bool:
        """Ask for the last operation once; raise LoadError when it has failed."""
        status, answer = self.request("GET", f"{path}/last_operation?{_IDS}")
        if status == 410 or b'"succeeded"' in answer:
            return True
        if b'"in progress"' not in answer:
            raise LoadError(f"The operation on {path} has failed: {answer.decode(errors='replace')}")
        return False

    def _change(self, method: str, path: str, fields: Mapping[str, object] | None) -> float:
        began = time.perf_counter()
        status = self._accept(method, path, fields)
        seconds = time.perf_counter() - began
        if status == 202:
            self.wait(path)
        return seconds


def prepare(target: Target) -> None:
    """Make the instance that the others bind to, and a binding that they poll."""
    with Client(target) as client:
        client.provision()
        client.bind("polled")


def closed_loop(target: Target, clients: int, seconds: float, pause: float = 0.0) -> Loop:
    """Let clients bind and unbind, each one after the other and with a pause after both, until the time is over."""
    loop, lock, names = Loop(), threading.Lock(), _names("loop")
    began, cpu = time.perf_counter(), time.process_time()

    def run(_: int) -> None:
        with Client(target) as client:
            while time.perf_counter() - began < seconds:
                binding, start = next(names), time.perf_counter()
                accepted = client.bind(binding)
                bound = time.perf_counter() - start
                client.unbind(binding)
                with lock:
                    loop.pairs += 1
                    loop.accepts.append(accepted)
                    loop.binds.append(bound)
                time.sleep(pause)

    _together(clients, run)
    loop.seconds, loop.client_cpu = time.perf_counter() - began, time.process_time() - cpu
    return loop


def burst(target: Target, binds: int) -> list[str]:
    """Send so many binds at once, and return their ids."""
    names = list(itertools.islice(_names("burst"), binds))

    def run(number: int) -> None:
        with Client(target) as client:
            client.begin_bind(names[number])

    _together(binds, run)
    return names


def remove(target: Target, names: list[str]) -> None:
    """Unbind all, and wait for the ends."""

    def run(number: int) -> None:
        with Client(target) as client:
            for name in names[number::REMOVERS]:
                client.unbind(name)

    _together(REMOVERS, run)


def reads(target: Target, path: str, connections: int, seconds: float) -> list[float]:
    """Read a path over and over, and return the seconds of each request."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def run(_: int) -> None:
        own: list[float] = []
        with Client(target) as client:
            while (began := time.perf_counter()) < end:
                client.read(path)
                own.append(time.perf_counter() - began)
        times.extend(own)

    _together(connections, run)
    return times


def in_turns(targets: Sequence[Target], count: int) -> dict[str, tuple[list[float], ...]]:
    """Send the same requests to several brokers in turns: binds without waiting, polls and, less often, /metrics.

    Returns:
        The seconds of each request, by the kind of request and then by broker.
    """
    times: dict[str, tuple[list[float], ...]] = {
        kind: tuple([] for _ in targets) for kind in ("accept", "poll", "/metrics")
    }
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(target)) for target in targets]
        for number, name in enumerate(itertools.islice(_names("turn"), count)):
            for place, client in enumerate(clients):
                requests: dict[str, Callable[[], object]] = {
                    "accept": partial(client.begin_bind, name),
                    "poll": partial(client.read, POLL_PATH),
                    "/metrics": partial(client.read, "/metrics"),
                }
                for kind, request in requests.items():
                    if kind != "/metrics" or number % METRICS_EVERY == 0:
                        began = time.perf_counter()
                        request()
                        times[kind][place].append(time.perf_counter() - began)
    return times


def _together(count: int, run: Callable[[int], T]) -> list[T]:
    """Call ``run`` so many times at once; return the results or raise the first exception."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def _names(kind: str) -> Iterator[str]:
    """Return new binding ids, which threads may take from together."""
    stamp = time.time_ns()
    return (f"{kind}-{stamp:x}-{n}" for n in itertools.count())
