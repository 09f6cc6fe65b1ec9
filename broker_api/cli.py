"""The command ``atlas-broker``, without the commands of parts that are not installed (the API image has no workers)."""

import contextlib
import gc
import io
import logging
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

import click

from broker_api import logs
from broker_api.errors import SettingError
from broker_api.settings import ignored_variables

_GROUP = "atlas_broker.commands"
_OPERATOR = {
    "operations": "broker_api.operator.operations:operations",
    "instances": "broker_api.operator.resources:instances",
    "bindings": "broker_api.operator.resources:bindings",
    "purge": "broker_api.operator.resources:purge",
    "keys": "broker_api.operator.keys:keys",
    "reconcile": "broker_api.operator.reconcile:reconcile",
    "users": "broker_api.operator.users:users",
}
"""The commands of operators, which are imported only when they are called: ``api`` needs no tables."""


class _Commands(click.Group):
    """The commands of this package, and those of other parts. A part is imported only when its command is called.

    Therefore ``atlas-broker api`` never imports the workers.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all installed commands."""
        return [name for name in sorted([*self.commands, *_further_commands()]) if self.get_command(context, name)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a command; return None when there is no such command, or when it is not installed.

        The package declares the commands of all its parts, so a declared command may be absent from an image.
        """
        if own := super().get_command(context, name):
            return own
        further = _further_commands().get(name)
        with contextlib.suppress(ModuleNotFoundError):
            if further and find_spec(further.module):
                command: click.Command = further.load()
                return command
        return None


def _further_commands() -> dict[str, EntryPoint]:
    """Return the commands of operators and of other parts by name, without importing them."""
    declared = {each.name: each for each in entry_points(group=_GROUP)}
    return declared | {name: EntryPoint(name, module, _GROUP) for name, module in _OPERATOR.items()}


@click.group(cls=_Commands)
@click.version_option(package_name="atlas-broker")
def cli() -> None:
    """Atlas Broker: databases on MongoDB Atlas for platforms that speak the Open Service Broker API."""


@cli.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; :: is every address of IPv6 and IPv4."
)
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="Port; 0: any free one.")
@click.option("--tls-cert", help="Serve HTTPS with this certificate (PEM), read again when the file changes.")
@click.option("--tls-key", help="The private key of the certificate (PEM, without a password).")
def api(host: str, port: int, tls_cert: str | None, tls_key: str | None) -> None:
    """Serve the API. Workers are other processes: celery -A workers worker."""
    if bool(tls_cert) != bool(tls_key):
        raise click.UsageError("--tls-cert and --tls-key belong together.")
    logs.configure()
    ignored_variables.warn(ignored_variables.ignored(os.environ))
    gc.disable()  # modules leave no garbage, and a search for it in all of them takes a tenth of the start
    from broker_api import server  # noqa: PLC0415 - the web server, which no other command needs
    from broker_api.certificate import ServerCertificate  # noqa: PLC0415 - only this command needs it

    certificate = ServerCertificate(tls_cert, tls_key) if tls_cert and tls_key else None
    with server.shared_metrics():
        from broker_api.broker import Broker, FrontEnd  # noqa: PLC0415 - imports prometheus_client

        gc.enable()
        broker = Broker()
        broker.check_encryption_keys()
        made, listener = broker.settings, server.listen(host, port)
        server.serve(FrontEnd.compose(made, os.environ), listener, made.sync_wait, made.processes, certificate)


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: the command has ended; with one line on standard error when a setting is wrong.
    """
    logs.configure(logging.CRITICAL)  # commands print their findings and errors; a server turns its log on
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not show each character
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        sys.exit("atlas-broker: arguments must be text in UTF-8")
    try:
        cli()
    except SettingError as error:
        sys.exit(f"atlas-broker: {error}")
