"""Request bodies: JSON that is decoded once and read into the typed requests, whatever the Content-Type.

Fields that a request does not have are ignored, whatever they hold. The others are taken as they came, or refused with
a sentence that names the field.
"""

import json
import math
from typing import NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import RequestEntityTooLarge

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject
from broker_api.service.schemas import BindRequest, RotateRequest

MAX_DEPTH = 64
"""Levels of nesting of the fields that are kept; the body itself is the first."""
_INT64 = range(-(2**63), 2**63)
_INT64_DIGITS = 20
_NAME_CHARACTERS = 200
_BROKEN = "The body ended early, or its Transfer-Encoding is malformed."

_Request = TypeVar("_Request", bound=BaseModel)
_Path = tuple["_Path", str] | None


def body_as(model: type[_Request]) -> _Request:
    """Read the request's body.

    Raises:
        BadRequest: it cannot be read; the message names the field.
        RequestEntityTooLarge: it is too long.
    """
    return _typed(model, json_object(_received()))


def bind_body() -> BindRequest | RotateRequest:
    """Read the body of a bind; one that names a predecessor is a rotation. Raises as ``body_as`` does."""
    given = json_object(_received())
    if given.get("predecessor_binding_id") is None:
        return _typed(BindRequest, given)
    return _typed(RotateRequest, given)


def _typed(model: type[_Request], given: JsonObject) -> _Request:
    try:
        read = model.model_validate(given)
    except ValidationError as error:
        raise BadRequest(
            "; ".join(map(_complaint, error.errors(include_url=False, include_input=False))) + "."
        ) from None
    _check_values(read)
    return read


def _received() -> bytes:
    """Return the body as it was sent. Without a Content-Length Flask cuts it at its limit, one byte above ours."""
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception:  # noqa: BLE001 - only the client's bytes are read, and each server has its own exceptions
        raise BadRequest(_BROKEN) from None
    if len(data) < (request.content_length or 0):
        raise BadRequest(_BROKEN)
    if request.max_content_length is not None and len(data) >= request.max_content_length:
        raise RequestEntityTooLarge
    return data


def json_object(data: bytes) -> JsonObject:
    """Decode a JSON object.

    Raises:
        BadRequest: it is no JSON object, or nested too deeply to be decoded.
    """
    if not data:
        raise BadRequest("The body must be JSON, and it is empty.")
    try:
        text = data.decode()
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant)
    except RecursionError:
        raise BadRequest(f"The body must be JSON of at most {MAX_DEPTH} levels.") from None
    except UnicodeDecodeError:
        raise BadRequest("The body must be JSON in UTF-8.") from None
    except ValueError as error:
        raise BadRequest(f"The body must be JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def _integer(digits: str) -> int:
    """Return an integer, cut to more digits than 64 bits can hold: it is refused later, with its field's name.

    Python itself refuses integers of 4,300 digits.
    """
    return int(digits[: _INT64_DIGITS + 1])


def _number(text: str) -> float:
    """Return a number with a fraction or exponent; infinity for one that overflows or underflows."""
    value = float(text)
    underflows = not value and any(digit in "123456789" for digit in text.lower().partition("e")[0])
    return math.inf if underflows else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _check_values(body: BaseModel) -> None:
    """Check that everything the request keeps can be stored. No recursion: the sender chooses how deep it goes.

    Raises:
        BadRequest: a value is nested too deeply, or is a text or number that MongoDB cannot store.
    """
    left: list[tuple[_Path, object, int]] = [(None, body, 1)]
    while left:
        path, value, depth = left.pop()
        problem: str | None = None
        items: list[tuple[object, object]] = []
        if isinstance(value, dict | list) and depth > MAX_DEPTH:
            problem = f"must not be nested deeper than {MAX_DEPTH} levels."
        elif isinstance(value, dict):
            problem, items = _problem("".join(value), "have a field whose name holds"), list(value.items())
        elif isinstance(value, list):
            items = list(enumerate(value))
        elif isinstance(value, BaseModel):
            items = list(value)
        else:
            problem = _problem(value)
        if problem:
            raise BadRequest(f"{_name(path)} {problem}")
        left += [((path, str(key)), item, depth + 1) for key, item in items if item is not None]


def _problem(value: object, verb: str = "hold") -> str | None:
    """Return why MongoDB cannot store a value, or a name of a field; None when it can."""
    match value:
        case str() if "\x00" in value:
            return f"must not {verb} a NUL character."
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"must not {verb} half of a surrogate pair."
        case int() if value not in _INT64:
            return "must be a number of at most 64 bits."
        case float() if not math.isfinite(value):
            return "must be a number that 64 bits can hold."
    return None


def _name(path: _Path) -> str:
    """Return a field's name as text that can be answered: half of a surrogate pair becomes a question mark."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    return ".".join(reversed(parts))[:_NAME_CHARACTERS].encode(errors="replace").decode() or "The body"


def _complaint(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"])) or "The body"
    return f"{name} {_COMPLAINTS.get(error['type'], 'is not valid').format(**error.get('ctx', {}))}"


_COMPLAINTS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must not hold half of a surrogate pair",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
