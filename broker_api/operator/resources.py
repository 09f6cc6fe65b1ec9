"""``atlas-broker instances``, ``bindings`` and ``purge``."""

import click

from broker_api.operator import options, output
from broker_api.operator.session import opened
from broker_api.service.operation_views import the_one

INSTANCE_COLUMNS = ("instance", "phase", "project", "cluster", "database", "operation", "state")
BINDING_COLUMNS = ("binding", "instance", "phase", "project", "cluster", "user", "operation", "state")

_of_instance = click.option("--instance", "instance_id", metavar="ID", help="Its instance, if several have the id.")


@click.group()
def instances() -> None:
    """List and show instances. ID is the id of the instance, or its beginning."""


@instances.command("list")
@options.project
@options.gone
@options.limit
@options.as_json
def list_instances(*, project: str | None, gone: bool, limit: int, as_json: bool) -> None:
    """List instances with their project, cluster and latest operation."""
    with opened() as session:
        found = session.queries.instances(project, limit, gone=gone)
    output.show_list(map(output.instance, found), INSTANCE_COLUMNS, limit, as_json=as_json)


@instances.command("show")
@options.identifier
@options.as_json
def show_instance(start: str, *, as_json: bool) -> None:
    """Show an instance and the ids of its bindings."""
    with opened() as session:
        found = the_one(session.queries.by_instance(start), start, "instance", lambda each: each.instance_id)
        bindings = session.store.bindings(found.instance_id)
    output.show_record(output.instance_details(found, bindings), as_json=as_json)


@click.group()
def bindings() -> None:
    """List and show bindings, never their passwords. ID is the id of the binding, or its beginning."""


@bindings.command("list")
@options.project
@options.instance
@options.gone
@options.limit
@options.as_json
def list_bindings(*, project: str | None, instance_id: str | None, gone: bool, limit: int, as_json: bool) -> None:
    """List bindings with their database user and latest operation."""
    with opened() as session:
        found = session.queries.bindings(project, instance_id, limit, gone=gone)
    output.show_list(map(output.binding, found), BINDING_COLUMNS, limit, as_json=as_json)


@bindings.command("show")
@options.identifier
@_of_instance
@options.as_json
def show_binding(start: str, *, instance_id: str | None, as_json: bool) -> None:
    """Show a binding without its credentials."""
    with opened() as session:
        listed = session.queries.by_binding(start, instance_id)
        found = the_one(listed, start, "binding", options.name_of_binding)
    output.show_record(output.binding_details(found), as_json=as_json)


@click.group()
def purge() -> None:
    """Forget an instance or binding that Atlas can never remove.

    Its project or cluster is gone for ever. Nothing is asked of Atlas.
    """


@purge.command("instance")
@options.identifier
@click.option("--with-bindings", is_flag=True, help="Purge the bindings of the instance too.")
@options.yes
@options.as_json
def purge_instance(start: str, *, with_bindings: bool, yes: bool, as_json: bool) -> None:
    """Forget an instance and its reservation of a database."""
    with opened() as session:
        found = the_one(session.queries.by_instance(start), start, "instance", lambda each: each.instance_id)
        _require_yes(f"the instance {found.instance_id}", yes=yes)
        purged = session.actions.purge_instance(found, with_bindings=with_bindings)
    output.show_record({"purged": found.instance_id, "bindings": purged}, as_json=as_json)


@purge.command("binding")
@options.identifier
@_of_instance
@options.yes
@options.as_json
def purge_binding(start: str, *, instance_id: str | None, yes: bool, as_json: bool) -> None:
    """Forget a binding. If its user still exists in Atlas, the next reconciliation reports it."""
    with opened() as session:
        listed = session.queries.by_binding(start, instance_id)
        found = the_one(listed, start, "binding", options.name_of_binding)
        _require_yes(f"the binding {found.binding_id} of the instance {found.instance_id}", yes=yes)
        session.actions.purge_binding(found)
    output.show_record({"purged": found.binding_id, "instance": found.instance_id}, as_json=as_json)


def _require_yes(what: str, *, yes: bool) -> None:
    if not yes:
        raise click.ClickException(f"This forgets {what}, whatever is left of it in Atlas. Confirm with --yes.")
