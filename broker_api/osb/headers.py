"""The headers of the Open Service Broker API: its version, the request identity and the originating identity."""

import base64
import re

import structlog
from werkzeug.datastructures import Headers
from werkzeug.exceptions import PreconditionFailed

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject
from broker_api.osb.bodies import json_object
from broker_api.service.schemas import MAX_ID_LENGTH
from broker_api.state.records import USER_FIELDS

API_VERSION = "X-Broker-API-Version"
ORIGINATING_IDENTITY = "X-Broker-API-Originating-Identity"
REQUEST_IDENTITY = "X-Broker-API-Request-Identity"
MAJOR, MINIMUM_MINOR = 2, 13

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

log = structlog.get_logger(__name__)


def require_version(headers: Headers) -> int:
    """Return the minor version of the API in the request. Each minor version only adds to the previous one.

    Raises:
        PreconditionFailed: the version is missing, malformed, too old, or has another major number.
    """
    given = headers.get(API_VERSION, "")
    served = f"this broker serves {MAJOR}.{MINIMUM_MINOR} and every newer {MAJOR}.x."
    if not given:
        raise PreconditionFailed(f"The header {API_VERSION} is missing or empty; {served}")
    numbers = _VERSION.fullmatch(given)
    if not numbers or int(numbers[1]) != MAJOR or int(numbers[2]) < MINIMUM_MINOR:
        raise PreconditionFailed(f"The header {API_VERSION} names a version that is not supported; {served}")
    return int(numbers[2])


def originating_identity(given: str) -> JsonObject | None:
    """Return the platform and the user of the request (OSB profile, "Originating Identity Header").

    Of the value only the fields that identify the user are returned: a user may be in hundreds of groups, which the
    broker does not need.

    Args:
        given: the header.

    Returns:
        ``{"platform": str, "value": object}``; None if it cannot be decoded.
    """
    platform, _, encoded = given.strip().partition(" ")
    try:
        value = json_object(base64.b64decode(encoded.strip(), validate=True))
    except (ValueError, BadRequest):
        log.warning("originating_identity_unreadable")
        return None
    user = {name: _bounded(text) for name in USER_FIELDS if isinstance(text := value.get(name), str)}
    return {"platform": _bounded(platform), "value": user}


def _bounded(text: str) -> str:
    return CONTROL.sub("", text)[:MAX_ID_LENGTH].encode(errors="replace").decode()
