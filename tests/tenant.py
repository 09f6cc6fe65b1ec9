"""A platform's user: has an instance and bindings, waits for them, and logs in with what it was given."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import uuid4

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from broker_api.jobs.queue import FAILURE_PAUSE_SECONDS
from tests.osb_client import Answer, OsbClient, growing_pauses

T = TypeVar("T")
Json = dict[str, Any]
CLUSTER = "cluster-dev"
PROMISED_SECONDS = 2.0
"""Within which a request is answered whatever ails Redis, see ``in_time``."""
ACCEPTED_SECONDS = 15.0
"""The same for each single request, also on a machine that is busy with other tests."""
REDIS_STALLED = "no answer in time"
"""The reason in logs and sentences when Redis was slow, as on a busy machine; all other reasons are faults."""
LOG_IN_REFUSED = (18, 11, 17)
"""MongoDB's error codes: wrong, and of a user that was dropped or created during the log-in."""
UNAUTHORIZED = 13


class Tenant:
    """One instance. Every method that ends an operation fails the test when it does not succeed."""

    def __init__(self, client: OsbClient, instance_id: str = "") -> None:
        self.client = client
        self.instance_id = instance_id or str(uuid4())

    @property
    def database(self) -> str:
        return f"instance-{self.instance_id}"

    def provision(self, **parameters: object) -> "Tenant":
        self.succeed(self.client.provision(self.instance_id, {"cluster": CLUSTER, **parameters}))
        return self

    def update(self, **parameters: object) -> None:
        self.succeed(self.client.update(self.instance_id, parameters))

    def deprovision(self) -> None:
        self.succeed(self.client.deprovision(self.instance_id))

    def bind(self, binding_id: str = "", **parameters: object) -> Json:
        """The credentials."""
        binding_id = binding_id or str(uuid4())
        self.succeed(self.client.bind(self.instance_id, binding_id, parameters), binding_id)
        return self.credentials(binding_id)

    def credentials(self, binding_id: str) -> Json:
        return credentials(self.client, self.instance_id, binding_id)

    def unbind(self, binding_id: str) -> None:
        self.succeed(self.client.unbind(self.instance_id, binding_id), binding_id)

    def succeed(self, accepted: Answer, binding_id: str | None = None) -> None:
        succeeds(self.client, accepted, self.instance_id, binding_id)

    def end(self, accepted: Answer, binding_id: str | None = None) -> Answer:
        """The last answer to the polls, which may say that it failed."""
        return ends(self.client, accepted, self.instance_id, binding_id)


def ends(
    client: OsbClient, accepted: Answer, instance_id: str, binding_id: str | None = None, seconds: float = 100
) -> Answer:
    """Return the last answer to the polls of an operation that was accepted; it may say that the operation failed."""
    assert accepted.status == 202, accepted.text
    return client.wait(instance_id, binding_id, accepted.operation, seconds=seconds)


def succeeds(
    client: OsbClient, accepted: Answer, instance_id: str, binding_id: str | None = None, seconds: float = 100
) -> None:
    ended = ends(client, accepted, instance_id, binding_id, seconds)
    assert ended.state in ("succeeded", "gone"), ended.text


def credentials(client: OsbClient, instance_id: str, binding_id: str) -> Json:
    answer = client.binding(instance_id, binding_id)
    assert answer.status == 200, answer.text
    found: Json = answer.json["credentials"]
    return found


def log_in(credentials: Json) -> MongoClient[Json]:
    return MongoClient(credentials["uri"], serverSelectionTimeoutMS=5000)


def works(credentials: Json) -> bool:
    """Return whether the credentials can log in; raise every trouble but a refusal."""
    try:
        with log_in(credentials) as cluster:
            cluster[credentials["database"]]["things"].find_one()
    except OperationFailure as error:
        if error.code not in LOG_IN_REFUSED:
            raise
        return False
    return True


def together(*acts: Callable[[], T]) -> list[T]:
    """Call all, none before the threads of all run; return the results in order.

    Each thread runs before the next one starts: two threads that start at the same moment cannot both install the trace
    function of coverage in CPython 3.11, and one of them ends.
    """
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], T], began: threading.Event) -> T:
        began.set()
        start.wait(30)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        results = []
        for act in acts:
            began = threading.Event()
            results.append(pool.submit(run, act, began))
            began.wait(30)
        return [result.result() for result in results]


def eventually(look: Callable[[], T | None], what: str = "", seconds: float = 30.0) -> T:
    """Return what ``look`` returns once that is true; fail with ``what`` after ``seconds``.

    The last look begins after that time: a busy machine may stop this process for long between a look and the clock.
    """
    deadline = time.monotonic() + seconds
    pauses = growing_pauses()
    while True:
        is_last = time.monotonic() > deadline
        if seen := look():
            return seen
        assert not is_last, f"not within {seconds:g} s: {what or 'it'} (still {seen!r})"
        time.sleep(next(pauses))


def in_time(ask: Callable[[], Answer]) -> Answer:
    """Return the first answer that comes within the seconds that are promised; fail when five requests take longer.

    A busy machine may hold up single requests. The next one is sent when the API's pause after a failure is over, so
    that it waits for Redis as the first one did.
    """
    for _ in range(5):
        answer = ask()
        assert answer.seconds < ACCEPTED_SECONDS
        if answer.seconds < PROMISED_SECONDS:
            return answer
        time.sleep(FAILURE_PAUSE_SECONDS + 0.1)
    raise AssertionError(f"five requests took more than {PROMISED_SECONDS:g} s each")


def redis_is_well(client: OsbClient) -> None:
    """Wait until /ready says so: on a busy machine a single answer of Redis may come too late."""
    eventually(lambda: client.ready().json["redis"] == "ok", "/ready says that Redis is well")


def log_lines(text: str) -> list[Json]:
    """Return all lines of a process's log; fail when one is no JSON object with the fields of each line."""
    found: list[Json] = [json.loads(line) for line in text.splitlines()]
    assert [line for line in found if not {"event", "level", "logger", "timestamp"} <= line.keys()] == []
    return found


def log_events(text: str) -> list[Json]:
    """The JSON lines of a process's log."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
