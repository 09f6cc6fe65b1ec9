"""The Celery application: reads its settings when a command starts, composes the parts, carries the sweep.

Importing it does nothing. ``celery -A workers worker`` and ``… flower`` stop with one line when a setting is wrong.
"""

import os
import sys
from typing import Any, NoReturn

import click
from celery import Celery, signals
from tornado.options import options as flower_options
from tornado.web import authenticated

from broker_api import logs
from broker_api.errors import SettingError
from broker_api.queue import address, transport_options
from broker_api.settings import Part, Settings, load
from broker_api.state.keys import check_at_start
from workers import transport
from workers.parts import Parts, compose
from workers.sweep import Sweep

FLOWER_TASKS = 10_000
"""How many finished jobs Flower remembers; its default of ten times as many costs memory for nothing."""

app = Celery("workers", include=["workers.tasks"])
app.config_from_object("celeryconfig")


class _Process:
    """What this process holds: its settings, its parts and its sweep, once it is known to be a worker."""

    settings: Settings | None = None
    given = False  # by Broker.run(), which has tried the keys
    parts: Parts | None = None
    sweep: Sweep | None = None


def parts() -> Parts:
    """Give the parts of this worker process."""
    if _Process.parts is None:
        try:
            _Process.parts = compose(_settings("worker"))
        except SettingError as error:
            _stop(error)
    return _Process.parts


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


def _from_environment() -> dict[str, Any]:
    """Give what celeryconfig.py cannot know; Celery asks when a command first needs its configuration."""
    context = click.get_current_context(silent=True)
    command = context.info_name if context else ""
    part: Part = "worker" if command == "worker" else "flower" if command == "flower" else "client"
    settings = _settings(part)
    if part == "worker" and not _Process.given:
        _check_keys(settings)
    if part == "flower":
        _set_up_flower(settings)
    return {"broker_url": address(settings.redis_url), "broker_connection_timeout": 3}


def _set_up_flower(settings: Settings) -> None:
    """Guard Flower by the broker's users, and let nobody stop workers or send jobs from it."""
    flower_options.basic_auth = [f"{name}:{password}" for name, password in settings.users.items()]
    flower_options.read_only = True
    flower_options.max_tasks = FLOWER_TASKS
    from flower.views.monitor import Metrics  # noqa: PLC0415 - no other process needs Flower in its memory

    Metrics.get = authenticated(Metrics.get)  # Flower leaves its metrics open, which name workers and jobs


app.add_defaults(_from_environment)


@app.on_after_configure.connect  # type: ignore[untyped-decorator]
def _name_the_sentinels_master(sender: Celery, **_: object) -> None:
    """Tell the transport what a ``sentinel://`` URL says."""
    url = _settings("client").redis_url
    sender.conf.broker_transport_options = transport_options(url, dict(sender.conf.broker_transport_options))
    transport.guard()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(loglevel: int, **_: object) -> None:
    logs.configure(loglevel)


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: object) -> None:
    """Compose anew in a child of a pool of processes: connections do not survive a fork."""
    _Process.parts = None


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _begin_sweeping(**_: object) -> None:
    _Process.sweep = Sweep(parts())
    _Process.sweep.start()


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _hand_back(**_: object) -> None:
    """Let running steps end and give their operations back, instead of going on with the next step."""
    parts().stopping.set()


def run_worker(settings: Settings) -> None:
    """Be a worker with settings that are made already; for ``Broker.run()``, in a process of its own."""
    _Process.settings, _Process.given = settings, True
    app.worker_main(["worker", "--loglevel=INFO"])
