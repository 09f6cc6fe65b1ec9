"""``atlas-broker operations``: list, show, retry and cancel operations."""

from datetime import timedelta

import click

from broker_api.operator import options, output
from broker_api.operator.session import Session, opened
from broker_api.service import operation_views as views
from broker_api.state.operator_queries import OperationFilter
from broker_api.state.records import Binding, Instance, Kind

COLUMNS = ("operation", "state", "instance", "binding", "cluster", "age", "description")


@click.group()
def operations() -> None:
    """List, show, retry and cancel operations. ID is the operation that the platform got, or its beginning."""


@operations.command("list")
@click.option("--state", type=click.Choice([*views.STATES]), help="Only those in this state.")
@click.option("--type", "kind", type=click.Choice([kind.value for kind in Kind]), help="Only those of this type.")
@click.option("--older-than", type=options.duration, help="Only those accepted so long ago: 30s, 5m, 2h, 1d.")
@options.instance
@click.option("--waiting-on", metavar="NAME", help="Only those that wait on this cluster.")
@options.limit
@options.as_json
def list_(
    *,
    state: str | None,
    kind: str | None,
    older_than: timedelta | None,
    instance_id: str | None,
    waiting_on: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the latest operation of each instance and binding. Those accepted last come first."""
    wanted = OperationFilter(views.STATES[state] if state else None, kind, older_than, instance_id, waiting_on)
    with opened() as session:
        found, now = session.queries.operations(wanted, limit).records, session.store.now()
    output.show_list((views.operation(each, now) for each in found), COLUMNS, limit, as_json=as_json)


@operations.command()
@options.identifier
@options.as_json
def show(start: str, *, as_json: bool) -> None:
    """Show an operation: its steps, on what it waits, its last error.

    It also shows which worker runs it, and what operators have changed.
    """
    with opened() as session:
        found, operation_id = views.find_operation(session.queries, start)
        shown = views.life(found, operation_id, session.store.now())
    output.show_record(shown, as_json=as_json)


@operations.command()
@options.identifier
@options.as_json
def retry(start: str, *, as_json: bool) -> None:
    """Let an operation that has failed begin again, with a new deadline. Deletes can be retried too."""
    with opened() as session:
        found = _find_latest(session, start)
        session.actions.retry(found)
        _report(session, found, as_json=as_json)


@operations.command()
@options.identifier
@options.as_json
def cancel(start: str, *, as_json: bool) -> None:
    """Fail an operation in progress. Workers then remove what it has made."""
    with opened() as session:
        found = _find_latest(session, start)
        session.actions.cancel(found)
        _report(session, found, as_json=as_json)


def _find_latest(session: Session, start: str) -> Instance | Binding:
    found, operation_id = views.find_operation(session.queries, start)
    if operation_id != found.operation.id:
        raise click.ClickException(f"{operation_id} is over: {found.operation.id} has followed it.")
    return found


def _report(session: Session, found: Instance | Binding, *, as_json: bool) -> None:
    """Send the job of an operation that was changed, and print how it is now."""
    session.send(found)
    now = session.store.get(found.key) or found
    output.show_record(views.operation(now, session.store.now()), as_json=as_json)
