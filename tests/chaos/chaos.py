"""A stack that may be broken at will, and mended. Who ended a process is known: one that ended by itself is found."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from celery import Celery
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from tests.dev.broker import Api, Worker
from tests.dev.processes import Server
from tests.dev.stack import Stack
from tests.osb_client import Answer, OsbClient

Document = dict[str, Any]
QUEUES = {"instances": ("provision", "update", "deprovision"), "bindings": ("bind", "unbind")}
LEASE_SECONDS = 20.0
"""The longest that anything waits for a worker which was killed."""
AUTHENTICATION_FAILED = 18
USERS = "/databaseUsers"


def until(what: str, happens: Callable[[], Any], seconds: float = 20.0) -> Any:  # noqa: ANN401 - whatever it waits for
    """Look until it happens; AssertionError with ``what`` when it does not."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found


class Chaos:
    """One broker with everything around it. Tests break it through these methods or the parts themselves."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.atlas = stack.emulator.control
        self.cluster = stack.emulator.clusters[0]
        self._ended_by_us: set[Server] = set()
        self._celery = Celery("late", broker=stack.redis.uri, set_as_current=False)
        self._state: MongoClient[Document] = MongoClient(
            stack.state.uri, serverSelectionTimeoutMS=20_000, tz_aware=True
        )

    def close(self) -> None:
        self._celery.close()
        self._state.close()

    # --- processes ------------------------------------------------------------------------------------------------

    @property
    def broker(self) -> list[Api | Worker]:
        """The broker's own processes: nobody but the suite may end them."""
        return [self.stack.api, *self.stack.workers]

    def kill(self, *servers: Server) -> None:
        """SIGKILL to all at the same moment."""
        self._ended_by_us |= set(servers)
        for server in servers:
            server.kill()

    def stop(self, server: Server, seconds: float = 40.0) -> int:
        """SIGTERM; its exit status."""
        self._ended_by_us.add(server)
        return server.stop(seconds)

    def ask_to_stop(self, server: Server) -> None:
        """SIGTERM, without waiting for what it does."""
        self._ended_by_us.add(server)
        server.ask_to_stop(signal.SIGTERM)

    def start(self, *servers: Server) -> None:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_until_ready()
        self._ended_by_us -= set(servers)

    def surprises(self) -> list[str]:
        """The reports of processes that ended by themselves."""
        return [server.report_of_end() for server in self.stack.ended() if server not in self._ended_by_us]

    def mend(self) -> None:
        """Everything runs and nothing is wrong with it any more."""
        for server in self.stack.servers:
            server.resume()
        down = [server for server in self.stack.servers if not server.running]
        self.start(*down)
        self.atlas.heal()
        self.atlas.apply_at_once()
        self.atlas.apply_now()
        self.atlas.put_key(self.atlas.public_key, self.atlas.private_key, [self.atlas.project_id])

    # --- a platform's view ----------------------------------------------------------------------------------------

    def platform(self) -> OsbClient:
        return self.stack.client()

    def instance(self, platform: OsbClient, **parameters: str) -> str:
        """An instance that is there."""
        instance_id = str(uuid4())
        answer = platform.provision(instance_id, {"cluster": self.cluster, **parameters})
        succeeds(platform, answer, instance_id)
        return instance_id

    def binding(self, platform: OsbClient, instance_id: str) -> str:
        """A binding that is there."""
        binding_id = str(uuid4())
        succeeds(platform, platform.bind(instance_id, binding_id), instance_id, binding_id)
        return binding_id

    # --- what is behind -------------------------------------------------------------------------------------------

    @property
    def records(self) -> Collection[Document]:
        """The broker's collection."""
        return self._state[self.stack.database]["instances"]

    @property
    def housekeeping(self) -> Collection[Document]:
        return self._state[self.stack.database]["instances_housekeeping"]

    def operation(self, operation_id: str) -> Document:
        """The document of an operation, {} when there is none (or another one has followed it)."""
        found = self.records.find_one({"operation.id": operation_id})
        return dict(found["operation"]) if found else {}

    def users(self) -> set[str]:
        """Names of the users in Atlas that carry a broker's label; those of other brokers of this project too."""
        alive = (user for user in self.atlas.users() if not user["deleted"])  # one being deleted has no labels, either
        return {user["username"] for user in alive if "atlas-broker" in {label["key"] for label in user["labels"]}}

    def reached(self, rule: int, times: int = 1) -> bool:
        """Whether so many calls have come to a rule of the emulator."""
        return len([call for call in self.atlas.calls() if call["fault"] == rule]) >= times

    def arrives(self, *rules: int) -> None:
        """Wait until each rule has met a call."""
        until("the calls arrive in Atlas", lambda: all(self.reached(rule) for rule in rules))

    def calls(self, method: str, name: str) -> list[Document]:
        """Calls about one user, without digest's first legs and those that make it, whose path has no name."""
        return [call for call in self.atlas.calls(method) if call["path"].endswith(name) and not call["challenge"]]

    def send_again(self, kind: str, instance_id: str, binding_id: str | None, operation_id: str) -> None:
        """A message that comes twice, or late."""
        queue = next(queue for queue, kinds in QUEUES.items() if kind in kinds)
        self._celery.send_task(f"atlas.{kind}", args=[instance_id, binding_id, operation_id], queue=queue)


def succeeds(
    platform: OsbClient, answer: Answer, instance_id: str, binding_id: str | None = None, seconds: float = 60.0
) -> Answer:
    """An accepted operation that ends well."""
    assert answer.status == 202, answer.text
    ended = platform.wait(instance_id, binding_id, answer.operation, seconds=seconds)
    assert ended.state in ("succeeded", "gone"), ended.text
    return ended


def credentials(platform: OsbClient, instance_id: str, binding_id: str) -> Mapping[str, str]:
    answer = platform.binding(instance_id, binding_id)
    assert answer.status == 200, answer.text
    given: Mapping[str, str] = answer.json["credentials"]
    return given


def logs_in(given: Mapping[str, str]) -> bool:
    """Whether these credentials can read their database on the real mongod."""
    with MongoClient[Document](given["uri"], serverSelectionTimeoutMS=5000) as client:
        try:
            client[given["database"]]["any"].find_one()
        except OperationFailure as error:
            if error.code == AUTHENTICATION_FAILED:
                return False
            raise
    return True


@contextmanager
def paused(servers: Iterable[Server]) -> Iterator[None]:
    """Stopped by SIGSTOP meanwhile."""
    stopped = list(servers)
    with contextlib.ExitStack() as stack:
        for server in stopped:
            stack.callback(server.resume)
            server.pause()
        yield
