"""What Atlas accepts as the body of a request: JSON with known attributes of known types."""

import json
from collections.abc import Iterable

from werkzeug import Request

from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import Json


def parse(request: Request, attributes: Iterable[str]) -> Json:
    """Return the body, an object with no other attributes.

    415 is this emulator's strictness; what Atlas does was never seen.
    """
    kind = request.mimetype
    refuse_if(kind != "application/json" and not kind.startswith("application/vnd.atlas."), "UNSUPPORTED_MEDIA_TYPE")
    try:
        body = json.loads(request.get_data())
    except ValueError:
        raise ApiError("MALFORMED_JSON") from None
    if not isinstance(body, dict):
        raise ApiError("INVALID_JSON")
    for name in sorted(body.keys() - set(attributes)):
        raise ApiError("INVALID_ATTRIBUTE", name)
    return body


def require(body: Json, names: Iterable[str]) -> None:
    missing = [name for name in names if body.get(name) is None]
    code = "MISSING_ATTRIBUTE" if len(missing) == 1 else "MISSING_ATTRIBUTES"
    refuse_if(missing, code, ", ".join(missing))


def text(body: Json, name: str) -> str:
    refuse_if(not isinstance(body.get(name), str), "INVALID_JSON_ATTRIBUTE", name)
    return str(body[name])


def entries(body: Json, name: str, required: tuple[str, ...]) -> list[Json]:
    """Return the list of objects under the name, each of which has the required attributes as text."""
    entries = body.get(name) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ApiError("INVALID_JSON_ATTRIBUTE", name)
    for entry in entries:
        require(entry, required)
        for attribute in required:
            text(entry, attribute)
    return entries
