"""Changes to the command line of Celery and to Flower for which they have no setting: for Celery 5.7 and Flower 2.2.

- Celery's command line reads each option of each command from the environment, such as CELERY_WORKER_POOL for
  ``celery worker --pool`` (github.com/celery/celery/pull/8469); no setting prevents it.
- Flower reads its options from the environment before anything can check them: FLOWER_CONF names a file to execute, and
  a value of a wrong type ends it with a traceback (github.com/mher/flower/issues/1206).
- Flower answers ``/metrics``, which names workers and jobs, without authentication
  (github.com/mher/flower/issues/1342).
- Flower compares clear passwords; it has no setting for a check of hashes.
- Flower's API lists the workers that answer a broadcast. Workers here take no commands, so Flower sends none, and lists
  the workers whose events it has seen.
- Flower doubles the pause between its attempts to reach Redis without a limit, so that it stays blind for as long again
  as Redis was away.
- Celery prints what a signal to stop does, beside the log.

Replacements of parts of Celery's consumer, for which Celery has settings, are in ``workers/transport.py``. The test
``tests/unit/test_library_workarounds.py`` fails as soon as the libraries do not need one of these any more.
"""

import os
import secrets
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import SimpleNamespace

import click
from celery.apps import worker as celery_worker
from tornado.options import options as flower_options
from tornado.web import HTTPError, authenticated

from broker_api import logs
from broker_api.logins import Logins, WrongCredentialsError
from broker_api.settings.ignored_variables import CELERY_VARIABLES, ignored
from broker_api.settings.users import UserRole

FLOWER_VARIABLES = (
    "FLOWER_AUTH",
    "FLOWER_AUTH_PROVIDER",
    "FLOWER_BASIC_AUTH",
    "FLOWER_BROKER_API",
    "FLOWER_CONF",
    "FLOWER_OAUTH2_KEY",
    "FLOWER_OAUTH2_REDIRECT_URI",
    "FLOWER_OAUTH2_SECRET",
    "FLOWER_READ_ONLY",
    "FLOWER_UNAUTHENTICATED_API",
)
"""Variables that could open Flower to everybody, or connect it to another broker."""

HARMFUL = ("CELERY_VERSION", "CELERY_WORKDIR")
"""Variables of options that Celery's command line uses before any code of the broker runs."""

FLOWER_TASKS = 10_000
"""How many finished jobs Flower keeps in memory; its default is ten times as many."""

FLOWER_COLUMNS = "name,state,args,result,received,runtime,worker"
"""The columns of Flower's list of jobs, unless an option says others."""

FLOWER_PAUSE_SECONDS = 5.0
"""The longest pause between Flower's attempts to reach Redis."""

_ignored: set[str] = set()
"""Variables that this process ignores, without CELERY_VARIABLES."""
_reported: set[str] = set()


def ignore_environment() -> None:
    """Make Celery's command line ignore the environment variables of its options and of Flower's options.

    Call this while Celery imports the application: after that it parses the options of its commands. In a process
    without Celery's command line it does nothing.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.auto_envvar_prefix != "CELERY":
        return
    _ignored.update(ignored(os.environ, _option_variables(context.command)))
    context.auto_envvar_prefix = None
    for name in ignored(os.environ, FLOWER_VARIABLES):
        del os.environ[name]
        _ignored.add(name)
    context.call_on_close(print_ignored)


def take_ignored() -> list[str]:
    """Return the names of the ignored variables that have not been returned before."""
    names = sorted({*_ignored, *ignored(os.environ, CELERY_VARIABLES)} - _reported)
    _reported.update(names)
    return names


def print_ignored() -> None:
    """Print the ignored variables on the terminal, for commands that write no log."""
    for name in take_ignored():
        click.echo(f"atlas-broker: {name} is ignored: the broker's own settings apply", err=True)


def all_ignored(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that some process of the broker would ignore.

    Args:
        environ: The environment variables.
    """
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery's whole command line

    return ignored(environ, (*CELERY_VARIABLES, *_option_variables(celery), *FLOWER_VARIABLES))


def _option_variables(group: click.Command) -> Iterator[str]:
    for name, command in (group.commands if isinstance(group, click.Group) else {}).items():
        for parameter in command.params:
            yield f"CELERY_{name}_{parameter.name}".upper().replace("-", "_")


def log_signals() -> None:
    """Let a worker write to its log what a signal to stop does."""
    write = logs.write_from_signal_handler
    setattr(celery_worker, "safe_say", lambda message, *_: write("worker_stopping", message))  # noqa: B010 - no stub


def guard_flower(logins: Logins) -> None:
    """Put Flower behind basic authentication, and make it read-only, so that it stops no worker and sends no job.

    Args:
        logins: The users; only those with the role operator may see Flower.
    """
    from flower import events as flower_events  # noqa: PLC0415 - only Flower's process needs it
    from flower.api.workers import ListWorkers  # noqa: PLC0415 - only Flower's process needs it
    from flower.inspector import Inspector  # noqa: PLC0415 - only Flower's process needs it
    from flower.urls import handlers  # noqa: PLC0415 - only Flower's process needs it
    from flower.views import BaseHandler  # noqa: PLC0415 - only Flower's process needs it
    from flower.views.monitor import Metrics  # noqa: PLC0415 - only Flower's process needs it
    from flower.views.workers import WorkersView  # noqa: PLC0415 - only Flower's process needs it

    def current_user(self: BaseHandler) -> str:
        name = _operator(logins, self.request.headers.get("Authorization", ""), self.request.remote_ip)
        if name is None:
            raise HTTPError(HTTPStatus.UNAUTHORIZED)
        return name

    def short_sleep(seconds: float) -> None:
        time.sleep(min(seconds, FLOWER_PAUSE_SECONDS))

    flower_events.time = SimpleNamespace(**{**vars(time), "sleep": short_sleep})
    BaseHandler.get_current_user = current_user
    flower_options.basic_auth = [secrets.token_urlsafe()]  # only tells Flower that there is authentication
    flower_options.read_only = True
    flower_options.enable_events = False  # by a broadcast; workers send events anyway
    flower_options.auth = ""
    flower_options.broker_api = None
    flower_options.max_tasks = FLOWER_TASKS
    columns = flower_options._options["tasks-columns"]  # noqa: SLF001 - tornado shows no option's default
    if flower_options.tasks_columns == columns.default:
        flower_options.tasks_columns = FLOWER_COLUMNS
    guarded = type("GuardedMetrics", (Metrics,), {"get": authenticated(Metrics.get)})

    async def list_workers(self: ListWorkers) -> None:
        if self.get_argument("status", default=""):
            await ListWorkers.get(self)
            return
        seen, as_dict = self.application.events.state.workers, WorkersView._as_dict  # noqa: SLF001 - as Flower's page does
        self.write({name: {**as_dict(worker), "status": worker.alive} for name, worker in seen.items()})

    listed = type("SeenWorkers", (ListWorkers,), {"get": authenticated(list_workers)})
    Inspector.inspect_methods = ()
    handlers[:0] = [("/metrics", guarded), ("/api/workers", listed)]


def _operator(logins: Logins, header: str, address: str) -> str | None:
    """Return the name of the operator in the header of basic authentication; None if it is not one."""
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
        is_operator = UserRole.OPERATOR in logins.check(name, password, address) if colon else False
    except (ValueError, WrongCredentialsError):
        return None
    return name if is_operator and scheme.lower() == "basic" else None
