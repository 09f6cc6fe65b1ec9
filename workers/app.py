"""The Celery application: reads the settings when a command starts, creates the worker's parts, starts the sweeper.

Importing this module reads no setting and opens no connection. ``celery -A workers worker`` and ``… flower`` stop with
one line when a setting is wrong.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery, signals
from tornado.options import add_parse_callback

from broker_api import logs
from broker_api.errors import SettingError
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.settings import ignored_variables
from broker_api.settings.settings import Settings, load
from broker_api.state.encryption_key_check import check_at_start
from workers import library_workarounds
from workers.clusters.user_quota import UserQuota
from workers.context import Context, compose
from workers.engine.sweeper import Sweeper

library_workarounds.ignore_environment()
app = RedisCelery("workers", include=["workers.tasks"], events="workers.transport:Events")
app.config_from_object("celeryconfig")


class _Process:
    """The state of this process: its settings, and in a worker its context."""

    settings: Settings | None = None
    keys_checked = False
    context: Context | None = None


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End the process with one line when a setting is missing or wrong."""
    try:
        yield
    except SettingError as error:
        sys.exit(f"atlas-broker: {error}")


def _settings() -> Settings:
    """Return the settings of this process; those that its command does not need may be missing."""
    if _Process.settings is None:
        with _one_line_errors():
            _Process.settings = load(os.environ, "client")
    return _Process.settings


def context() -> Context:
    """Return the parts of this worker process, created at the first call.

    Raises:
        SystemExit: A setting is missing or wrong.
    """
    if _Process.context is None:
        with _one_line_errors():
            _Process.context = compose(_settings())
    return _Process.context


@app.on_after_configure.connect
def _configure_broker(sender: Celery, **_: object) -> None:
    """Add the settings of the deployment to those of celeryconfig.py, when a command first needs them."""
    options = dict(sender.conf.broker_transport_options)
    sender.conf.update(celery_settings(_settings().redis, "workers.transport:Transport", options))


@signals.celeryd_init.connect
def _check_worker(**_: object) -> None:
    """End a worker before it connects to Redis when a setting or its encryption keys are wrong."""
    with _one_line_errors():
        settings = _settings()
        settings.check_complete("worker")
        if not _Process.keys_checked:
            check_at_start(settings)
            _Process.keys_checked = True


def _guard_flower() -> None:
    """Put Flower behind authentication; end it when a setting is missing.

    Tornado calls this after it has parsed the options; of Celery's commands only Flower uses Tornado.
    """
    with _one_line_errors():
        settings = _settings()
        settings.check_complete("flower")
    library_workarounds.guard_flower(settings.users)
    library_workarounds.print_ignored()


add_parse_callback(_guard_flower)


@signals.setup_logging.connect
def _set_up_logging(loglevel: int, **_: object) -> None:
    logs.configure(loglevel)
    ignored_variables.warn(library_workarounds.take_ignored())


@signals.worker_process_init.connect
def _forget_context(**_: object) -> None:
    """Create new parts in a child of a pool of processes, since connections cannot be used after a fork."""
    _Process.context = None


@signals.worker_ready.connect
def _start_sweeper(**_: object) -> None:
    parts = context()
    sweeper = Sweeper(
        store=parts.store,
        claims=parts.claims,
        housekeeping=parts.housekeeping,
        keys=parts.keys,
        queue=parts.queue,
        stopping=parts.stopping,
        check=UserQuota(parts.store, parts.housekeeping, parts.projects).check,
    )
    sweeper.start()


@signals.worker_shutting_down.connect
def _stop_operations(**_: object) -> None:
    """Release each operation after its current step, so that another worker runs the next one."""
    context().stopping.set()


def run_worker(settings: Settings) -> None:
    """Run a worker until it is stopped; ``Broker.run()`` calls this in a new process.

    Args:
        settings: Settings that have been checked already, together with the encryption keys.
    """
    _Process.settings, _Process.keys_checked = settings, True
    app.worker_main(["worker", "--loglevel=INFO"])
