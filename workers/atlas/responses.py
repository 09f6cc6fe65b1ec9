"""Turns an answer of Atlas, or its absence, into a result or an `AtlasError`; no message contains a secret."""

from __future__ import annotations

import json
import math
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import requests
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from workers.atlas.errors import AtlasError, NoAnswer, ProjectNotFound, Refused, Unauthorized, UnreadableAnswer, refusal
from workers.atlas.models import Json, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.atlas.api_key import ApiKey
    from workers.atlas.endpoints import Call
    from workers.atlas.service_account import ServiceAccount

T = TypeVar("T")

_MOST_RETRY_AFTER = 60.0  # seconds, a whole rate-limit bucket; many operations wait for one answer
_MOST_DETAIL = 500  # characters of Atlas's message that ours repeats
_PLAIN_REFUSALS = frozenset({401, 429})  # the status is enough, whatever the body is
_ADVICE: dict[type[Refused], str] = {
    Unauthorized: " Check the API key or service account, its roles in the project, and its API access list.",
    ProjectNotFound: " Check the id of the project in the settings.",
}


class AnswerTooLong(HTTPError):
    """An answer is longer than any of Atlas."""


def no_answer(call: Call, error: Exception) -> NoAnswer:
    """Return the error for a call without an answer.

    `requests` wraps the cause twice; only the innermost error shows whether the request was sent. The message does not
    repeat the text of the library, which contains object addresses and perhaps the URL of a proxy with its password.

    Args:
        call: The call.
        error: The exception of `requests` or `urllib3`.
    """
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    inner = reason.args[0] if isinstance(reason, Exception) and reason.args else None
    sent = True
    if isinstance(error, requests.ConnectTimeout):
        what, sent = "no connection in time", False
    elif isinstance(error, requests.ReadTimeout | ReadTimeoutError):
        what = "nothing came in time"
    elif isinstance(error, AnswerTooLong):
        what = "the answer is too long"
    elif isinstance(error, requests.exceptions.ProxyError):
        what, sent = "the proxy cannot be used", False
    elif isinstance(inner, ssl.SSLCertVerificationError):
        what, sent = "its certificate is not trusted", False
    elif isinstance(error, requests.exceptions.SSLError):
        what = "TLS failed"
    elif isinstance(reason, NewConnectionError):
        system = reason.__cause__
        known = system.strerror if isinstance(system, OSError) else None
        what, sent = str(known).lower() if known else "no connection", False
    else:
        what, sent = "the connection broke off", not isinstance(error, requests.exceptions.InvalidURL)
    return NoAnswer(f"Atlas did not answer when asked to {call.does}: {what}.", sent=sent)


def interpret(
    call: Call, response: requests.Response, parse: Callable[[Json], T], auth: ApiKey | ServiceAccount
) -> T | AtlasError:
    """Turn an answer into a result or an error.

    A 2xx without a JSON object is an error too: a page of HTML with 200 means that no user was deleted.

    Args:
        call: The call.
        response: The answer.
        parse: Turns the JSON object of a 2xx into the result; raises `Malformed` when the shape is wrong.
        auth: The credentials, whose secrets are masked in messages.

    Returns:
        The result of ``parse``, or the error, which the caller raises.
    """
    status = response.status_code
    body: object = {}
    if status != HTTPStatus.NO_CONTENT and (response.content or status != HTTPStatus.ACCEPTED):
        try:
            body = json.loads(response.content)
        except (ValueError, RecursionError):
            body = None
    kind = response.headers.get("Content-Type", "no content type").partition(";")[0][:60]
    what = f"{len(response.content)} bytes of {kind!r}; is the base URL right, or a proxy in between?"
    success = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
    if call.endpoint.plain and success:
        body = {"text": body if isinstance(body, str) else response.content.decode(errors="replace")}
    if isinstance(body, dict) and success:
        try:
            return parse(body)
        except Malformed as error:
            what = str(error)
    elif status >= HTTPStatus.BAD_REQUEST:
        fields = body if isinstance(body, dict) else {}
        # Atlas's errorCode, or OAuth's error: the field `error` is a number in the first and a text in the second.
        value = fields.get("errorCode") or fields.get("error") or response.headers.get("X-Error-Code")
        code = value if isinstance(value, str) else ""
        if code or status in _PLAIN_REFUSALS:
            return _refused(call, response, fields, code, auth)
    sentence = f"Atlas's answer ({status}) when asked to {call.does} cannot be understood: {what}"
    return UnreadableAnswer(sentence, status=status, retry_after=_retry_after(response, {}))


def _refused(call: Call, response: requests.Response, body: Json, code: str, auth: ApiKey | ServiceAccount) -> Refused:
    """Return the error for an error answer. Atlas may repeat the request in it, so secrets are masked."""
    secrets = [*auth.secrets, call.body.get("password") if isinstance(call.body, dict) else None]

    def masked(text: str) -> str:
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return text

    said = body.get("detail") or body.get("error_description") or response.reason or ""
    detail = masked(" ".join(str(said).split()))[:_MOST_DETAIL]
    listed = body.get("parameters")
    status, code = response.status_code, masked(code)
    kind = refusal(status, code)
    advice = _ADVICE.get(kind, "")
    return kind(
        f"Atlas refused to {call.does}: {detail.rstrip('.')} ({f'{status} {code}'.rstrip()}).{advice}",
        status=status,
        code=code,
        detail=detail,
        parameters=tuple(
            masked(item) if isinstance(item, str) else item for item in (listed if isinstance(listed, list) else [])
        ),
        retry_after=_retry_after(response, body),
    )


def _retry_after(response: requests.Response, body: Json) -> float | None:
    """Return the seconds to wait, or None.

    They are in the header Retry-After (a number or a date), or in the second parameter of RATE_LIMITED_TOKEN_BUCKET.
    """
    seconds = math.nan
    if value := response.headers.get("Retry-After"):
        try:
            seconds = float(value)
        except ValueError:
            with suppress(ValueError, TypeError):  # no date, or one without a zone
                seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    parameters = body.get("parameters")
    if not math.isfinite(seconds) and body.get("errorCode") == "RATE_LIMITED_TOKEN_BUCKET":
        value = parameters[1] if isinstance(parameters, list) and len(parameters) > 1 else None
        seconds = float(value) if isinstance(value, int) else math.nan
    return min(seconds, _MOST_RETRY_AFTER) if math.isfinite(seconds) else None
