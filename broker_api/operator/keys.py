"""``atlas-broker keys``: makes keys, counts what each has encrypted, and encrypts everything with the first one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click
from cryptography.fernet import Fernet

from broker_api.errors import SettingError
from broker_api.json_types import JsonObject
from broker_api.operator import options, output
from broker_api.operator.session import opened
from broker_api.state.encryption import FERNET, Vault
from broker_api.state.key_rotation import NOT_HERE, KeyRotation, KeyUse

COLUMNS = ("key", "in_settings", "secrets", "macs", "canary")
SHOWN_LEFT = 20


@click.group()
def keys() -> None:
    """Make, count and rotate the encryption keys. A key is named by its id, which tells nothing about it."""


@keys.command()
@options.as_json
def generate(*, as_json: bool) -> None:
    """Make a key for BROKER_ENCRYPTION_KEYS or BROKER_WORKER_KEYS.

    No other command prints a secret.
    """
    made = Fernet.generate_key().decode()
    (key_id,) = Vault((made,)).ids
    click.echo(json.dumps({"key": made, "id": key_id}, indent=2) if as_json else made)
    if not as_json:
        click.echo(f"Its id is {key_id}.", err=True)


@keys.command()
@options.as_json
def status(*, as_json: bool) -> None:
    """Count what each key has encrypted or signed.

    The exit status is 1 when the settings lack a key that is needed to read what is stored.
    """
    with _rotation() as (rotation, vault):
        use = rotation.use()
    rows = _rows(use, vault)
    if as_json:
        told: JsonObject = {
            "keys": rows,
            "worker_keys": dict(use.worker_secrets),
            "not_needed": _not_needed(use, vault),
        }
        told |= {"without_macs": use.without_macs, "in_clear": use.in_clear, "macs_required": use.macs_required}
        click.echo(json.dumps(told, indent=2))
    else:
        output.show_list(rows, COLUMNS, len(rows) + 1, as_json=False)
        click.echo(_advice(use, vault))
    if _missing(use, vault):
        raise SystemExit(1)


@keys.command()
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Documents read at a time."
)
@options.as_json
def rotate(*, batch: int, as_json: bool) -> None:
    """Encrypt and sign everything anew with the first key.

    The broker may run meanwhile. It can be interrupted and repeated at any time. The exit status is 1 when something is
    left.
    """
    looked_at = rewritten = 0
    left: dict[str, str] = {}
    with _rotation() as (rotation, vault):
        if problem := rotation.problem():
            raise click.ClickException(problem)
        for progress in rotation.rotate(batch):
            looked_at, rewritten, left = progress.looked_at, progress.rewritten, progress.left
            click.echo(f"{looked_at} documents looked at, {rewritten} rewritten, {len(left)} left", err=True)
        use = rotation.use()
    told: JsonObject = {"looked_at": looked_at, "rewritten": rewritten, "left": len(left)}
    told["why"] = dict(list(left.items())[:SHOWN_LEFT])
    told |= {"not_needed": _not_needed(use, vault), "macs_required": use.macs_required, "advice": _advice(use, vault)}
    output.show_record(told, as_json=as_json)
    if left or not use.is_all_under(vault.ids[0]) or not use.macs_required:
        raise SystemExit(1)


@contextmanager
def _rotation() -> Iterator[tuple[KeyRotation, Vault]]:
    with opened() as session:
        vault = session.store.macs.vault
        if not vault.has_keys:
            raise SettingError("BROKER_ENCRYPTION_KEYS: must be the keys of the broker, the new one first")
        yield KeyRotation(session.store), vault


def _rows(use: KeyUse, vault: Vault) -> list[JsonObject]:
    places = {key_id: "first" if place == 0 else "also" for place, key_id in enumerate(vault.ids)}
    return [
        {
            "key": key_id,
            "in_settings": places.get(key_id, "any" if key_id == FERNET else "missing"),
            "secrets": use.secrets[key_id],
            "macs": use.macs[key_id],
            "canary": "yes" if use.canary == key_id else "",
        }
        for key_id in dict.fromkeys([*vault.ids, *sorted(use.needed())])
    ]


def _not_needed(use: KeyUse, vault: Vault) -> list[str]:
    """Return the ids of the keys that can be taken away; none as long as a secret does not name its key."""
    return [] if FERNET in use.needed() else [key_id for key_id in vault.ids[1:] if key_id not in use.needed()]


def _missing(use: KeyUse, vault: Vault) -> list[str]:
    missing = use.needed() - {*vault.ids, FERNET}
    return sorted(missing - {NOT_HERE} or missing)


def _advice(use: KeyUse, vault: Vault) -> str:
    first, *others = vault.ids
    if missing := _missing(use, vault):
        return f"Put back into BROKER_ENCRYPTION_KEYS: {', '.join(missing)}. What is under them cannot be used."
    if not use.is_all_under(first):
        return f"Run atlas-broker keys rotate: not everything is under the first key {first} or has MACs."
    if not use.macs_required:
        return "Run atlas-broker keys rotate: everything has MACs, but documents without MACs are still accepted."
    if others:
        return f"Everything is under {first}. When all processes have it first, take away: {', '.join(others)}."
    return f"Everything is under {first}, the only key."
