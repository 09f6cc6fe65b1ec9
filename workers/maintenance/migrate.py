"""``atlas-broker migrate``: completes what atlasbroker 2.0.0 has left, and says whether any of it is left as it was."""

import json
import os

import click
from pymongo.errors import PyMongoError

from broker_api.errors import BrokerError, ErrStorageMongoConnection
from broker_api.json_types import JsonObject
from broker_api.settings.settings import load
from broker_api.state.encryption_key_check import CANARY_PLACE, WRONG_KEYS
from broker_api.state.mongo_errors import reason
from workers.atlas.client import AtlasError
from workers.context import Context, compose
from workers.maintenance.migration import AtlasUnusableError, Migration, MigrationProgress


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Write nothing, neither to MongoDB nor to Atlas; print what would be done."
)
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Documents read at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(*, dry_run: bool, batch: int, as_json: bool) -> None:
    """Complete what atlasbroker 2.0.0 has left in MongoDB and Atlas.

    Both brokers may run meanwhile. It needs the settings of a worker. It can be interrupted and repeated at any time.
    The exit status is 1 when something is left.
    """
    settings = load(os.environ, "worker")
    try:
        context = compose(settings)
        with context.store.collection.database.client:
            progress = _run(_migration(context, batch, dry_run=dry_run))
    except (ErrStorageMongoConnection, PyMongoError) as error:  # the DNS record of mongodb+srv:// is read at once
        why = error.reason if isinstance(error, ErrStorageMongoConnection) else reason(error)
        unusable = f"MongoDB cannot be used: {why}; look at BROKER_MONGO_URI, the network and the user."
        raise click.ClickException(unusable) from None
    except (AtlasUnusableError, AtlasError) as error:
        raise click.ClickException(f"{error} What is done stays done; run this again.") from None
    except BrokerError as error:
        raise click.ClickException(str(error)) from None
    told = _told(progress, dry_run=dry_run)
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(_lines(told)))
    if progress.unfinished or (progress.left and not dry_run):
        raise SystemExit(1)


def _run(migration: Migration) -> MigrationProgress:
    for progress in migration.run():
        click.echo(
            f"{progress.looked_at} documents looked at, {progress.converted} converted, "
            f"{progress.completed} completed, {progress.labelled} users labelled",
            err=True,
        )
    return migration.progress


def _migration(context: Context, batch: int, *, dry_run: bool) -> Migration:
    """Return a migration, after a check of the encryption keys, which make the MACs.

    Raises:
        ClickException: They are not those of the broker.
        ErrStorageMongoConnection: MongoDB cannot be used.
    """
    if dry_run:  # nothing may be written, also no canary
        context.store.now()
        canary = context.keys.canary()
        problem = WRONG_KEYS if canary and not context.vault.opens(canary, CANARY_PLACE) else None
    else:
        context.store.prepare()
        problem = context.keys.problem()
    if problem:
        raise click.ClickException(problem)
    return Migration(context, batch, dry_run=dry_run)


def _told(progress: MigrationProgress, *, dry_run: bool) -> JsonObject:
    """Return what the command prints."""
    left, unfinished = progress.left, progress.unfinished
    if dry_run:
        result = f"Nothing was changed. {left} documents and records of the old form would be brought into the new one"
        result += f", but for {unfinished}." if unfinished else "."
    elif left or unfinished:
        result = f"{left} documents and records of the old form are left; see the findings, and run this again."
    else:
        result = "Nothing of the old form is left."
    counts = ("old_documents", "converted", "duplicates", "completed", "labelled", "left")
    return {
        "dry_run": dry_run,
        **{name: getattr(progress, name) for name in counts},
        "findings": progress.findings,
        "result": result,
    }


def _lines(told: JsonObject) -> list[str]:
    """Return the lines for people: the counts, each finding, and the result."""
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in told.items() if isinstance(value, int)]
    for kind, found in told["findings"].items():
        for each in found:
            ids = " of the ".join(
                f"{name} {each[name]!r}" for name in ("binding", "instance", "document") if name in each
            )
            lines.append(f"{kind.replace('_', ' ')}: {ids}{': ' + each['why'] if 'why' in each else ''}")
    return [*lines, told["result"]]
