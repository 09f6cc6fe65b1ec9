"""What somebody puts into Redis ends no worker, and does not come back: it is logged and thrown away."""

import base64
import copy
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dev.stack import Stack
from tests.tenant import Tenant, eventually, works

Json = dict[str, Any]

MESSAGE: Json = {
    "body": base64.b64encode(json.dumps([["i", "b", "o"], {}, {}]).encode()).decode(),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"lang": "py", "task": "atlas.bind", "id": "1", "root_id": "1", "parent_id": None, "group": None},
    "properties": {
        "correlation_id": "1",
        "reply_to": "r",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "bindings"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "tag",
    },
}
"""As Celery writes one."""

WRONG: tuple[Any, ...] = (None, 1, "text", [], {}, True, 1e300)


def variants() -> Iterator[Json]:
    """The message with each of its parts left out, and with each replaced by something of another type."""
    paths = [
        *[(key,) for key in MESSAGE],
        *[("headers", key) for key in (*MESSAGE["headers"], "eta", "expires", "timelimit", "retries", "stamps")],
        *[("properties", key) for key in MESSAGE["properties"]],
        *[("properties", "delivery_info", key) for key in ("exchange", "routing_key", "priority")],
    ]
    for path in paths:
        for wrong in (..., *WRONG):
            made = copy.deepcopy(MESSAGE)
            holder = made
            for key in path[:-1]:
                holder = holder[key]
            if wrong is ...:
                holder.pop(path[-1], None)
            else:
                holder[path[-1]] = wrong
            yield made


def body(data: bytes, **headers: Any) -> bytes:  # noqa: ANN401 - any JSON value
    made = {**MESSAGE, "body": base64.b64encode(data).decode()}
    return json.dumps({**made, "headers": {**MESSAGE["headers"], **headers}}).encode()


DEEP = b"[" * 100_000
ODD = [
    b"{not json",
    b"\xff",
    b"",
    b"[]",
    b"{}",
    b"null",
    b"1",
    DEEP,
    b'{"properties": ' + DEEP,
    body(b"not json"),
    body(b"not json", expires="2001-01-01T00:00:00"),
    body(b"[[],{},{}]", expires="no date", eta="no date"),
    body(DEEP),
    body(b"\xff\xfe"),
    body(b"{}"),
    body(b"[]"),
    body(b"[1,2,3]"),
    body(json.dumps([[], {}, {"callbacks": [1]}]).encode()),
    body(zlib.compress(b"x"), compression="wrong"),
    body(b"x", compression=["a"]),
    json.dumps({**MESSAGE, "body": "no base64 %"}).encode(),
    json.dumps({**MESSAGE, "content-type": "application/x-python-serialize"}).encode(),
    json.dumps({**MESSAGE, "content-encoding": "no-such"}).encode(),
    json.dumps({**MESSAGE, "content-encoding": "binary"}).encode(),
    body(b"[[],{},{}]", task="no.such"),
    body(b"[[],{},{}]", ignore_result="x", shadow=1),
]


def by_queue(stack: Stack) -> Callable[[bytes], object]:
    redis = stack.redis.client()
    return lambda entry: redis.lpush("bindings", entry)


def by_broadcast(stack: Stack) -> Callable[[bytes], object]:
    redis = stack.redis.client()
    return lambda entry: redis.publish("/0.celery.pidbox", entry)


@pytest.mark.parametrize("way", [by_queue, by_broadcast])
def test_malformed_messages_end_no_worker_and_do_not_come_back(
    fragile: Stack, way: Callable[[Stack], Callable[[bytes], object]]
) -> None:
    put = way(fragile)
    lost_before = fragile.workers[0].log_text().count("redis_lost")
    bomb = body(gzip.compress(b"0" * 50_000_000), compression="application/x-gzip")
    for entry in (bomb, *ODD, *[json.dumps(each).encode() for each in variants()]):
        put(entry)
    for number in range(40):  # more than a worker may hold unacknowledged
        put(json.dumps({**MESSAGE, "headers": {"task": number}}).encode())
    with fragile.client() as client, fragile.redis.client() as redis:
        tenant = Tenant(client).provision()
        assert works(tenant.bind())
        eventually(lambda: not redis.hlen("unacked"), f"nothing is left: {redis.hgetall('unacked')!r}"[:500])
        assert not redis.llen("bindings")
    assert not fragile.ended()
    assert fragile.workers[0].log_text().count("redis_lost") == lost_before


def test_unacknowledged_entries_that_are_malformed_are_forgotten(fragile: Stack) -> None:
    """They may come from an older release, which stored what it could not handle."""
    with fragile.redis.client() as redis:
        for number, entry in enumerate((*ODD, b"[1]", b"[1, 2, 3]", b'[{}, "", "bindings"]')):
            redis.hset("unacked", str(number), entry)
            redis.zadd("unacked_index", {str(number): 1})
    fragile.workers[0].restart()
    with fragile.redis.client() as redis, fragile.client() as client:
        eventually(lambda: not redis.zcard("unacked_index"), "all are gone", seconds=150)
        assert works(Tenant(client).provision().bind())
    assert not fragile.ended()
