"""Changes to the command line of Celery and to Flower for which they have no setting: for Celery 5.7 and Flower 2.2.

- Celery's command line reads each option of each command from the environment, such as CELERY_WORKER_POOL for
  ``celery worker --pool`` (github.com/celery/celery/pull/8469), and cannot be told not to.
- Flower reads its options from the environment before anything can check them: FLOWER_CONF names a file to execute, and
  a value of a wrong type ends it with a traceback (github.com/mher/flower/issues/1206).
- Flower answers ``/metrics``, which names workers and jobs, without authentication
  (github.com/mher/flower/issues/1342).

What replaces parts of Celery's consumer by Celery's own settings is in ``workers/transport.py``. The test
``tests/unit/test_library_workarounds.py`` fails as soon as the libraries do without one of these.
"""

import os
from collections.abc import Iterator, Mapping

import click
from tornado.options import options as flower_options
from tornado.web import authenticated

from broker_api.settings.ignored_variables import CELERY_VARIABLES, ignored

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
"""What could open Flower to others, or lead it to another broker."""

HARMFUL = ("CELERY_VERSION", "CELERY_WORKDIR")
"""Options that Celery's command line obeys before any code of the broker runs."""

FLOWER_TASKS = 10_000
"""How many finished jobs Flower remembers; its default of ten times as many takes memory without a use."""

_ignored: set[str] = set()
"""Variables that this process ignores, beside CELERY_VARIABLES."""
_reported: set[str] = set()


def ignore_environment() -> None:
    """Make a command line of Celery that is starting ignore the variables of its options and of Flower's.

    Celery parses the options of its commands after it has imported the application, its own options before. Outside of
    such a command line nothing happens.
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
    """Return the variables that are ignored and not yet reported; they count as reported then."""
    names = sorted({*_ignored, *ignored(os.environ, CELERY_VARIABLES)} - _reported)
    _reported.update(names)
    return names


def print_ignored() -> None:
    """Report those variables on the terminal, for commands that write no log."""
    for name in take_ignored():
        click.echo(f"atlas-broker: {name} is ignored, the broker's own settings hold", err=True)


def all_ignored(environ: Mapping[str, str]) -> list[str]:
    """Return each variable that a process of the broker would ignore."""
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery's whole command line

    return ignored(environ, (*CELERY_VARIABLES, *_option_variables(celery), *FLOWER_VARIABLES))


def _option_variables(group: click.Command) -> Iterator[str]:
    for name, command in (group.commands if isinstance(group, click.Group) else {}).items():
        for parameter in command.params:
            yield f"CELERY_{name}_{parameter.name}".upper().replace("-", "_")


def guard_flower(users: Mapping[str, str]) -> None:
    """Put Flower behind basic authentication, and make it read-only: it stops no worker and sends no job.

    The options are Tornado's and Flower's own; the handler of ``/metrics`` goes before the one that Flower has.
    """
    from flower.urls import handlers  # noqa: PLC0415 - only Flower's process needs it
    from flower.views.monitor import Metrics  # noqa: PLC0415

    flower_options.basic_auth = [f"{name}:{password}" for name, password in users.items()]
    flower_options.read_only = True
    flower_options.auth = ""
    flower_options.broker_api = None
    flower_options.max_tasks = FLOWER_TASKS
    guarded = type("GuardedMetrics", (Metrics,), {"get": authenticated(Metrics.get)})
    handlers.insert(0, ("/metrics", guarded))
