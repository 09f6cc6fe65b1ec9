"""``atlas-broker users``: hashes of the passwords of platforms and operators, for BROKER_USERS."""

import sys

import click

from broker_api.logins import make_hash
from broker_api.operator import options, output

MAX_PASSWORD_BYTES = 1024


@click.group()
def users() -> None:
    """Work with the users in BROKER_USERS."""


@users.command("hash")
@options.as_json
def hash_password(*, as_json: bool) -> None:
    """Print the hash of a password, for BROKER_USERS.

    On a terminal it asks for the password; otherwise it reads the first line of standard input.
    """
    try:
        if sys.stdin.isatty():
            password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        else:
            password = sys.stdin.readline(MAX_PASSWORD_BYTES + 2).rstrip("\r\n")
        length = len(password.encode())
    except UnicodeError:
        raise click.ClickException("The password must be text in UTF-8.") from None
    if not 0 < length <= MAX_PASSWORD_BYTES:
        raise click.ClickException(f"The password must have 1 to {MAX_PASSWORD_BYTES} bytes.")
    made = make_hash(password)
    if as_json:
        output.show_record({"hash": made}, as_json=True)
    else:
        click.echo(made)
