"""The headers of the Open Service Broker API: its version, and the identities of requests and their authors."""

import base64
import re

import structlog
from werkzeug.datastructures import Headers
from werkzeug.exceptions import PreconditionFailed

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject
from broker_api.osb.bodies import json_object
from broker_api.service.schemas import MAX_ID_LENGTH

API_VERSION = "X-Broker-API-Version"
ORIGINATING_IDENTITY = "X-Broker-API-Originating-Identity"
REQUEST_IDENTITY = "X-Broker-API-Request-Identity"
MAJOR, MINIMUM_MINOR = 2, 13

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_USER_FIELDS = ("user_id", "username", "uid")

log = structlog.get_logger()


def require_version(headers: Headers) -> int:
    """Return the minor version of the API that the request names; every one only adds to the one before.

    Raises:
        PreconditionFailed: the version is missing, no version, too old, or of another major number.
    """
    given = headers.get(API_VERSION, "")
    served = f"this broker serves {MAJOR}.{MINIMUM_MINOR} and every newer {MAJOR}.x."
    if not given:
        raise PreconditionFailed(f"The header {API_VERSION} is missing or empty; {served}")
    numbers = _VERSION.fullmatch(given)
    if not numbers or int(numbers[1]) != MAJOR or int(numbers[2]) < MINIMUM_MINOR:
        raise PreconditionFailed(f"The header {API_VERSION} names a version that is not supported; {served}")
    return int(numbers[2])


def request_identity(headers: Headers) -> str:
    """Return the platform's id of the request, without characters that could end a header or a log line; else ""."""
    return _CONTROL.sub("", headers.get(REQUEST_IDENTITY, ""))


def originating_identity(headers: Headers) -> JsonObject | None:
    """Return ``{"platform", "value"}`` of the user behind the request; one that cannot be read counts as not sent.

    Of the value only what names the user is given (profile.md, "Originating Identity Header"): a user of a directory
    may be in hundreds of groups, and none of them is the broker's business.
    """
    given = headers.get(ORIGINATING_IDENTITY)
    if not given:
        return None
    platform, _, encoded = given.strip().partition(" ")
    try:
        value = json_object(base64.b64decode(encoded.strip(), validate=True))
    except (ValueError, BadRequest):
        log.warning("originating identity cannot be read")
        return None
    names = {name: value[name] for name in _USER_FIELDS if isinstance(value.get(name), str)}
    return {"platform": _bounded(platform), "value": {name: _bounded(text) for name, text in names.items()}}


def user_of(identity: JsonObject | None) -> JsonObject:
    """Return what a log line tells of an originating identity."""
    if identity is None:
        return {}
    value = identity["value"]
    user = value.get("user_id") or value.get("username") or value.get("uid")
    return {"platform": identity["platform"], **({"user": user} if user else {})}


def _bounded(text: str) -> str:
    return _CONTROL.sub("", text)[:MAX_ID_LENGTH].encode(errors="replace").decode()
