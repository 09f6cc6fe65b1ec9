"""Celery messages that a test makes or sends by itself: the same ones as the API's, once more, too late, or wrong."""

import base64
import json
from functools import partial
from typing import Any
from uuid import uuid4

from celery import Celery

from broker_api.jobs.queue import QUEUES
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store
from tests.dev.stack import Stack
from tests.tenant import Json, eventually

MARK = "planted-word"
MESSAGE: Json = {
    "body": [["i", "b", "o"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        "lang": "py",
        "task": "atlas.bind",
        "id": "1",
        "root_id": "1",
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "[]",
        "stamps": {},
        "stamped_headers": None,
        "eta": None,
        "expires": None,
        "ignore_result": True,
    },
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
"""As Celery writes one, with its body decoded."""


def encoded(message: Json) -> bytes:
    """A message as it is in Redis. A body that is no text is encoded as Celery does."""
    body = message.get("body")
    if isinstance(body, list):
        message = {**message, "body": base64.b64encode(json.dumps(body).encode()).decode()}
    return json.dumps(message).encode()


def with_body(data: bytes, **headers: object) -> bytes:
    made = {**MESSAGE, "body": base64.b64encode(data).decode()}
    return encoded({**made, "headers": {**MESSAGE["headers"], **headers}})


def all_wrong() -> list[bytes]:
    """Messages each of which must be dropped."""
    deep = b"[" * 200_000
    headers: list[Json] = [
        *({"eta": "2040-01-01T00:00:00"}, {"expires": "2001-01-01T00:00:00"}, {"expires": 1e9}, {"eta": MARK}),
        *({"compression": "application/x-gzip"}, {"compression": [MARK]}, {"task": "atlas.rotate"}, {"task": [MARK]}),
        *({"timelimit": [1, 1]}, {"retries": "1"}, {"group": MARK}, {"id": None}, {"id": {MARK: 1}}),
    ]
    bodies: list[Any] = ["no base64 %", None, 1, {MARK: 1}, [], [1, 2, 3], [[], {}, {}], [["i"], {}, {}]]
    parts: list[Json] = [
        *(
            {"content-encoding": [1]},
            {"content-encoding": "binary"},
            {"content-type": "application/x-python-serialize"},
        ),
        *({"headers": None}, {"headers": [MARK]}, {"headers": MARK}, {"properties": None}, {"properties": [1]}),
        *(
            {"properties": {**MESSAGE["properties"], name: value}}
            for name, value in (
                ("body_encoding", MARK),
                ("body_encoding", [1]),
                ("delivery_info", MARK),
            )
        ),
        *({"body": each} for each in bodies),
        *({"body": [["i", "b", operation], {}, {}]} for operation in ({"$ne": 1}, ["x"], None, 1, "", "x" * 2000)),
    ]
    return [
        *(b"{not json", b"\xff", b"", b"[]", b"{}", b"null", b"1", deep, b'{"properties": ' + deep, b" " * 2**20),
        *(with_body(each) for each in (b"not json", deep, deep[:10_000], b"\xff\xfe", b"{}")),
        *(with_body(b'[["i", "b", "o"], {}, {}]', **each) for each in headers),
        *(encoded({**MESSAGE, **each}) for each in parts),
    ]  # fmt: skip


class Messages:
    """Sends messages to the workers of a stack; ``done`` takes the ids that ``send`` has returned."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._app = Celery(broker=stack.redis.uri, set_as_current=False)
        self._app.conf.task_ignore_result = True

    def send(self, job: str, arguments: list[object], keywords: dict[str, object] | None = None) -> str:
        """Jobs that the broker does not know go to the queue ``bindings``."""
        with self._app.connection_for_write() as connection:
            queue = QUEUES.get(job, "bindings")
            sent = self._app.send_task(job, args=arguments, kwargs=keywords, queue=queue, connection=connection)
        return str(sent.id)

    def reconcile(self, *, repair: bool) -> str:
        """A reconciliation, requested as ``atlas-broker reconcile`` does."""
        run = uuid4().hex
        with self._stack.state.client() as client:
            Housekeeping(Store(client, self._stack.database, "instances")).request_reconciliation(run, repair=repair)
        return self.send("maintenance.reconcile", [run])

    def done(self, *ids: str) -> None:
        """Waits until workers have worked these messages off, or refused them, as their logs say."""
        for one in ids:
            eventually(partial(self._said, one), f"message {one} is worked off")

    def _said(self, message: str) -> bool:
        refusals = (f"[{message}] raised", f"'id': '{message}'")
        return any(
            ('"job_finished"' in line and f'"job": "{message}"' in line) or any(words in line for words in refusals)
            for worker in self._stack.workers
            for line in worker.log_text().splitlines()
        )
