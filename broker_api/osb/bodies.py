"""Request bodies: JSON, decoded once and validated as the typed requests, whatever the Content-Type.

Unknown fields are ignored, with any content. A known field is accepted unchanged, or refused with a sentence that names
it.
"""

import json
import math
import re
from typing import NoReturn, TypeVar, overload

from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject

MAX_DEPTH = 64
"""How deep the known fields may be nested; the body itself is the first level."""
_INT64 = range(-(2**63), 2**63)
_INT64_DIGITS = 20
_NAME_CHARACTERS = 200
_UNSTORABLE = re.compile(r"(?P<nul>\x00)|[\ud800-\udfff]")
_BROKEN = "The body ended early, or its Transfer-Encoding is malformed."

_Request = TypeVar("_Request", bound=BaseModel)
_Rotation = TypeVar("_Rotation", bound=BaseModel)
_Path = tuple["_Path", str] | None


@overload
def body_as(model: type[_Request]) -> _Request: ...
@overload
def body_as(model: type[_Request], *, if_it_rotates: type[_Rotation]) -> _Request | _Rotation: ...
def body_as(model: type[BaseModel], *, if_it_rotates: type[BaseModel] | None = None) -> BaseModel:
    """Return the body of the current request, as a model.

    Without a Content-Length Flask cuts the body at ``MAX_CONTENT_LENGTH``, which is one byte more than the limit.

    Args:
        model: the model.
        if_it_rotates: the model of a body with a predecessor.

    Raises:
        BadRequest: the body is not JSON or does not fit the model; the message names the field.
        RequestEntityTooLarge: the body is too long.
    """
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise
    except Exception:  # noqa: BLE001 - only reading from the client can fail here, and each server has its own exceptions
        raise BadRequest(_BROKEN) from None
    if len(data) < (request.content_length or 0):
        raise BadRequest(_BROKEN)
    if request.max_content_length is not None and len(data) >= request.max_content_length:
        raise RequestEntityTooLarge
    given = json_object(data)
    if if_it_rotates and given.get("predecessor_binding_id") is not None:
        model = if_it_rotates
    try:
        read = model.model_validate(given)
    except ValidationError as error:
        raise BadRequest(_complaints(error)) from None
    _check_values(read)
    return read


def _complaints(error: ValidationError) -> str:
    """Return why a body does not fit its model; the body itself is left out."""
    complaints = []
    for each in error.errors(include_url=False, include_input=False):
        complaint = _COMPLAINTS.get(each["type"], "is not valid").format(**each.get("ctx", {}))
        complaints.append(f"{'.'.join(map(str, each['loc'])) or 'The body'} {complaint}")
    return f"{'; '.join(complaints)}."


def json_object(data: bytes) -> JsonObject:
    """Return the JSON object in ``data``.

    Raises:
        BadRequest: ``data`` is not a JSON object in UTF-8, or is nested too deeply to be decoded.
    """
    if not data:
        raise BadRequest("The body must be JSON, and it is empty.")
    try:
        text = data.decode()
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise BadRequest(f"The body must be JSON of at most {MAX_DEPTH} levels.") from None
    except UnicodeDecodeError:
        raise BadRequest("The body must be JSON in UTF-8.") from None
    except ValueError as error:
        raise BadRequest(f"The body must be JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    """Return an object from its pairs.

    Raises:
        ValueError: A name occurs twice; of such names, JSON parsers keep different values.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("an object has the same name twice")
    return made


def _integer(digits: str) -> int:
    """Return an integer; one that is too long for 64 bits is cut, and refused later with the name of its field.

    Python's own error for more than 4,300 digits would not name the field.
    """
    return int(digits[: _INT64_DIGITS + 1])


def _number(text: str) -> float:
    """Return a number with a fraction or exponent; infinity if it overflows or underflows, to be refused later."""
    value = float(text)
    underflows = not value and any(digit in "123456789" for digit in text.lower().partition("e")[0])
    return math.inf if underflows else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _check_values(body: BaseModel) -> None:
    """Check that MongoDB can store all values of a request. It is a loop, since the sender chooses the depth.

    Raises:
        BadRequest: a value is nested too deeply, or is a text or number that MongoDB cannot store.
    """
    left: list[tuple[_Path, object, int]] = [(None, body, 1)]
    while left:
        path, value, depth = left.pop()
        problem, text, verb = "", "", "hold"
        items: list[tuple[object, object]] = []
        match value:
            case BaseModel():
                items = list(value)
            case dict() | list() if depth > MAX_DEPTH:
                problem = f"must not be nested deeper than {MAX_DEPTH} levels."
            case dict():
                items, text, verb = list(value.items()), "".join(value), "have a field whose name holds"
            case list():
                items = list(enumerate(value))
            case str():
                text = value
            case int() | float():
                problem = _problem_of_number(value)
        if found := _UNSTORABLE.search(text):
            problem = f"must not {verb} {'a NUL character' if found['nul'] else 'half of a surrogate pair'}."
        if problem:
            raise BadRequest(f"{_name(path)} {problem}")
        left += [((path, str(key)), item, depth + 1) for key, item in items if item is not None]


def _problem_of_number(value: float) -> str:
    """Return why MongoDB cannot store a number; nothing if it can."""
    if isinstance(value, int):
        return "" if value in _INT64 else "must be a number of at most 64 bits."
    return "" if math.isfinite(value) else "must be a number that 64 bits can hold."


def _name(path: _Path) -> str:
    """Return the name of a field for a message; half of a surrogate pair becomes a question mark."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    return ".".join(reversed(parts))[:_NAME_CHARACTERS].encode(errors="replace").decode() or "The body"


_COMPLAINTS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must not hold half of a surrogate pair",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
