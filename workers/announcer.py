"""Announces in MongoDB which queues this worker consumes, as long as it really consumes them."""

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib.metadata import version

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.announcements import (
    ANNOUNCE_SECONDS,
    KEY_REFUSED,
    NEAR_RATE_LIMIT,
    RATE_LIMITED,
    WRONG_ENCRYPTION_KEYS,
    Announcements,
)
from workers.context import Context

CONSUMER_CHECK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Announcer:
    """The announcements of one worker process, written by a thread."""

    def __init__(self, context: Context, name: str, consumed_queues: Callable[[], Collection[str]]) -> None:
        """Create it.

        Args:
            context: The parts of the worker.
            name: Celery's name of the worker.
            consumed_queues: Returns what it consumes now; nothing while it cannot.
        """
        self._context = context
        self._consumed_queues = consumed_queues
        about = {"name": name, "host": socket.gethostname(), "pid": os.getpid(), "version": version("atlas-broker")}
        self._announcements = Announcements(context.housekeeping, about)

    def start(self) -> None:
        """Announce in a background thread until the process stops."""
        threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def _run(self) -> None:
        announced: Collection[str] = []
        due_at = 0.0
        while not self._context.stopping.wait(CONSUMER_CHECK_SECONDS):
            try:
                queues = self._consumed_queues()
                if queues == announced and (not queues or time.monotonic() < due_at):
                    continue
                if self._write(queues):
                    announced = queues
                due_at = time.monotonic() + ANNOUNCE_SECONDS
            except Exception:  # no error of one round may end the loop
                log.exception("announce_failed")
        self._write([])
        with suppress(ErrStorageMongoConnection):
            self._context.store.report.flush()

    def _write(self, queues: Collection[str]) -> bool:
        """Announce the queues; return whether MongoDB has taken it."""
        try:
            if queues:
                self._announcements.announce(queues, self._troubles())
            else:
                self._announcements.withdraw()
        except ErrStorageMongoConnection:
            return False
        return True

    def _troubles(self) -> Mapping[str, Collection[str]]:
        projects = self._context.projects
        found = {
            KEY_REFUSED: [name for name, each in projects.items() if each.breaker.key_refused],
            RATE_LIMITED: [name for name, each in projects.items() if each.limiter.paused],
            NEAR_RATE_LIMIT: [name for name, each in projects.items() if each.limiter.slowed],
            WRONG_ENCRYPTION_KEYS: [] if self._context.keys.passes() else [""],
        }
        return {trouble: names for trouble, names in found.items() if names}
