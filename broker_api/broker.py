"""``Broker(config)``: composes the API; ``run()`` is a complete broker in one command."""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import entry_points

import structlog
from flask import Flask

from broker_api import logs, parent, server
from broker_api.catalog.catalog import Catalog
from broker_api.config import Config
from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.jobs.queue import Queue
from broker_api.osb.app import create_app
from broker_api.service.service import Service
from broker_api.settings import settings
from broker_api.settings.settings import Settings
from broker_api.state.key_check import KeyCheck, check_at_start
from broker_api.state.mongo import connect
from broker_api.state.store import Store
from broker_api.state.vault import Vault

log = structlog.get_logger(__name__)

PREPARE_SECONDS = 2.0
RESTART_SECONDS = 1.0
DESCRIPTORS = 1024
"""The highest file descriptor that a listening socket may have; it is opened early and has a low one."""


class Broker:
    """The API on a ``Config``; with ``config=None`` on the one that the environment names.

    Raises:
        SettingError: a setting, or the catalog in the ``Config``, is missing or wrong.
    """

    def __init__(self, config: Config | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.settings = settings.load(self._environ, "api", config)
        try:
            Catalog(self.settings.config)
        except RecursionError:
            raise SettingError("Config.broker: must hold JSON values only, nothing that contains itself") from None

    @functools.cached_property
    def app(self) -> Flask:
        """The WSGI app; the first access makes it, connects it and makes the indexes."""
        return front_end(self.settings)

    def check_encryption_keys(self) -> None:
        """Raise SettingError when MongoDB answers and none of the keys decrypts what is stored there."""
        check_at_start(self.settings)

    def run(self, host: str = "0.0.0.0", port: int = 5000) -> None:  # noqa: S104 - the address of atlasbroker 2.0.0
        """Serve the API, and run its jobs in a worker process, until a signal stops it."""
        logs.configure()
        worker_settings = settings.load(self._environ, "worker", self.settings.config)
        try:
            self.check_encryption_keys()
        except SettingError as error:
            sys.exit(f"atlas-broker: {error}")
        listener = server.listen(host, port)
        worker = _Worker(worker_settings)
        worker.start()
        try:
            server.serve(lambda: front_end(self.settings), listener, self.settings.sync_wait)
        finally:
            worker.stop()


def front_end(made: Settings) -> Flask:
    """Return the WSGI app: HTTP on the service, the service on the store and the queue."""
    store = Store(connect(made.mongo_uri, made.mongo_timeout_ms), made.mongo_db, made.mongo_collection)
    key_check = KeyCheck(store, Vault(made.encryption_keys))
    threading.Thread(target=_prepare, args=(store, key_check), name="prepare", daemon=True).start()
    service = Service.compose(made, store, Queue(made.redis))
    return create_app(service, made.users, is_stopping=server.stopping.is_set)


def _prepare(store: Store, key_check: KeyCheck) -> None:
    """Make the indexes and check the keys as soon as MongoDB answers, while requests are served already."""
    while True:
        try:
            store.prepare()
            key_check.passes()  # which leaves a line in the log when they are wrong
        except ErrStorageMongoConnection as error:
            log.warning("mongodb_unavailable", during=error.during, reason=error.reason)
            time.sleep(PREPARE_SECONDS)
        else:
            return


class _Worker:
    """A worker in a process of its own, started again when it ends.

    The process is a fork, which inherits the Config, also one made in the script that calls ``run()``.
    """

    def __init__(self, made: Settings) -> None:
        self._settings = made
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._parent = os.getpid()
        self._pid = 0

    def start(self) -> None:
        """Start the worker, and a thread that starts it again."""
        self._pid = self._fork()
        threading.Thread(target=self._watch, name="worker", daemon=True).start()

    def _fork(self) -> int:
        if pid := os.fork():
            return pid
        try:
            for number in signal.valid_signals():  # the fork has inherited the handlers of the server
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            _close_listeners()
            parent.end_with(self._parent, signal.SIGTERM)
            (run,) = entry_points(group="atlas_broker.worker")  # the API's own code does not know the workers
            run.load()(self._settings)
        finally:
            os._exit(0)  # without the parent's clean-up

    def _watch(self) -> None:
        while not self._stopping.is_set():
            _await_end(self._pid)
            self._stopping.wait(RESTART_SECONDS)
            with self._starting:
                if not self._stopping.is_set():
                    self._pid = self._fork()

    def stop(self) -> None:
        """Stop the worker after its running steps; without effect in the server's children, which call it, too."""
        if os.getpid() != self._parent:
            return
        with self._starting:
            self._stopping.set()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        _await_end(self._pid)


def _close_listeners() -> None:
    """Close the server's port in a fork of it; else the port would stay open after the server has ended."""
    for number in range(3, DESCRIPTORS):
        try:
            inherited = socket.socket(fileno=number)
        except OSError:  # no socket
            continue
        listens = False
        with contextlib.suppress(OSError):  # a kind of socket that cannot listen
            listens = bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if listens:
            inherited.close()
        inherited.detach()


def _await_end(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # the server may have noticed first
        os.waitpid(pid, 0)
