"""Request bodies: JSON decoded once and read into the typed requests, whatever their Content-Type says.

What is not a field of the request is ignored, whatever it holds. What is one is taken as it came or refused with a
sentence that names it.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import RequestEntityTooLarge

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject
from broker_api.service.schemas import BindRequest, RotateRequest

MAX_DEPTH = 64
"""Levels of nesting of what is kept, the body itself being the first."""
_INT64 = range(-(2**63), 2**63)
_INT64_DIGITS = 20
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
    return _typed(model, json_object(_data()))


def bind_body() -> BindRequest | RotateRequest:
    """Read the body of a bind: naming a predecessor makes it a rotation. Raises as ``body_as`` does."""
    given = json_object(_data())
    if given.get("predecessor_binding_id") is None:
        return _typed(BindRequest, given)
    return _typed(RotateRequest, given)


def _typed(model: type[_Request], given: JsonObject) -> _Request:
    try:
        read = model.model_validate(given)
    except ValidationError as error:
        raise BadRequest(_sentence(error)) from None
    if problem := next(_problems(read), None):
        raise BadRequest(problem)
    return read


def _data() -> bytes:
    """Return the body. Without a Content-Length Flask cuts it at its limit, which is one byte more than ours."""
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
    """Read the rest of a body (of a request that was refused before): it would cost the next one its connection.

    An application cannot have the connection closed instead: ``Connection`` is the server's own header (PEP 3333).
    """
    if "wsgi.input_terminated" not in request.environ:
        return  # there, reading to the end may mean waiting for ever
    body, left = request.environ["wsgi.input"], _DISCARDED_BYTES
    with contextlib.suppress(Exception):  # no body that can be read: then the server does close
        while left > 0 and (read := len(body.read(min(left, 65_536)))):
            left -= read


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
    """Read an integer. Of one that 64 bits cannot hold only that matters, and Python refuses those of 4,300 digits."""
    return int(digits[: _INT64_DIGITS + 1])


def _number(text: str) -> float:
    """Read a number with a fraction or exponent; one that is lost to overflow or underflow becomes infinite."""
    value = float(text)
    is_lost = not value and any(digit in "123456789" for digit in text.lower().partition("e")[0])
    return math.inf if is_lost else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _problems(body: BaseModel) -> Iterator[str]:
    """Walk through all that the request keeps, without recursion: how deep it goes is the sender's choice."""
    left: list[tuple[_Path, Any, int]] = [(None, body, 1)]
    while left:
        path, value, depth = left.pop()
        if problem := _problem(value, depth):
            yield f"{_name(path)} {problem}"
        match value:
            case BaseModel():
                items: Any = value
            case dict():
                items = value.items()
            case list():
                items = enumerate(value)
            case _:
                items = ()
        left += [((path, str(key)), item, depth + 1) for key, item in items]


def _problem(value: object, depth: int) -> str | None:
    match value:
        case dict() | list() if depth > MAX_DEPTH:
            return f"must not be nested deeper than {MAX_DEPTH} levels."
        case str() if problem := _problem_of_text(value):
            return f"must not hold {problem}."
        case dict() if problem := next(filter(None, map(_problem_of_text, value)), None):
            return f"must not have a field whose name holds {problem}."
        case int() if value not in _INT64:
            return "must be a number of at most 64 bits."
        case float() if not math.isfinite(value):
            return "must be a number that 64 bits can hold."
        case _:
            return None


def _problem_of_text(text: str) -> str | None:
    if "\x00" in text:
        return "a NUL character"
    return None if _is_unicode(text) else "half of a surrogate pair"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    return _readable(".".join(reversed(parts))[:_NAME_CHARACTERS]) or "The body"


def _readable(name: str) -> str:
    """Return a field's name as text that can be answered: half a surrogate pair becomes a question mark."""
    return name.encode(errors="replace").decode()


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
    "string_unicode": "must not hold half of a surrogate pair",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
