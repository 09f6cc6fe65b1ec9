"""Turns what came back from Atlas, or did not, into a result or one of our errors; no sentence holds a secret."""

from __future__ import annotations

import json
import math
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import requests
from urllib3.exceptions import NewConnectionError

from workers.atlas.errors import AtlasError, NoAnswer, Refused, Unauthorized, UnreadableAnswer, refusal
from workers.atlas.models import Json, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.atlas.call import Call

T = TypeVar("T")

_MOST_RETRY_AFTER = 3600.0  # seconds; a larger wish is a mistake or a proxy's
_MOST_DETAIL = 500  # characters of Atlas's own sentence that are repeated in ours
_NO_CONTENT = 204
_PLAIN_REFUSALS = frozenset({401, 429})  # the status says it all, with whatever body
_KEY_ADVICE = " Check the API key or service account, its roles in the project, and its API access list."


def no_answer(call: Call, error: Exception) -> NoAnswer:
    """`requests` wraps what happened twice; whether the request got out can only be told by the innermost error."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    never_left = (
        isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.InvalidURL))
        or isinstance(reason, NewConnectionError)
        or _is_certificate(reason)
    )
    return NoAnswer(
        f"Atlas did not answer when asked to {call.does}: {_what_happened(error, reason)}.", sent=not never_left
    )


def _is_certificate(reason: object) -> bool:
    inner = reason.args[0] if isinstance(reason, Exception) and reason.args else None
    return isinstance(inner, ssl.SSLCertVerificationError)


def _what_happened(error: Exception, reason: object) -> str:
    """Own words: the library's hold object addresses, and a proxy's URL may hold its password."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.ReadTimeout):
        return "nothing came in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be used"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted" if _is_certificate(reason) else "TLS failed"
    if isinstance(reason, NewConnectionError):
        inner = reason.__cause__
        return str(inner.strerror).lower() if isinstance(inner, OSError) and inner.strerror else "no connection"
    return "the connection broke off"


def interpret(
    call: Call, response: requests.Response, parse: Callable[[Json], T], secrets: tuple[str, ...]
) -> T | AtlasError:
    """Return what ``parse`` makes of a 2xx, else an error. A page of HTML with 200 has deleted no user."""
    status = response.status_code
    body = {} if status == _NO_CONTENT else _json_object(response.content)
    if 200 <= status < 300 and body is not None:  # noqa: PLR2004  HTTP's own number
        try:
            return parse(body)
        except Malformed as error:
            return _unreadable(call, response, str(error))
    if status >= 400 and (_code(body) or status in _PLAIN_REFUSALS):  # noqa: PLR2004  HTTP's own number
        return _refused(call, response, body or {}, secrets)
    kind = response.headers.get("Content-Type", "no content type").partition(";")[0][:60]
    return _unreadable(
        call, response, f"{len(response.content)} bytes of {kind!r}; is the base URL right, or a proxy in between?"
    )


def _unreadable(call: Call, response: requests.Response, what: str) -> UnreadableAnswer:
    sentence = f"Atlas's answer ({response.status_code}) when asked to {call.does} makes no sense: {what}"
    return UnreadableAnswer(sentence, status=response.status_code, retry_after=_retry_after(response, {}))


def _json_object(content: bytes) -> Json | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _code(body: Json | None) -> str:
    """Atlas's errorCode, or OAuth's error: the same field `error` is a number in the first and a text in the second."""
    code = (body or {}).get("errorCode") or (body or {}).get("error")
    return code if isinstance(code, str) else ""


def _refused(call: Call, response: requests.Response, body: Json, secrets: tuple[str, ...]) -> Refused:
    said = body.get("detail") or body.get("error_description") or response.reason or ""
    detail = _without(secrets, " ".join(str(said).split()))[:_MOST_DETAIL]
    listed = body.get("parameters")
    status, code = response.status_code, _without(secrets, _code(body))
    kind = refusal(status, code)
    advice = _KEY_ADVICE if kind is Unauthorized else ""
    told = f"{status} {code}".rstrip()
    return kind(
        f"Atlas refused to {call.does}: {detail.rstrip('.')} ({told}).{advice}",
        status=status,
        code=code,
        detail=detail,
        parameters=tuple(
            _without(secrets, item) if isinstance(item, str) else item
            for item in (listed if isinstance(listed, list) else [])
        ),
        retry_after=_retry_after(response, body),
    )


def _without(secrets: tuple[str, ...], text: str) -> str:
    """Atlas may repeat what it was sent."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _retry_after(response: requests.Response, body: Json) -> float | None:
    """Seconds, from the header (a number or a date) or else from the token bucket's own words."""
    seconds = _header_seconds(response.headers.get("Retry-After"))
    if seconds is None and body.get("errorCode") == "RATE_LIMITED_TOKEN_BUCKET":
        parameters = body.get("parameters")
        told = parameters[1] if isinstance(parameters, list) and len(parameters) > 1 else None
        seconds = float(told) if isinstance(told, int) else None
    return None if seconds is None else min(seconds, _MOST_RETRY_AFTER)


def _header_seconds(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _until(value)
    return seconds if math.isfinite(seconds) else None


def _until(date: str) -> float | None:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a zone
        return None
