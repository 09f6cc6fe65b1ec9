"""The table of the answer to each exception, and the error handlers of the app.

Every answer is a JSON object with a ``description`` for the platform's user; for operators' pages it is a page.
``error`` holds only codes of the specification: after a 422 with another code Cloud Foundry deletes the instance or
binding that it wanted to make.
"""

from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from flask import Flask, Response, current_app, g
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from broker_api import errors
from broker_api.json_types import JsonObject
from broker_api.osb.api_versions import ERROR, known
from broker_api.osb.operation_pages import error_page, is_page
from broker_api.osb.responses import json_response

log = structlog.get_logger(__name__)

_NO_STORAGE = "The broker cannot reach its database at the moment. Ask again in a while."


@dataclass(frozen=True)
class _Answer:
    """The answer to an exception. ``description`` replaces a message that is not for a platform's user."""

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
    errors.TamperedError: _Answer(500),
}

_DESCRIPTIONS = {
    404: "There is no such path.",
    405: "This path does not have this method; the header Allow names those that it has.",
}


def answer_errors(app: Flask) -> None:
    """Register the error handlers; afterwards every exception has an answer with a sentence."""
    for kind in TABLE:
        app.register_error_handler(kind, _expected)
    app.register_error_handler(HTTPException, _of_flask)
    app.register_error_handler(Exception, _unexpected)


def _expected(error: Exception) -> Response:
    row = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    if row.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request_failed", reason=getattr(error, "reason", "") or str(error), status=row.status)
    body = {"error": row.code, "description": row.description or str(error), **row.more}
    return _response(row.status, known(body, ERROR))


def _of_flask(error: HTTPException) -> Response:
    """Answer an error of Flask, such as 404. Flask's own sentences are for users of browsers and are replaced."""
    original = getattr(error, "original_exception", None)
    if original is not None:
        return _unexpected(original)
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if error.description != type(error).description:
        description = error.description  # a sentence of the broker
    elif isinstance(error, RequestEntityTooLarge):
        description = f"The body must have at most {current_app.config['MAX_CONTENT_LENGTH'] - 1} bytes."
    else:
        description = _DESCRIPTIONS.get(status, "The request cannot be understood.")
    response = _response(status, {"description": description})
    response.headers.extend([(name, value) for name, value in error.get_headers() if name != "Content-Type"])
    return response


def _unexpected(error: Exception) -> Response:
    request_id = g.get("request_id", "unknown")
    log.error("request_met_unexpected_error", exc_info=error)
    description = f"Internal error of the broker; quote the request id {request_id} to its operator."
    return _response(HTTPStatus.INTERNAL_SERVER_ERROR, {"description": description})


def _response(status: int, body: JsonObject) -> Response:
    return error_page(status, body["description"]) if is_page() else json_response(status, body)
