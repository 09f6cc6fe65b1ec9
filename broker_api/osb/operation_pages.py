"""The pages ``/operations`` and ``/operations/<id>`` for operators, in HTML. They only read and need no script.

A path below ``/operations`` has its errors in HTML too. The only style sheet is inside each page; the policy of the
page names its digest, and forbids everything else.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from flask import Response, make_response, render_template, request, url_for

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject
from broker_api.service.operation_views import STATES, OperationReader, duration, duration_text
from broker_api.service.schemas import MAX_ID_LENGTH
from broker_api.state.open_operations import LONG_SECONDS
from broker_api.state.operator_queries import Cursor, OperationFilter
from broker_api.state.records import Kind, State

PATH: Final = "/operations"
ROWS = 50

_QUERY_FIELDS = ("state", "type", "older-than", "instance", "waiting-on")
_AFTER = "after"
_DIGITS = slice(0, 19)


def is_page() -> bool:
    """Return whether the request is for one of the pages."""
    return request.path == PATH or request.path.startswith(f"{PATH}/")


def error_page(status: int, sentence: str) -> Response:
    """Return the response to an error of a request for a page."""
    return _page("error.html", status, title=HTTPStatus(status).phrase, sentence=sentence)


@dataclass(frozen=True)
class OperationPages:
    """The views."""

    operations: OperationReader

    def show_list(self) -> Response:
        """Return the page of the operations that the filters in the query select, those accepted last first."""
        given = {name: request.args.get(name, "").strip() for name in (*_QUERY_FIELDS, _AFTER)}
        try:
            _check_names()
            wanted, after = _filter(given), _cursor(given[_AFTER])
        except BadRequest as error:
            return _page("operations.html", HTTPStatus.BAD_REQUEST, **_form(given), sentence=str(error), rows=[])
        now = self.operations.now()
        rows, following = self.operations.listed(wanted, ROWS, after, now)
        older = url_for("operations", **_set(given) | {_AFTER: str(following)}) if following else None
        shown = _form(given) | {"rows": [*map(_row, rows)], "older": older, "now": now}
        return _page("operations.html", HTTPStatus.OK, **shown)

    def show_one(self, operation_id: str) -> Response:
        """Return the page of one operation with its life."""
        now = self.operations.now()
        found = self.operations.life(operation_id, now)
        flower = f"{self.operations.flower_url}/task/{found['operation']}" if self.operations.flower_url else None
        return _page(
            "operation.html",
            HTTPStatus.OK,
            one=_row(found),
            flower=flower,
            asked_by=" ".join((found.get("asked_by") or {}).values()),
            now=now,
        )


def _check_names() -> None:
    for name in request.args:
        if name not in (*_QUERY_FIELDS, _AFTER):
            raise BadRequest(f"There is no filter {name!r}; there are {', '.join(_QUERY_FIELDS)}.")


def _filter(given: Mapping[str, str]) -> OperationFilter:
    """Return the filter of the query.

    Raises:
        BadRequest: A value is wrong.
    """
    state, kind, older_than = given["state"], given["type"], given["older-than"]
    if state and state not in STATES:
        raise BadRequest(f"There is no state {state!r}; there are {', '.join(STATES)}.")
    if kind and kind not in [*Kind]:
        raise BadRequest(f"There is no type {kind!r}; there are {', '.join(Kind)}.")
    for name in ("instance", "waiting-on"):
        if len(given[name]) > MAX_ID_LENGTH or "\x00" in given[name]:
            raise BadRequest(f"The value of {name} must have at most {MAX_ID_LENGTH} characters, and no NUL.")
    return OperationFilter(
        state=STATES[state] if state else None,
        kind=kind or None,
        older_than=duration(older_than) if older_than else None,
        instance_id=given["instance"] or None,
        waits_on=given["waiting-on"] or None,
    )


def _cursor(text: str) -> Cursor | None:
    cursor = Cursor.parse(text)
    if text and cursor is None:
        raise BadRequest("The value of after is none of the broker's links; begin with the newest operations.")
    return cursor


def _set(given: Mapping[str, str]) -> dict[str, Any]:
    return {name: given[name] for name in _QUERY_FIELDS if given.get(name)}


def _form(given: Mapping[str, str]) -> JsonObject:
    """Return what the form and the links above the list need."""
    shown: Mapping[str, str] = {"": "All", **{name: state.capitalize() for name, state in STATES.items()}}
    links = [
        {
            "text": text,
            "url": url_for("operations", **_set({**given, "state": name})),
            "current": name == given["state"],
        }
        for name, text in shown.items()
    ]
    newest = url_for("operations", **_set(given)) if given[_AFTER] else None
    return {"given": given, "links": links, "states": shown, "kinds": [*Kind], "newest": newest}


def _row(found: JsonObject) -> JsonObject:
    """Return an operation with what the templates add: how it is marked, and its moments in one form."""
    in_progress = found["state"] == State.IN_PROGRESS
    age = found.get("age_seconds", 0)
    late = "very-late" if age > LONG_SECONDS[1] else "late" if age > LONG_SECONDS[0] else ""
    return found | {"mark": found["state"].split(",")[0].replace(" ", "-"), "late": late if in_progress else ""}


def _absolute(moment: str | None) -> str:
    """Return a moment as people read it; seconds are enough."""
    return f"{moment[_DIGITS].replace('T', ' ')} UTC" if moment else ""


def _relative(moment: str | None, now: datetime) -> str:
    """Return how long ago a moment was, or in how long it will be."""
    if not moment:
        return ""
    seconds = (now - datetime.fromisoformat(moment)).total_seconds()
    return f"{duration_text(seconds)} ago" if seconds >= 0 else f"in {duration_text(-seconds)}"


def _took(begin: str | None, end: str | None) -> str:
    """Return the time between two moments; below ten seconds with its tenths."""
    if not begin or not end:
        return ""
    seconds = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    return f"{seconds:.1f}s" if 0 <= seconds < 10 else duration_text(seconds)  # noqa: PLR2004 - as the docstring says


TEMPLATE_FILTERS = {"absolute": _absolute, "relative": _relative, "took": _took, "duration": duration_text}
"""The filters of the templates."""


@functools.cache
def _style() -> tuple[str, str]:
    """Return the style sheet, and the policy of the pages, which allows this style sheet only."""
    style = Path(__file__).with_name("templates").joinpath("page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return style, (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _page(template: str, status: int, **values: object) -> Response:
    """Return a page that no other site can frame, that no proxy keeps, and that loads nothing."""
    style, policy = _style()
    response = make_response(render_template(template, style=style, **values), status)
    response.headers.update(
        {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
    )
    return response
