"""The command ``atlas-broker``. Commands of parts that are not installed (no workers in the API image) are left out."""

import sys
from importlib.metadata import entry_points

import click

from broker_api import logs, server
from broker_api.broker import Broker, front_end
from broker_api.errors import SettingError


@click.group()
@click.version_option(package_name="atlas-broker")
def cli() -> None:
    """Atlas Broker: databases on MongoDB Atlas for platforms that speak the Open Service Broker API."""


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, help="Port to listen on.")
def api(host: str, port: int) -> None:
    """Serve the API; workers run elsewhere: celery -A workers worker."""
    logs.configure()
    made = Broker().settings
    server.serve(lambda: front_end(made), host, port)


def main() -> None:
    """Run the command line; a wrong setting is one line, not a traceback."""
    for found in entry_points(group="atlas_broker.commands"):
        try:
            cli.add_command(found.load())
        except ModuleNotFoundError:
            continue
    try:
        cli()
    except SettingError as error:
        sys.exit(f"atlas-broker: {error}")
