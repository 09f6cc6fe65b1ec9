"""Celery messages that a test sends by itself: the same ones as the API's, once more, too late, or wrong."""

from functools import partial
from uuid import uuid4

from celery import Celery

from broker_api.jobs.queue import QUEUES
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store
from tests.dev.stack import Stack
from tests.tenant import eventually


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
        words = (f'"job": "{message}"', f"[{message}] raised", f"'id': '{message}'")
        return any(word in worker.log_text() for worker in self._stack.workers for word in words)
