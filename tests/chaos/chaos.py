"""A stack that may be broken at will, and mended. Who ended a process is known: one that ended by itself is found."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

from celery import Celery
from pymongo import MongoClient

from broker_api.jobs.queue import QUEUES
from tests.dev.broker import Api, Worker
from tests.dev.processes import Server
from tests.dev.stack import Stack
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually

Document = dict[str, Any]
LEASE_SECONDS = 20.0
"""The longest that anything waits for a worker which was killed."""
USERS = "/databaseUsers"
CLUSTERS = "/(flexC|c)lusters"


class Chaos:
    """One broker with everything around it. Tests break it through these methods or the parts themselves."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.atlas = stack.emulator.control
        self.cluster = stack.emulator.clusters[0]
        self._ended_by_us: set[Server] = set()
        self.celery = Celery("late", broker=stack.redis.uri, set_as_current=False)
        self.state: MongoClient[Document] = MongoClient(stack.state.uri, serverSelectionTimeoutMS=20_000, tz_aware=True)
        self.records = self.state[stack.database]["instances"]

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

    def stop(self, *servers: Server, seconds: float = 40.0) -> list[int]:
        """SIGTERM to all at the same moment; their exit statuses."""
        self._ended_by_us |= set(servers)
        for server in servers:
            server.ask_to_stop()
        return [server.wait_for_end(seconds) for server in servers]

    def start(self, *servers: Server) -> None:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait_until_ready()
        self._ended_by_us -= set(servers)

    def surprises(self) -> str:
        """The reports of processes that ended by themselves."""
        return "\n".join(server.report_of_end() for server in self.stack.ended() if server not in self._ended_by_us)

    def mend(self) -> None:
        """Everything runs and nothing is wrong with it any more; the calls of before are forgotten."""
        for server in self.stack.servers:
            server.resume()
        self.start(*(server for server in self.stack.servers if not server.running))
        self.atlas.heal()
        self.atlas.apply_at_once()
        self.atlas.apply_now()
        self.atlas.put_key(self.atlas.public_key, self.atlas.private_key, [self.atlas.project_id])
        self.atlas.user_limit(10_000)
        self.atlas.put_project(self.atlas.project_id, cluster_limit=10_000)
        self.cluster_times(0)
        self.atlas.lose_flex_deletions(0)
        self.atlas.forget_calls()

    # --- a platform's view ----------------------------------------------------------------------------------------

    def platform(self) -> OsbClient:
        return self.stack.client()

    @contextmanager
    def tenant(self, **parameters: str) -> Iterator[tuple[Tenant, str]]:
        """An instance that is there, and the id of a binding that is not yet."""
        with self.platform() as platform:
            yield Tenant(platform).provision(**parameters), str(uuid4())

    # --- what is behind -------------------------------------------------------------------------------------------

    def open_operations(self) -> int:
        return self.records.count_documents({"operation.open": True})

    def step_down(self) -> None:
        self.state.admin.command("replSetStepDown", 3, force=True)

    def users(self) -> set[str]:
        """Names of the users in Atlas that carry a broker's label; those of other brokers of this project too."""
        alive = (user for user in self.atlas.users() if not user["deleted"])  # one being deleted has no labels, either
        return {user["username"] for user in alive if "atlas-broker" in {label["key"] for label in user["labels"]}}

    def clusters(self, instance_id: str = "") -> list[Document]:
        """Clusters in Atlas that carry a broker's tags, of one instance or of all."""
        tagged = [cluster for cluster in self.atlas.clusters() if "atlas-broker" in cluster["tags"]]
        return [each for each in tagged if not instance_id or each["tags"]["instance_id"] == instance_id]

    def cluster_times(self, seconds: float) -> None:
        """How long clusters that the broker asks for are created, changed and deleted."""
        for kind in ("dedicated", "flex"):
            self.atlas.cluster_times(kind, creating=seconds, updating=seconds, deleting=seconds)

    def reached(self, rule: int, times: int = 1) -> bool:
        """Whether so many calls have come to a rule of the emulator."""
        return [call["fault"] for call in self.atlas.calls()].count(rule) >= times

    def arrives(self, *rules: int) -> None:
        """Wait until each rule has met a call."""
        eventually(lambda: all(self.reached(rule) for rule in rules), "the calls arrive in Atlas")

    def calls_end(self) -> None:
        """Wait until Atlas has answered all, or would have."""
        eventually(lambda: all(call["end"] for call in self.atlas.calls()), "the last calls end")

    def calls(self, method: str, name: str) -> list[Document]:
        """Calls about one user, without digest's first legs and those that make it, whose path has no name."""
        return [call for call in self.atlas.calls(method) if call["path"].endswith(name) and not call["challenge"]]

    def send_again(self, kind: str, instance_id: str, binding_id: str | None, operation_id: str) -> None:
        """A message that comes twice, or late."""
        job = f"atlas.{kind}"
        self.celery.send_task(job, args=[instance_id, binding_id, operation_id], queue=QUEUES[job])


@contextmanager
def breakable_broker(**options: Any) -> Iterator[Chaos]:  # noqa: ANN401 - those of Stack
    settings = {"BROKER_PLANS": "existing,dedicated,flex"} | options.pop("settings", {})
    with Stack(flower=False, settings=settings, **options) as stack:
        chaos = Chaos(stack)
        with chaos.celery, chaos.state:
            yield chaos


@contextmanager
def paused(*servers: Server) -> Iterator[None]:
    """Stopped by SIGSTOP meanwhile."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.resume)
            server.pause()
        yield
