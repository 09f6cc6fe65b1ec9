"""The Celery application: reads the settings when a command starts, creates the worker's parts, starts the sweeper.

Importing this module reads no setting and opens no connection. ``celery -A workers worker`` and ``… flower`` stop with
one line when a setting is wrong.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from celery import Celery, signals
from celery.concurrency import get_implementation
from celery.exceptions import SecurityWarning
from tornado.options import add_parse_callback

from broker_api import logs, tracing
from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.jobs.queue import JOBS, QUEUES
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.logins import Logins
from broker_api.metrics_directory import check_directory
from broker_api.settings import ignored_variables
from broker_api.settings.secret_watch import SecretWatch
from broker_api.settings.settings import Settings, load
from broker_api.state.encryption_key_check import check_at_start
from broker_api.state.operation_claims import Due
from workers import job_states, library_workarounds, metrics
from workers.announcer import Announcer
from workers.clusters.user_limit import UserLimit
from workers.context import Context, compose
from workers.engine.sweeper import Sweeper
from workers.probes import Parts, Probes, try_credentials
from workers.transport import Consumer

library_workarounds.ignore_environment()
library_workarounds.log_signals()
app = RedisCelery("workers", include=["workers.tasks"], events="workers.transport:Events")
app.config_from_object("celeryconfig")


SHOWN_AFTER_SECONDS = 1.0
"""How many seconds after MongoDB Flower is told of an operation that has ended without a job."""


class _Process:
    """The state of this process: its settings, and in a worker its context."""

    settings: Settings | None = None
    config: Config | None = None
    """The ``Config`` that the settings were loaded with; None for that of the environment."""
    worker: str | None = None
    """Celery's name of this worker, which Flower shows too."""
    keys_checked = False
    context: Context | None = None
    probes = Probes()
    consumer: Consumer | None = None
    """Celery's consumer, which has the connection for events; None in a child of a pool of processes."""


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End the process with one line when a setting is missing or wrong."""
    try:
        yield
    except SettingError as error:
        click.echo(f"atlas-broker: {error}", err=True)  # not by sys.exit, whose text Celery may keep to itself
        sys.exit(1)


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
            _Process.context = compose(_settings(), _Process.worker)
        _Process.context.watcher.show_end = _show_end
        SecretWatch(os.environ, "worker", _settings(), _Process.config, _Process.context.use).start()
    return _Process.context


@app.on_after_configure.connect
def _configure_broker(sender: Celery, **_: object) -> None:
    """Add the settings of the deployment to those of celeryconfig.py, when a command first needs them."""
    options = dict(sender.conf.broker_transport_options)
    sender.conf.update(celery_settings(_settings().redis, "workers.transport:Transport", options))


def _show_end(due: Due, sentence: str) -> None:
    """Show in Flower that an operation has succeeded without a job.

    The consumer's thread sends the event, and sends it late, since the job's own event, that it waits, may still be on
    its way.
    """
    consumer = _Process.consumer
    if consumer is None:
        context().queue.send(JOBS[due.kind], [due.instance_id, due.binding_id, due.operation_id])
    else:
        consumer.call_soon(consumer.timer.call_after, SHOWN_AFTER_SECONDS, _announce, (consumer, due, sentence))


def _announce(consumer: Consumer, due: Due, sentence: str) -> None:
    if consumer.event_dispatcher:
        job_states.announce_success(consumer.event_dispatcher, due, sentence)


@signals.celeryd_init.connect
def _check_worker(sender: str, instance: Any, options: dict[str, Any], **_: object) -> None:  # noqa: ANN401 - no stub
    """End a worker before it connects to Redis when a setting or its encryption keys are wrong.

    Its first lines come after this: Celery's banner is not printed, and only a superuser is warned of its privileges.
    """
    _set_up_logging(options.get("loglevel"))
    instance.quiet = True
    _Process.worker = sender
    if 0 not in (os.getuid(), os.geteuid()):
        warnings.simplefilter("ignore", SecurityWarning)
    with _one_line_errors():
        settings = _settings()
        settings.check_complete("worker")
        queues = dict.fromkeys(QUEUES.values())
        if not {*(options.get("queues") or ())} <= {*queues}:  # Celery would end with a traceback
            raise SettingError(f"worker -Q: must be one or more of {', '.join(queues)}, separated by commas")
        _check_pool(options)
        check_directory(os.environ)
        tracing.set_up("atlas-broker-worker")
        if not _Process.keys_checked:
            check_at_start(settings)
            _Process.keys_checked = True


def _check_pool(options: dict[str, Any]) -> None:
    """Refuse options of Celery that the pool of threads or the probes do not bear."""
    given = options.get("pool") or options.get("pool_cls")  # a name, or the class of the configured pool
    pool = get_implementation(given).__module__.rpartition(".")[2] if given else "thread"
    if pool in ("gevent", "eventlet"):
        raise SettingError("worker --pool: must be threads, processes or solo; the probes need Celery's event loop")
    if options.get("autoscale") and pool != "prefork":
        raise SettingError("worker --autoscale: must be with --pool=processes; threads have --concurrency")
    if options.get("without_heartbeat"):
        raise SettingError("worker --without-heartbeat: must not be set; the probes need the heartbeats")


@signals.celeryd_after_setup.connect
def _serve_metrics(instance: Any, **_: object) -> None:  # noqa: ANN401 - no stub has pool_cls
    port = _settings().metrics_port
    if port:
        probes = {"/live": _Process.probes.live, "/ready": _Process.probes.ready}
        with _one_line_errors():
            metrics.serve(port, probes, processes=instance.pool_cls.__module__ == "celery.concurrency.prefork")


def _guard_flower() -> None:
    """Put Flower behind authentication; end it when a setting is missing.

    Tornado calls this after it has parsed the options; of Celery's commands only Flower uses Tornado.
    """
    with _one_line_errors():
        settings = _settings()
        settings.check_complete("flower")
        logs.configure()
    logins = Logins(settings.users)
    library_workarounds.guard_flower(logins)
    SecretWatch(os.environ, "flower", settings, None, lambda new: logins.replace(new.users)).start()
    ignored_variables.warn(library_workarounds.take_ignored())


add_parse_callback(_guard_flower)


@signals.setup_logging.connect
def _set_up_logging(loglevel: int | None = None, **_: object) -> None:
    """Write all logs in one form, at the level of BROKER_LOG_LEVEL or of the option ``--loglevel``.

    Celery gives WARNING also when the option is not there, so BROKER_LOG_LEVEL applies then.
    """
    with _one_line_errors():
        logs.configure(None if loglevel == logging.WARNING else loglevel)
    for name in ("celery.worker.strategy", "celery.app.trace"):  # tasks.py logs each job, with its ids
        logging.getLogger(name).setLevel(logging.WARNING)
    ignored_variables.warn(library_workarounds.take_ignored())


@signals.worker_process_init.connect
def _forget_context(**_: object) -> None:
    """Create new parts in a child of a pool of processes, since connections cannot be used after a fork."""
    _Process.context = _Process.consumer = None


@signals.worker_ready.connect
def _start_sweeper(sender: Consumer, **_: object) -> None:
    _Process.consumer = sender
    parts = context()
    sweeper = Sweeper(
        store=parts.store,
        claims=parts.claims,
        housekeeping=parts.housekeeping,
        keys=parts.keys,
        queue=parts.queue,
        stopping=parts.stopping,
        check=UserLimit(parts.store, parts.housekeeping, parts.projects).check,
    )
    sweeper.start()
    _Process.probes.parts = Parts(parts, sender, sweeper)
    try_credentials(parts)
    Announcer(parts, sender.hostname, sender.consumed_queues).start()


@signals.worker_shutting_down.connect
def _stop_operations(**_: object) -> None:
    """Release each operation after its current step, so that another worker runs the next one."""
    context().stopping.set()


def run_worker(settings: Settings) -> None:
    """Run a worker until it is stopped; ``Broker.run()`` calls this in a new process.

    Args:
        settings: Settings that have been checked already, together with the encryption keys.
    """
    _Process.settings, _Process.config, _Process.keys_checked = settings, settings.config, True
    app.worker_main(["worker"])
