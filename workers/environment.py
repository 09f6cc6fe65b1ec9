"""Keeps Celery's commands from obeying the environment: what an operator sets is a setting of the broker or an option.

Celery's command line takes ``CELERY_WORKER_POOL`` for ``celery worker --pool``, and so on for each option of each
command; Flower takes ``FLOWER_BASIC_AUTH`` for its option, and ends with a traceback when a value is not of the type.
"""

import os
from collections.abc import Iterator, Mapping

import click

from broker_api.settings.foreign_variables import CELERY_VARIABLES, ignored

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

_found: list[str] = []
"""What was ignored in this process; it is told once logs are set up."""


def ignore() -> None:
    """Let Celery's command that is just starting not see the variables; nothing happens elsewhere.

    The commands of one Celery command line are parsed after the application was imported, its own options before.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.auto_envvar_prefix != "CELERY":
        return
    _found.extend(ignored(os.environ, _option_variables(context.command)))
    context.auto_envvar_prefix = None
    for name in ignored(os.environ, FLOWER_VARIABLES):
        del os.environ[name]
        _found.append(name)


def told() -> list[str]:
    """Return what was ignored and has not been told yet."""
    names = sorted({*_found, *ignored(os.environ, CELERY_VARIABLES)})
    _found.clear()
    return names


def all_ignored(environ: Mapping[str, str]) -> list[str]:
    """Return every variable that some process of the broker would ignore."""
    from celery.bin.celery import celery  # noqa: PLC0415 - Celery's whole command line

    return ignored(environ, (*CELERY_VARIABLES, *_option_variables(celery), *FLOWER_VARIABLES))


def _option_variables(group: click.Command) -> Iterator[str]:
    for name, command in (group.commands if isinstance(group, click.Group) else {}).items():
        for parameter in command.params:
            yield f"CELERY_{name}_{parameter.name}".upper().replace("-", "_")
