"""``atlas-broker reconcile``: lets a worker compare Atlas with MongoDB, and prints the result."""

import json
import time
from uuid import uuid4

import click

from broker_api.jobs.queue import RECONCILE
from broker_api.json_types import JsonObject
from broker_api.operator import options, output
from broker_api.operator.session import Session, opened
from broker_api.state.housekeeping import RECONCILED

POLL_SECONDS = 0.2


@click.command()
@click.option(
    "--repair",
    is_flag=True,
    help="Remove users without a binding, and create users that are missing. Clusters are only reported.",
)
@click.option(
    "--wait", type=click.IntRange(1, 3600), default=60, show_default=True, help="Seconds to wait for the result."
)
@options.as_json
def reconcile(*, repair: bool, wait: int, as_json: bool) -> None:
    """Compare the broker's users and clusters in Atlas with MongoDB.

    A worker does this, and the command prints its result. The exit status is 1 when something could not be compared.
    """
    run = uuid4().hex
    with opened() as session:
        session.housekeeping.request_reconciliation(run, repair=repair)
        if not session.queue.send(RECONCILE, [run]):
            raise click.ClickException(session.queue.problem() or "Redis did not take the message; try again.")
        result = _result(session, run, wait)
    output.show_record(result, as_json=as_json)
    if result["not_compared"] or result["users_not_compared"]:
        raise SystemExit(1)


def _result(session: Session, run: str, wait: int) -> JsonObject:
    """Return the result that a worker has stored.

    Raises:
        ClickException: There is none after ``wait`` seconds.
    """
    deadline = time.monotonic() + wait
    while (stored := session.housekeeping.read(RECONCILED)).get("run") != run:
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"No result after {wait} s: see whether a worker serves the queue maintenance, and its log. The "
                "message stays in the queue."
            )
        time.sleep(POLL_SECONDS)
    return {
        "users_without_binding": stored["orphans"],
        "bindings_without_user": stored["missing"],
        "users_not_compared": stored.get("undecided", 0),  # a worker of an earlier release stores no such numbers
        "clusters_without_instance": stored.get("clusters", 0),
        "instances_without_cluster": stored.get("instances", 0),
        "repaired": stored["repaired"],
        "differences": json.loads(stored["differences"]),
        "not_compared": json.loads(stored["not_compared"]),
    }
