"""Request bodies: JSON objects of a bounded depth, read into the typed requests, whatever their Content-Type says."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from werkzeug.exceptions import RequestEntityTooLarge

from broker_api.errors import BadRequest
from broker_api.messages import BindRequest, JsonObject, RotateRequest

MAX_DEPTH = 64
"""Levels of nesting, the body itself being the first; MongoDB stores 100, and the broker's records take some."""
_INT64 = range(-(2**63), 2**63)
_NAME_CHARACTERS = 200
_DISCARDED_BYTES = 4_194_304
_BROKEN = "The body ended early, or its Transfer-Encoding is malformed."

_Request = TypeVar("_Request", bound=BaseModel)
_Path = tuple["_Path", str] | None


def body_as(model: type[_Request]) -> _Request:
    """Read the request's body.

    Raises:
        BadRequest: it cannot be read; the message names the field.
        RequestEntityTooLarge: it is too long.
    """
    data = _data()
    json_object(data)
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(_sentence(error)) from None


def bind_body() -> BindRequest | RotateRequest:
    """Read the body of a bind: naming a predecessor makes it a rotation. Raises as ``body_as`` does."""
    given = json_object(_data())
    if given.get("predecessor_binding_id") is None:
        return body_as(BindRequest)
    return body_as(RotateRequest)


def _data() -> bytes:
    """Give the body. Without a Content-Length Flask cuts it at its limit, which is one byte more than ours."""
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception:  # noqa: BLE001 - nothing but the client's bytes is read, and each server has its own exceptions
        raise BadRequest(_BROKEN) from None
    if len(data) < (request.content_length or 0):
        raise BadRequest(_BROKEN)
    if request.max_content_length is not None and len(data) >= request.max_content_length:
        raise RequestEntityTooLarge
    return data


def discard_body() -> None:
    """Read what nobody has read (of a request that was refused before): it would cost the next one its connection.

    An application cannot have the connection closed instead: ``Connection`` is the server's own header (PEP 3333).
    """
    if "wsgi.input_terminated" not in request.environ:
        return  # there, reading to the end may mean waiting for ever
    body, left = request.environ["wsgi.input"], _DISCARDED_BYTES
    with contextlib.suppress(Exception):  # no body that can be read: then the server does close
        while left > 0 and (read := len(body.read(min(left, 65_536)))):
            left -= read


def json_object(data: bytes) -> JsonObject:
    """Read a JSON object that can be stored.

    Raises:
        BadRequest: it is no JSON object, or has a value that could not be stored; the message names it.
    """
    if not data:
        raise BadRequest("The body must be JSON, and it is empty.")
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"The body must be JSON of at most {MAX_DEPTH} levels: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    if problem := next(_problems(value), None):
        raise BadRequest(problem)
    return value


def _problems(body: JsonObject) -> Iterator[str]:
    """Walk without recursion: how deep a body goes is the sender's choice."""
    left: list[tuple[_Path, Any, int]] = [(None, body, 1)]
    while left:
        path, value, depth = left.pop()
        if problem := _problem(value, depth):
            yield f"{_name(path)} {problem}"
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += [((path, str(key)), item, depth + 1) for key, item in items]


def _problem(value: object, depth: int) -> str | None:
    match value:
        case dict() | list() if depth > MAX_DEPTH:
            return f"must not be nested deeper than {MAX_DEPTH} levels."
        case str() if "\x00" in value:
            return "must not hold a NUL character."
        case dict() if any("\x00" in key for key in value):
            return "must not have a field whose name holds a NUL character."
        case int() if value not in _INT64:
            return "must be a number of at most 64 bits."
        case float() if not math.isfinite(value):
            return "must be a number that 64 bits can hold."
        case _:
            return None


def _name(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    return ".".join(reversed(parts))[:_NAME_CHARACTERS] or "The body"


def _sentence(error: ValidationError) -> str:
    return "; ".join(_complaint(each) for each in error.errors(include_url=False, include_input=False)) + "."


def _complaint(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"])) or "The body"
    return f"{name} {_COMPLAINTS.get(error['type'], 'is not valid').format(**error.get('ctx', {}))}"


_COMPLAINTS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
