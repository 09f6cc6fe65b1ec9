"""Whatever a client of Redis writes into queues and channels, workers drop it with a line in the log and go on."""

import copy
import gzip
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from celery import Celery

from broker_api.jobs.queue import QUEUES
from tests.books import document
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.messages import MARK, MESSAGE, all_wrong, encoded, with_body
from tests.tenant import Json, Tenant, eventually, works

MESSAGES = 800
LONG_MESSAGES = 40_000
LONGEST_LINE = 500
MOST_MEGABYTES = 250

WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**70, 1e300, "", MARK, MARK * 100, "2040-01-01T00:00:00", [], [1], [MARK], [[[]]], {}),
    *({"$ne": 1}, {MARK: MARK}, {"$where": "sleep(1000)"}, "\ud800", "\x00"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - any JSON value
    """The path of each part of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def mutated(message: Json, random: Random) -> Json:
    """The message with one to three of its parts left out, or replaced by something else."""
    made = copy.deepcopy(message)
    for _ in range(random.randint(1, 3)):
        *path, last = random.choice(list(places(made)))
        holder = made
        for key in path:
            holder = holder[key]
        if random.random() < 0.2:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(random.choice(WRONG))
    return made


def forged(tenant: Tenant, binding_id: str, operation: str) -> list[Json]:
    """Well-formed messages about a binding: every job, and a reconciliation that repairs."""
    bodies: list[Any] = [[[tenant.instance_id, binding, operation], {}, {}] for binding in (binding_id, None)]
    bodies.append([["run"], {"repair": True, "run": "run"}, {}])
    headers = [{**MESSAGE["headers"], "task": job, "id": operation} for job in QUEUES]
    return [{**MESSAGE, "headers": each, "body": body} for each in headers for body in bodies]


def most_megabytes(process: int) -> float:
    """The most memory that a process has used so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def test_messages_and_broadcasts_of_any_form_end_no_worker_and_change_nothing(
    fragile: Stack, atlas: Emulator, *, long_form: bool
) -> None:
    random = Random(20261128)
    worker = fragile.workers[0]
    reconciliations = "GET /groups/{groupId}/databaseUsers"
    compared = atlas.counts().get(reconciliations, 0)
    lost_before, logged_before = worker.log_text().count("redis_lost"), len(worker.log_text())
    control = Celery(broker=fragile.redis.uri, set_as_current=False).control
    with fragile.client() as client, fragile.redis.client() as redis:
        tenant = Tenant(client).provision()
        accepted = client.bind(tenant.instance_id, "b-1")
        tenant.succeed(accepted, "b-1")
        credentials = tenant.credentials("b-1")
        before = document(fragile, tenant.instance_id), document(fragile, tenant.instance_id, "b-1"), atlas.users()
        bomb = with_body(gzip.compress(b"0" * 400_000_000, 1), compression="application/x-gzip")
        wrong, genuine = [*all_wrong(), bomb], forged(tenant, "b-1", accepted.operation)
        with redis.pipeline(transaction=False) as pipe:
            for number in range(LONG_MESSAGES if long_form else MESSAGES):
                entry = encoded(mutated(random.choice([MESSAGE, *genuine]), random))
                pipe.lpush(random.choice([*QUEUES.values()]), entry)
                pipe.publish(random.choice(["/0.celery.pidbox", "/0.celeryev/worker.heartbeat"]), entry)
                if number < len(genuine):
                    pipe.lpush("bindings", encoded(genuine[number]))
            for entry in wrong:
                pipe.lpush("bindings", entry)
                pipe.publish("/0.celery.pidbox", entry)
            pipe.execute()
        for command in ("shutdown", "pool_shrink", "cancel_consumer", "revoke", "rate_limit"):
            control.broadcast(command, {"n": 99, "queue": "bindings", "task_id": "1", "task_name": "atlas.bind"})
        assert works(tenant.bind("b-2"))
        eventually(lambda: not any(map(redis.llen, QUEUES.values())), "nothing is left in the queues", 60)
        assert works(tenant.bind("b-3"))
        assert works(credentials)
        tenant.unbind("b-2")
        tenant.unbind("b-3")
    after = document(fragile, tenant.instance_id), document(fragile, tenant.instance_id, "b-1"), atlas.users()
    assert after == before
    assert atlas.counts().get(reconciliations, 0) == compared
    assert not fragile.ended()
    logged = worker.log_text()[logged_before:]
    assert worker.log_text().count("redis_lost") == lost_before
    assert "Traceback" not in logged
    dropped = [line for line in logged.splitlines() if '"message_dropped"' in line]
    assert len(dropped) >= len(wrong)
    assert not any(MARK in line or len(line) > LONGEST_LINE for line in dropped)
    assert worker.process is not None
    assert most_megabytes(worker.process.pid) < MOST_MEGABYTES
