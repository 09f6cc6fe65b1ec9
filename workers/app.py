"""The Celery application: reads its settings when a command starts, composes the parts, carries the sweep.

Importing it reads and connects nothing. ``celery -A workers worker`` and ``… flower`` stop with one line when a setting
is wrong.
"""

import os
import sys
from typing import NoReturn

import click
from celery import Celery, signals
from tornado.options import options as flower_options
from tornado.web import authenticated

from broker_api import logs
from broker_api.errors import SettingError
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.settings import foreign_variables
from broker_api.settings.settings import Part, Settings, load
from broker_api.state.key_check import check_at_start
from workers import environment
from workers.context import Context, compose
from workers.engine.runner import Runner
from workers.engine.sweeper import Sweeper
from workers.operations import compose_runner

FLOWER_TASKS = 10_000
"""How many finished jobs Flower remembers; its default of ten times as many costs memory for nothing."""

environment.ignore()
app = RedisCelery("workers", include=["workers.tasks"], events="workers.transport:Events")
app.config_from_object("celeryconfig")


class _Process:
    """What this process holds: its settings, its context and its runner, once it is known to be a worker."""

    settings: Settings | None = None
    given = False  # by Broker.run(), which has tried the keys
    context: Context | None = None


def context() -> Context:
    """Return the parts of this worker process."""
    if _Process.context is None:
        try:
            _Process.context = compose(_settings("worker"))
        except SettingError as error:
            _stop(error)
    return _Process.context


def runner() -> Runner:
    """Return a runner of this process's operations."""
    return compose_runner(context())


def _settings(part: Part) -> Settings:
    if _Process.settings is None:
        try:
            _Process.settings = load(os.environ, part)
        except SettingError as error:
            _stop(error)
    return _Process.settings


def _check_keys(settings: Settings) -> None:
    try:
        check_at_start(settings)
    except SettingError as error:
        _stop(error)


def _stop(error: SettingError) -> NoReturn:
    sys.exit(f"atlas-broker: {error}")


def _set_up_flower(settings: Settings) -> None:
    """Guard Flower by the broker's users, and make it read-only: workers cannot be stopped, nor jobs sent, from it."""
    flower_options.basic_auth = [f"{name}:{password}" for name, password in settings.users.items()]
    flower_options.read_only = True
    flower_options.auth = ""
    flower_options.broker_api = None
    flower_options.max_tasks = FLOWER_TASKS
    from flower.views.monitor import Metrics  # noqa: PLC0415 - no other process needs Flower in its memory

    Metrics.get = authenticated(Metrics.get)  # Flower leaves its metrics open, which name workers and jobs


@app.on_after_configure.connect
def _configure(sender: Celery, **_: object) -> None:
    """Add what celeryconfig.py cannot know, when a command first needs its configuration."""
    context = click.get_current_context(silent=True)
    command = context.info_name if context else ""
    part: Part = "worker" if command == "worker" else "flower" if command == "flower" else "client"
    settings = _settings(part)
    if part == "worker" and not _Process.given:
        _check_keys(settings)
    if part == "flower":
        _set_up_flower(settings)
    if command not in ("worker", "beat"):  # these two set up logs, in which they tell it
        for name in environment.told():
            click.echo(f"atlas-broker: {name} is ignored, the broker's own settings hold", err=True)
    options = dict(sender.conf.broker_transport_options)
    sender.conf.update(celery_settings(settings.redis, "workers.transport:Transport", options))


@signals.setup_logging.connect
def _set_up_logging(loglevel: int, **_: object) -> None:
    logs.configure(loglevel)
    foreign_variables.warn(environment.told())


@signals.worker_process_init.connect
def _after_fork(**_: object) -> None:
    """Compose anew in a child of a pool of processes: connections do not survive a fork."""
    _Process.context = None


@signals.worker_ready.connect
def _begin_sweeping(**_: object) -> None:
    parts = context()
    sweeper = Sweeper(
        store=parts.store,
        claims=parts.claims,
        housekeeping=parts.housekeeping,
        keys=parts.keys,
        queue=parts.queue,
        stopping=parts.stopping,
    )
    sweeper.start()


@signals.worker_shutting_down.connect
def _hand_back(**_: object) -> None:
    """Let running steps end and give their operations back, instead of going on with the next step."""
    context().stopping.set()


def run_worker(settings: Settings) -> None:
    """Be a worker with settings that are made already; for ``Broker.run()``, in a process of its own."""
    _Process.settings, _Process.given = settings, True
    app.worker_main(["worker", "--loglevel=INFO"])
