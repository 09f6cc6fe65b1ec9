"""The one table from exceptions to answers, and the handlers that apply it.

Every answer is a JSON object with a ``description`` for the platform's user. ``error`` is there only with the codes
that the specification fixes: Cloud Foundry takes others on 422 for a broken broker and deletes what it asked for.
"""

from dataclasses import dataclass, field

import structlog
from flask import Flask, Response, current_app, g
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from broker_api import errors
from broker_api.json_types import JsonObject
from broker_api.osb.answers import answer
from broker_api.osb.versions import ERROR, known

log = structlog.get_logger()

_NO_STORAGE = "The broker cannot reach its database at the moment. Ask again in a while."


@dataclass(frozen=True)
class _Answer:
    """``description`` replaces the exception's own message where that is not for a platform's user."""

    status: int
    code: str | None = None
    description: str | None = None
    more: JsonObject = field(default_factory=dict)


TABLE: dict[type[Exception], _Answer] = {
    errors.BadRequest: _Answer(400),
    errors.NotFound: _Answer(404),
    errors.Gone: _Answer(410),
    errors.Conflict: _Answer(409),
    errors.AsyncRequired: _Answer(422, "AsyncRequired"),
    errors.ConcurrencyError: _Answer(422, "ConcurrencyError"),
    errors.MaintenanceInfoConflict: _Answer(422, "MaintenanceInfoConflict"),
    errors.UpdateNotSupported: _Answer(422, more={"update_repeatable": False}),
    errors.OperationFailed: _Answer(500),
    errors.OutOfTime: _Answer(504),
    errors.ErrPlanUnsupported: _Answer(400),
    errors.ErrClusterNotFound: _Answer(400),
    errors.ErrClusterConfig: _Answer(500),
    errors.ErrStorageFindInstance: _Answer(404),
    errors.ErrStorageMongoConnection: _Answer(503, description=_NO_STORAGE),
    errors.ErrStorageUnreadable: _Answer(503),
    errors.ErrStorageRemoveInstance: _Answer(500),
    errors.ErrStorageRemoveBinding: _Answer(500),
    errors.ErrStorageStore: _Answer(500),
    errors.ErrStorageTooLarge: _Answer(400),
    errors.UndecryptableError: _Answer(500),
}

_DESCRIPTIONS = {
    404: "There is no such path.",
    405: "This path does not have this method; the header Allow names those that it has.",
}


def answer_errors(app: Flask) -> None:
    """Make every exception of the app an answer."""
    for kind in TABLE:
        app.register_error_handler(kind, _expected)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _unexpected)


def _expected(error: Exception) -> Response:
    said = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    if said.status >= 500:  # noqa: PLR2004 - from there on it is the broker's fault
        log.error("request failed", reason=getattr(error, "reason", "") or str(error), status=said.status)
    body = {"error": said.code, "description": said.description or str(error), **said.more}
    return answer(said.status, known(body, ERROR))


def _too_large(_: RequestEntityTooLarge) -> Response:
    maximum = current_app.config["MAX_CONTENT_LENGTH"] - 1
    return answer(413, {"description": f"The body must have at most {maximum} bytes."})


def _of_http(error: HTTPException) -> Response:
    """Answer what Flask says no to; its own sentences are about browsers."""
    original = getattr(error, "original_exception", None)
    if original is not None:
        return _unexpected(original)
    status = error.code or 500
    own = error.description if error.description != type(error).description else None
    response = answer(status, {"description": own or _DESCRIPTIONS.get(status, "The request cannot be understood.")})
    response.headers.extend([(name, value) for name, value in error.get_headers() if name != "Content-Type"])
    return response


def _unexpected(error: Exception) -> Response:
    log.error("request met an unexpected error", exc_info=error)
    description = (
        "The broker has met an error of its own; its operator finds the cause in the log under the request id "
        f"{g.get('request_id', 'unknown')}."
    )
    return answer(500, {"description": description})
