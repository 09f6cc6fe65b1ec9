"""Options and arguments that several commands have, and the choice of one record by the start of its id."""

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import click

from broker_api.state.operator_queries import CANDIDATES
from broker_api.state.records import Binding

Found = TypeVar("Found")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many to list at most."
)
project = click.option("--project", metavar="ID", help="Only those of this Atlas project.")
gone = click.option("--gone", is_flag=True, help="Also those that are gone; their records are kept for two days.")
instance = click.option("--instance", "instance_id", metavar="ID", help="Only those of the instance of this id.")
yes = click.option("--yes", is_flag=True, help="Confirm; without it nothing is changed.")
identifier = click.argument("start", metavar="ID")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> timedelta:
    """Return a duration such as ``30s``, ``5m``, ``2h`` or ``1d``.

    Raises:
        BadParameter: It is not in this form.
    """
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; write 30s, 5m, 2h or 1d.")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def the_one(found: Sequence[Found], start: str, what: str, name: Callable[[Found], str]) -> Found:
    """Return the only one that was found.

    Args:
        found: Those whose id begins with ``start``.
        start: What the operator has given.
        what: What was looked for, such as ``operation``.
        name: Returns the name that distinguishes one of them from the others.

    Raises:
        ClickException: There is none, or there are several.
    """
    if not found:
        raise click.ClickException(f"There is no {what} {start}, and none whose id begins so.")
    if len(found) > 1:
        names = ", ".join(name(each) for each in found[: CANDIDATES - 1])
        more = ", …" if len(found) == CANDIDATES else ""
        raise click.ClickException(f"Several {what}s fit {start}: {names}{more}. Give more of the id.")
    return found[0]


def name_of_binding(found: Binding) -> str:
    """Return the name of a binding, whose id is unique within its instance only."""
    return f"{found.binding_id} of the instance {found.instance_id}"
