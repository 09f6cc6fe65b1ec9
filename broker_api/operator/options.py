"""Options and arguments that several commands have."""

from datetime import timedelta

import click

from broker_api.errors import BadRequest
from broker_api.service import operation_views
from broker_api.state.records import Binding

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many to list at most."
)
project = click.option("--project", metavar="ID", help="Only those of this Atlas project.")
gone = click.option("--gone", is_flag=True, help="Also those that are gone; their records are kept for two days.")
instance = click.option("--instance", "instance_id", metavar="ID", help="Only those of the instance of this id.")
yes = click.option("--yes", is_flag=True, help="Confirm; without it nothing is changed.")
identifier = click.argument("start", metavar="ID")


def duration(text: str) -> timedelta:
    """Return a duration such as ``30s``, ``5m``, ``2h`` or ``1d``.

    Raises:
        BadParameter: It is not in this form.
    """
    try:
        return operation_views.duration(text)
    except BadRequest as error:
        raise click.BadParameter(str(error)) from None


def name_of_binding(found: Binding) -> str:
    """Return the name of a binding, whose id is unique within its instance only."""
    return f"{found.binding_id} of the instance {found.instance_id}"
