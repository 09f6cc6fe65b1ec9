"""The command ``atlas-broker``; without commands of parts that are not installed (the API image has no workers)."""

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

import click

from broker_api import logs, server
from broker_api.broker import Broker, front_end
from broker_api.errors import SettingError
from broker_api.settings import foreign_variables

_GROUP = "atlas_broker.commands"


class _Commands(click.Group):
    """The commands of this package and those of other parts, which are imported when they are called.

    ``atlas-broker api`` therefore never imports the workers, and an image without a part lacks only its commands.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands that are installed."""
        offered = (found.name for found in entry_points(group=_GROUP) if _is_installed(found))
        return sorted([*super().list_commands(context), *offered])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a command."""
        for found in entry_points(group=_GROUP, name=name):
            if _is_installed(found):
                command: click.Command = found.load()
                return command
        return super().get_command(context, name)


def _is_installed(found: EntryPoint) -> bool:
    """Return whether the part with this command is installed."""
    try:
        return find_spec(found.module) is not None
    except ModuleNotFoundError:
        return False


@click.group(cls=_Commands)
@click.version_option(package_name="atlas-broker")
def cli() -> None:
    """Atlas Broker: databases on MongoDB Atlas for platforms that speak the Open Service Broker API."""


@cli.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; :: is every one, of IPv6 and IPv4."
)
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="Port; 0: any free one.")
def api(host: str, port: int) -> None:
    """Serve the API; workers run elsewhere: celery -A workers worker."""
    logs.configure()
    foreign_variables.warn(foreign_variables.ignored(os.environ))
    broker = Broker()
    broker.check_encryption_keys()
    made = broker.settings
    server.serve(lambda: front_end(made), server.listen(host, port), made.sync_wait)


def main() -> None:
    """Run the command line; end with one line when a setting is wrong."""
    try:
        cli()
    except SettingError as error:
        sys.exit(f"atlas-broker: {error}")
