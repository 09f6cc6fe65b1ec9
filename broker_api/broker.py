"""``Broker(config)`` composes the API; its ``run()`` is a complete broker, with a worker, in one command."""

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Self

import structlog
from flask import Flask

from broker_api import child_processes, logs, server, server_worker, tracing
from broker_api.catalog.catalog import Catalog
from broker_api.config import Config
from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.jobs.queue import Queue
from broker_api.osb.app import LOGINS, create_app
from broker_api.osb.metrics import forget_process
from broker_api.service.service import Service
from broker_api.settings import settings
from broker_api.settings.secret_watch import SecretWatch
from broker_api.settings.settings import Settings
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck, check_at_start
from broker_api.state.mongo import connect
from broker_api.state.store import Store

log = structlog.get_logger(__name__)

MACS_LOOK_SECONDS = 5.0
PREPARE_SECONDS = 2.0
RESTART_SECONDS = 1.0
DESCRIPTORS = 1024
"""Listening sockets are searched below this file descriptor: they are opened early and have low ones."""


class Broker:
    """The API on a ``Config``.

    Args:
        config: the operator's ``Config``; None for the one that the environment names.
        environ: the environment variables; None for those of this process.

    Raises:
        SettingError: a setting, or the catalog in the ``Config``, is missing or wrong.
    """

    def __init__(self, config: Config | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._config = config
        self.settings = settings.load(self._environ, "api", config)
        Catalog(self.settings.config, self.settings.plans)

    @functools.cached_property
    def app(self) -> Flask:
        """The WSGI app. The first access makes it, and connects to MongoDB and Redis in the background."""
        front_end = FrontEnd.compose(self.settings, self._environ, self._config)
        front_end.start()
        return front_end.app

    def check_encryption_keys(self) -> None:
        """Check the encryption keys against the stored data, if MongoDB answers.

        Raises:
            SettingError: none of the keys decrypts the stored data.
        """
        check_at_start(self.settings)

    def run(self, host: str = "0.0.0.0", port: int = 5000) -> None:  # noqa: S104 - the address of atlasbroker 2.0.0
        """Serve the API, and run its jobs in a worker process, until a signal stops this process.

        Args:
            host: the address to listen on; ``::`` is every address of IPv6 and IPv4.
            port: the port; 0 is any free one.

        Raises:
            SettingError: a setting that the worker needs is missing or wrong.
            SystemExit: the port cannot be opened, or the encryption keys do not fit.
        """
        logs.configure(logs.level(self._environ))
        worker_settings = settings.load(self._environ, "worker", self.settings.config)
        try:
            self.check_encryption_keys()
        except SettingError as error:
            sys.exit(f"atlas-broker: {error}")
        listener = server.listen(host, port)
        worker = _Worker(worker_settings)
        worker.start()
        try:
            server.serve(
                FrontEnd.compose(self.settings, self._environ, self._config), listener, self.settings.sync_wait
            )
        finally:
            worker.stop()


@dataclass
class FrontEnd:
    """The WSGI app for ``server.serve``: HTTP on the service, the service on the store and the queue."""

    app: Flask
    store: Store
    key_check: KeyCheck
    watch: SecretWatch

    @classmethod
    def compose(cls, made: Settings, environ: Mapping[str, str], config: Config | None = None) -> Self:
        """Return the app.

        Args:
            made: The settings.
            environ: The environment variables, which may name files of secrets.
            config: The ``Config`` that the settings were loaded with; None for that of the environment.
        """
        tracing.set_up("atlas-broker-api")
        vault, client = Vault(made.encryption_keys), connect(made.mongo_uri, made.mongo_timeout_ms)
        store = Store(client, made.mongo_db, made.mongo_collection, vault)
        service = Service.compose(made, store, Queue(made.redis, store.report))
        app = create_app(service, made.users, is_stopping=server_worker.stopping.is_set)

        def use(new: Settings) -> None:
            service.health.keys.replace_keys(new.encryption_keys)
            app.extensions[LOGINS].replace(new.users)

        return cls(app, store, service.health.keys, SecretWatch(environ, "api", made, config, use))

    def start(self) -> None:
        """Make the indexes, check the keys and watch the secrets, in the background, in the process that serves."""
        self.watch.start()
        threading.Thread(target=self._prepare, name="prepare", daemon=True).start()

    def forget_process(self, process: int) -> None:
        """Remove from the metrics what a process did when it ended; what it has counted stays."""
        forget_process(process)

    def _prepare(self) -> None:
        """Try until MongoDB answers. Requests are served meanwhile.

        Afterwards look for the moment from which on every document has MACs (``atlas-broker keys rotate``).
        """
        prepared = False
        while True:
            try:
                if not prepared:
                    self.store.prepare()
                    prepared = True
                self.key_check.passes()  # logs a line when the keys are wrong
            except ErrStorageMongoConnection as error:
                log.warning("mongodb_unavailable", during=error.during, reason=error.reason)
                time.sleep(PREPARE_SECONDS)
            else:
                if self.store.macs.required:
                    return
                time.sleep(MACS_LOOK_SECONDS)


class _Worker:
    """A worker in a process of its own; a thread starts it again when it ends.

    The process is a fork: so it has the ``Config`` also when the script that calls ``run()`` has made it.
    """

    def __init__(self, made: Settings) -> None:
        self._settings = made
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._parent = os.getpid()
        self._pid = 0

    def start(self) -> None:
        """Start the worker, and the thread that starts it again."""
        self._pid = self._fork()
        threading.Thread(target=self._watch, name="worker", daemon=True).start()

    def _fork(self) -> int:
        if pid := os.fork():
            return pid
        try:
            for number in signal.valid_signals():  # the fork inherits the server's handlers
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            _close_listeners()
            child_processes.end_with_parent(self._parent, signal.SIGTERM)
            (run,) = entry_points(group="atlas_broker.worker")  # the API imports no code of the workers
            run.load()(self._settings)
        except Exception:
            log.critical("uncaught", exc_info=True)
        finally:
            os._exit(0)  # skips the parent's clean-up, and Python's report of an exception

    def _watch(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(ChildProcessError):  # the server may have waited for it already
                os.waitpid(self._pid, 0)
            self._stopping.wait(RESTART_SECONDS)
            with self._starting:
                if not self._stopping.is_set():
                    self._pid = self._fork()

    def stop(self) -> None:
        """Stop the worker, and return when its running steps have ended. Does nothing in the server's own children."""
        if os.getpid() != self._parent:
            return
        with self._starting:
            self._stopping.set()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended already
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)


def _close_listeners() -> None:
    """Close the listening sockets in a fork; else the port would stay open after the server has ended."""
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
