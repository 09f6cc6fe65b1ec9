"""A broker in this process, for tests whose subject is what the steps of operations do.

MongoDB, Redis and the emulated Atlas are real, and so are the requests over HTTP; gunicorn and Celery are left out.
"""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from werkzeug.serving import WSGIRequestHandler, make_server

from broker_api.config import Config
from broker_api.jobs.queue import Queue
from broker_api.osb.app import create_app
from broker_api.service.service import Service
from broker_api.settings.redis_settings import RedisSettings
from broker_api.settings.settings import Settings, load
from broker_api.state.records import EPOCH, UNDERSTOOD
from broker_api.state.store import Store
from tests.dev.processes import HOST
from tests.dev.stack import Stack
from workers.context import Context, compose
from workers.engine.sweeper import Sweeper
from workers.operations import compose_runner

TICK_SECONDS = 0.04
"""How often to look for due operations while any is open."""
QUIET_SECONDS = 0.3
"""How often to look for operations that this process has not begun, while none is open."""
THREADS = 16
POLL_SECONDS = {"dedicated": 0.3, "flex": 0.1}
"""The interval of looks at clusters under way, shorter than that of the product."""
OPEN = {"operation.open": True, "operation.due": {"$gte": EPOCH}}
"""Open operations; they all are due after that time, which MongoDB needs to use their index."""
HURRIED_ATTEMPTS = {"$in": [1, 2]}
"""The first retries of an operation come at once; later ones after the pauses of the product."""
HURRY_SECONDS = 0.12
"""How often to look for retries that are to come at once, and for deadlines that have passed."""


class WakingQueue(Queue):
    """A queue that sets an event when a job is sent."""

    def __init__(self, redis: RedisSettings, sent: threading.Event) -> None:
        super().__init__(redis)
        self._sent = sent

    def send(self, job: str, arguments: list[str | None]) -> bool:
        accepted = super().send(job, arguments)
        self._sent.set()
        return accepted


class QuietHandler(WSGIRequestHandler):
    """Keeps connections open, as platforms expect, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class InThisProcess:
    """The parts of the worker, and what the broker has logged since its start."""

    context: Context
    lines: list[Any]

    def log_text(self) -> str:
        return "\n".join(json.dumps(line, default=str) for line in self.lines)


@contextmanager
def in_this_process(stack: Stack, config: Config | None = None) -> Iterator[InThisProcess]:
    """Serve the API and run the operations of a stack whose processes are not started."""
    context = compose(load(stack.worker_settings, "worker", config))
    context.cluster_polls.seconds = dict(POLL_SECONDS)
    settings, wake = load(stack.api_settings, "api", config), threading.Event()
    queue = WakingQueue(settings.redis, wake)
    working = threading.Thread(target=_work, args=(context, wake))
    sweeper = Sweeper(
        store=context.store,
        claims=context.claims,
        housekeeping=context.housekeeping,
        keys=context.keys,
        queue=context.queue,
        stopping=context.stopping,
        check=lambda: None,
    )
    context.store.prepare()
    with (
        capture_logs(processors=[merge_contextvars]) as lines,
        api_in_this_process(settings, context.store, stack.api.port, queue),
    ):
        working.start()
        sweeping = sweeper.start()
        try:
            yield InThisProcess(context, lines)
        finally:
            context.stopping.set()
            wake.set()
            working.join()
            sweeping.join()  # it would log that its client is closed
            context.store.collection.database.client.close()


@contextmanager
def api_in_this_process(settings: Settings, store: Store, port: int = 0, queue: Queue | None = None) -> Iterator[str]:
    """Serve the API on a port, by default any free one; its address."""
    app = create_app(Service.compose(settings, store, queue or Queue(settings.redis)), settings.users)
    server = make_server(HOST, port, app, threaded=True, request_handler=QuietHandler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    serving.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _work(context: Context, wake: threading.Event) -> None:
    """Run each operation that is due, as soon as it is; look at once when the event is set."""
    runner, running, records = compose_runner(context), set[str](), context.store.collection

    def run(key: str, operation: str) -> None:
        try:
            runner.work(key, operation)
        finally:
            running.discard(f"{key} {operation}")

    pause, hurry_at = QUIET_SECONDS, 0.0
    with ThreadPoolExecutor(THREADS) as pool:
        while not context.stopping.is_set():
            wake.wait(pause)
            wake.clear()
            if not records.find_one(OPEN, {"_id": 1}):
                pause = QUIET_SECONDS
                continue  # one query, so that brokers which have nothing to do cost little
            pause, now = TICK_SECONDS, datetime.now(UTC)
            if time.monotonic() > hurry_at:
                hurry_at = time.monotonic() + HURRY_SECONDS
                context.claims.expire()  # the sweeper does this every five seconds only
                later = {"operation.open": True, "operation.due": {"$gt": now}, "operation.attempts": HURRIED_ATTEMPTS}
                records.update_many(later, {"$set": {"operation.due": now}})
            free = {"operation.due": {"$lte": now}, "operation.lease_until": {"$not": {"$gt": now}}}
            for found in records.find({**UNDERSTOOD, "operation.open": True, **free}, {"operation.id": 1}):
                # As with several workers, only the lease keeps a delete from beginning while the step before it runs.
                key, operation = found["_id"], found["operation"]["id"]
                if f"{key} {operation}" not in running:
                    running.add(f"{key} {operation}")
                    pool.submit(run, key, operation)
