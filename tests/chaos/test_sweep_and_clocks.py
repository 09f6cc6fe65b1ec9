"""What the sweep costs when nothing is due, and that no clock but the database's decides anything."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pymongo import MongoClient

from tests.chaos.chaos import Chaos, Document
from tests.chaos.scenarios import binds
from tests.dev.broker import Worker
from tests.dev.processes import CHECKOUT
from tests.tenant import eventually, works

PROFILED_SECONDS = 6.0
TICKS = PROFILED_SECONDS / 0.4


@contextmanager
def profiled(chaos: Chaos) -> Iterator[list[Document]]:
    """The list holds, afterwards, every command on the broker's database meanwhile."""
    commands: list[Document] = []
    with MongoClient[Document](chaos.stack.state.uri) as client:
        database = client[chaos.stack.database]
        database.command("profile", 2)
        try:
            yield commands
        finally:
            database.command("profile", 0)
            commands += database["system.profile"].find({"appName": "atlas-broker"}).sort("ts", 1)
            database.drop_collection("system.profile")


def test_a_sweep_costs_one_indexed_query_when_nothing_is_due(chaos: Chaos) -> None:
    """Among a thousand instances and bindings at rest; its lease costs one more each second."""
    done = {"operation": {"id": "provision-done", "kind": "provision", "state": "succeeded", "open": False}}
    many = [{"_id": f"instance/{uuid4()}", "instance_id": "at rest", "phase": "gone", **done} for _ in range(1000)]
    chaos.records.insert_many(many)
    eventually(lambda: not chaos.open_operations(), "nothing is open", 60.0)
    with profiled(chaos) as commands:
        time.sleep(PROFILED_SECONDS)
    chaos.records.delete_many({"instance_id": "at rest"})
    queries = [each for each in commands if each["op"] == "query" and each["ns"].endswith(".instances")]
    deadlines = [each for each in queries if "deadline" in str(each["command"]["filter"])]
    sweeps = [each for each in queries if each not in deadlines]
    assert TICKS / 3 < len(sweeps) <= TICKS
    assert {each["planSummary"] for each in sweeps} == {"IXSCAN { operation.due: 1 }"}
    assert {each["docsExamined"] for each in sweeps} == {0}
    assert 1 <= len(deadlines) <= 2, "deadlines are looked after every five seconds"
    assert {each["planSummary"] for each in deadlines} == {"IXSCAN { operation.due: 1 }"}
    assert {each["docsExamined"] for each in deadlines} == {0}
    others = [each for each in commands if each["ns"].endswith(".instances") and each not in queries]
    waits = [each for each in others if "warned" in str(each["command"])]
    assert len(waits) <= 1, "long waits are looked for every ten seconds"
    assert [each for each in waits if "IXSCAN" not in each["planSummary"]] == []
    assert {each["docsExamined"] for each in waits} <= {0}
    users = [each for each in others if each not in waits]
    assert len(users) <= 1, "the users of the project are counted every ten seconds"
    assert {each["planSummary"] for each in users} <= {
        "IXSCAN { project: 1, made: 1 }",
        "COUNT_SCAN { project: 1, made: 1 }",
    }
    assert {each["docsExamined"] for each in users} <= {0}


@pytest.mark.parametrize("skew", ["-3h", "+3h"])
def test_a_clock_that_is_wrong_by_hours_does_no_harm(chaos: Chaos, skew: str, *, long_form: bool) -> None:
    """One worker's wall clock is wrong; it and a right one work side by side, and neither takes the other's work."""
    if not long_form:
        pytest.skip("with --long: it needs libfaketime, which is not part of the set-up")
    library = next(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not here (apt install libfaketime)")
    right, other = chaos.stack.workers
    chaos.kill(other)
    wrong = Worker({**chaos.stack.worker_settings, "LD_PRELOAD": str(library), "FAKETIME": skew, **ONLY_WALL}, "wrong")
    with wrong, chaos.tenant() as (tenant, _):
        rule = chaos.atlas.hang("POST", "/databaseUsers", seconds=3, when="after", times=6)
        answers = binds(tenant, 6)
        chaos.arrives(rule)
        for each, answer in answers.items():
            chaos.send_again("bind", tenant.instance_id, each, answer.operation)
        for each, answer in answers.items():
            tenant.succeed(answer, each)
            assert works(tenant.credentials(each))
            assert not chaos.calls("PATCH", each), "two workers made the same user"
        chaos.kill(right)
        assert works(tenant.bind())
        tenant.deprovision()


ONLY_WALL = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "0"}
"""Clocks of machines differ in what time it is, not in how fast it goes."""


CLOCK = re.compile(r"datetime\.now|time\.time\(|utcnow|date\.today")
ALLOWED = {
    "broker_api/logs.py": "the time of a log line",
    "workers/job_states.py": "until when a job waits, as Flower shows it",
    "workers/atlas/": "how long a token lives, and what a Retry-After that is a date means: Atlas's own times",
    "broker_api/server.py": "which directories of servers that were killed are old: of this machine, by its own clock",
}


def test_no_decision_is_made_by_a_processs_own_clock() -> None:
    files = [*(CHECKOUT / "broker_api").rglob("*.py"), *(CHECKOUT / "workers").rglob("*.py")]
    using = {str(file.relative_to(CHECKOUT)) for file in files if CLOCK.search(file.read_text())}
    assert not {file for file in using if not file.startswith(tuple(ALLOWED))}
