"""What commands print: tables for people, JSON for programs. Every field is named here; none holds a secret."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker_api.json_types import JsonObject
from broker_api.service.operation_views import duration_text, moment, state
from broker_api.state.private_values import known
from broker_api.state.records import Binding, Instance

PIPE_WIDTH = 400
"""The width of a table that no terminal shows, so that ids stay whole."""
LEAST_WIDTH = 140
"""The least width of a table; a terminal that is narrower breaks its lines, and every id can be read."""


def instance(found: Instance) -> JsonObject:
    """Return what a list tells about an instance."""
    return {
        "instance": found.instance_id,
        "phase": str(found.phase),
        "project": found.project,
        "cluster": found.cluster,
        "database": found.database,
        "operation": found.operation.id,
        "state": state(found.operation),
    }


def instance_details(found: Instance, bindings: Sequence[Binding]) -> JsonObject:
    """Return everything about an instance and which bindings it has."""
    return instance(found) | {
        "description": found.operation.description,
        "service": found.service_id,
        "plan": found.plan_id,
        "organization": found.organization_guid,
        "space": found.space_guid,
        "owns_database": found.owns_database,
        **_parameters(found),
        "bindings": [binding.binding_id for binding in bindings],
    }


def binding(found: Binding) -> JsonObject:
    """Return what a list tells about a binding."""
    return {
        "binding": found.binding_id,
        "instance": found.instance_id,
        "phase": str(found.phase),
        "project": found.project,
        "cluster": found.cluster,
        "user": found.username,
        "operation": found.operation.id,
        "state": state(found.operation),
    }


def binding_details(found: Binding) -> JsonObject:
    """Return everything about a binding but its credentials."""
    return binding(found) | {
        "description": found.operation.description,
        "database": found.database,
        "roles": found.roles,
        "application": found.app_guid,
        "predecessor": found.predecessor,
        "expires": moment(found.expires),
        "renew_before": moment(found.renew_before),
        **_parameters(found),
    }


def _parameters(found: Instance | Binding) -> JsonObject:
    """Return the known parameters, and whether there are others, whose values may be secrets."""
    shown = known(found.parameters)
    has_others = found.sealed_parameters or shown != found.parameters
    return {"parameters": shown, "other_parameters": "not shown" if has_others else None}


def show_list(rows: Iterable[JsonObject], columns: Sequence[str], limit: int, *, as_json: bool) -> None:
    """Print a list.

    Args:
        rows: The rows.
        columns: The fields that the table has; JSON has all of them.
        limit: How many rows were asked for at most.
        as_json: Print JSON.
    """
    listed = list(rows)
    if as_json:
        click.echo(json.dumps(listed, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:  # the first id stays whole; of the others the beginning is enough for a command
        table.add_column(name.upper(), no_wrap=name == columns[0])
    for row in listed:
        table.add_row(*(Text(_cell(name, row)) for name in columns))
    _console().print(table if listed else Text("There are none."))
    if len(listed) == limit:
        click.echo(f"There may be more than these {limit}: use --limit, or filters.", err=True)


def show_record(shown: JsonObject, *, as_json: bool) -> None:
    """Print one record, one field a line, without those that are empty."""
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    table = Table.grid(padding=(0, 2))
    for name, value in shown.items():
        if value in (None, [], {}, ""):
            continue
        lines = value if isinstance(value, list) else [value]
        text = "\n".join(_line(line) for line in lines)
        table.add_row(Text(name.replace("_", " ")), Text(text, overflow="fold"))
    _console().print(table)


def _cell(column: str, row: JsonObject) -> str:
    if column == "age":
        return duration_text(row["age_seconds"])
    return "" if row[column] is None else _line(row[column])


def _line(value: object) -> str:
    """Return the text of a value without control characters, which ids of a platform may have."""
    text = str(value)
    if isinstance(value, Mapping):
        text = ", ".join(f"{name}: {each}" for name, each in value.items() if each is not None)
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _console() -> Console:
    width = max(LEAST_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=width, highlight=False)
