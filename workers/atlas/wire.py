"""One HTTP exchange with Atlas: sends a call, waits within bounds, and judges what comes back.

Knows sessions, time-outs, headers and error bodies; knows nothing of clusters or users.
"""

from __future__ import annotations

import json
import math
import os
import ssl
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError

from workers.atlas.errors import AtlasError, NoAnswer, Nonsense, Refused
from workers.atlas.models import Json, Malformed, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from requests.auth import AuthBase, HTTPBasicAuth

    from workers.atlas.auth import ApiKey, ServiceAccount

T = TypeVar("T")

_MOST_RETRY_AFTER = 3600.0  # seconds; a larger wish is a mistake or a proxy's
_MOST_DETAIL = 500  # characters of Atlas's own sentence that are repeated in ours
_NO_CONTENT = 204
_PLAIN_REFUSALS = frozenset({401, 429})  # the status says it all, with whatever body
_KEY_ADVICE = " Check the API key or service account, its roles in the project, and its API access list."


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of Atlas's interface: `path` is the template, `version` the exact resource version it is asked in.

    `does` completes "Atlas refused to …", with the path's names.
    """

    method: str
    path: str
    version: str | None
    does: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation with everything that it needs on the wire."""

    operation: Operation
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Json | None = field(default=None, repr=False)
    form: dict[str, str] | None = None
    auth: AuthBase | None = field(default=None, repr=False)

    @property
    def does(self) -> str:
        """The operation in words; names stand in quotes with control characters escaped."""
        return self.operation.does.format(**{key: repr(value) for key, value in self.names.items()})

    @property
    def path(self) -> str:
        """Raises ValueError for a name that no path can carry."""
        return self.operation.path.format(**{key: _segment(value) for key, value in self.names.items()})


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call came to, for whoever watches Atlas's health and the rate limits.

    `path` is the template. `limit` and `remaining` are of the call's token bucket, None when Atlas did not tell.
    `requests` counts HTTP requests: more than one when a digest challenge or a refused token came between.
    Asking for an OAuth token is a call of its own.
    """

    method: str
    path: str
    status: int | None
    error: AtlasError | None
    limit: int | None
    remaining: int | None
    seconds: float
    requests: int


def _segment(name: str) -> str:
    """One path segment. `.` and `..` would be resolved on the way, and another resource be meant."""
    if name in {"", ".", ".."}:
        raise ValueError(f"{name!r} cannot be a name in Atlas")
    return quote(name, safe="")


class _Adapter(HTTPAdapter):
    """Calls `before` ahead of every single request, repeated ones included, and never lets a redirect be followed."""

    def __init__(self, before: Callable[[], None] | None) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)  # one thread, one host
        self._before = before

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        if self._before is not None:
            self._before()
        response = super().send(request, *args, **kwargs)
        response.headers.pop("Location", None)
        return response


class Wire:
    """Sessions of one project's client: one for each thread and process, so that connections are reused, not shared."""

    def __init__(
        self,
        base_url: str,
        auth: ApiKey | ServiceAccount,
        *,
        timeout: tuple[float, float],
        observe: Callable[[Answer], None] | None,
        before: Callable[[], None] | None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the base URL of Atlas must be like https://cloud.mongodb.com")
        self._base = base_url.rstrip("/")
        self._auth = auth
        self._timeout = timeout
        self._observe = observe
        self._before = before
        self._local = threading.local()

    def ask(self, call: Call, parse: Callable[[Json], T]) -> T:
        """What `parse` makes of Atlas's JSON object, which is empty for 204.

        `parse` raises Malformed when the shape is wrong. Raises AtlasError, and whatever `before` raises.
        """
        url = self._url(call)
        started = time.monotonic()
        response: requests.Response | None = None
        result: T | AtlasError
        try:
            response = self._exchange(call, url)
        except (requests.RequestException, HTTPError) as error:
            result = _no_answer(call, error)
        else:
            result = _judge(call, response, parse, self._secrets(call))
        failed = result if isinstance(result, AtlasError) else None
        self._tell(call, response, failed, time.monotonic() - started)
        if isinstance(result, AtlasError):
            raise result  # outside the handler: the library's error holds the request with its Authorization
        return result

    def _url(self, call: Call) -> str:
        try:
            return self._base + call.path
        except ValueError:  # half a surrogate pair, which quote() refuses, or a name of dots
            pass
        sentence = f"Cannot {call.does}: no path of Atlas can carry that name."
        raise Refused(sentence, status=400, code="INVALID_PATH_PARAMETER", sent=False)

    def _exchange(self, call: Call, url: str) -> requests.Response:
        version = call.operation.version
        return self._session().request(
            call.operation.method,
            url,
            params=dict(call.query),
            json=call.body,
            data=call.form,
            headers={"Accept": f"application/vnd.atlas.{version}+json" if version else "application/json"},
            auth=call.auth,
            timeout=self._timeout,
            allow_redirects=False,
        )

    def _session(self) -> requests.Session:
        """A forked process must not use its parent's sockets."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.session = self._new_session()
            self._local.pid = os.getpid()
        session: requests.Session = self._local.session
        return session

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        # A proxy only when one is named for HTTPS. netrc is then read too, but an auth object, always set, goes first.
        session.trust_env = bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))
        session.headers["User-Agent"] = "atlas-broker"
        session.auth = self._auth.attach(self._ask_token)
        adapter = _Adapter(self._before)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def _ask_token(self, basic: HTTPBasicAuth) -> Json:
        return self.ask(Call(MINT, form={"grant_type": "client_credentials"}, auth=basic), _parse_token)

    def _secrets(self, call: Call) -> tuple[str, ...]:
        password = (call.body or {}).get("password")
        return (*self._auth.secrets, *([password] if password else []))

    def _tell(self, call: Call, response: requests.Response | None, error: AtlasError | None, seconds: float) -> None:
        if self._observe is None:
            return
        headers: Mapping[str, str] = {} if response is None else response.headers
        self._observe(
            Answer(
                method=call.operation.method,
                path=call.operation.path,
                status=None if response is None else response.status_code,
                error=error,
                limit=_number(headers.get("RateLimit-Limit")),
                remaining=_number(headers.get("RateLimit-Remaining")),
                seconds=seconds,
                requests=1 if response is None else 1 + len(response.history),
            )
        )


MINT = Operation("POST", "/api/oauth/token", None, "give the service account a token")


def _parse_token(body: Json) -> Json:
    """Checked, so that the token fits into a header and its life can be counted; other fields do not matter."""
    token, life = text(body, "access_token"), body.get("expires_in")
    if not token.isascii() or not token.isprintable():
        raise Malformed("access_token is no token")
    if not isinstance(life, int) or life <= 0:
        raise Malformed("expires_in is no number of seconds")
    return body


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def _no_answer(call: Call, error: Exception) -> NoAnswer:
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


def _judge(
    call: Call, response: requests.Response, parse: Callable[[Json], T], secrets: tuple[str, ...]
) -> T | AtlasError:
    status = response.status_code
    body = {} if status == _NO_CONTENT else _json_object(response.content)
    if 200 <= status < 300 and body is not None:  # noqa: PLR2004  HTTP's own number
        try:
            return parse(body)
        except Malformed as error:
            return _nonsense(call, response, str(error))
    if status >= 400 and (_code(body) or status in _PLAIN_REFUSALS):  # noqa: PLR2004  HTTP's own number
        return _refused(call, response, body or {}, secrets)
    kind = response.headers.get("Content-Type", "no content type").partition(";")[0][:60]
    return _nonsense(
        call, response, f"{len(response.content)} bytes of {kind!r}; is the base URL right, or a proxy in between?"
    )


def _nonsense(call: Call, response: requests.Response, what: str) -> Nonsense:
    sentence = f"Atlas's answer ({response.status_code}) when asked to {call.does} makes no sense: {what}"
    return Nonsense(sentence, status=response.status_code, retry_after=_retry_after(response, {}))


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
    error = Refused(
        "",
        status=response.status_code,
        code=_without(secrets, _code(body)),
        detail=detail,
        parameters=tuple(
            _without(secrets, item) if isinstance(item, str) else item
            for item in (listed if isinstance(listed, list) else [])
        ),
        retry_after=_retry_after(response, body),
    )
    sentence = f"Atlas refused to {call.does}: {detail.rstrip('.')} ({error.status} {error.code})".replace(" )", ")")
    error.args = (f"{sentence}.{_KEY_ADVICE if error.unauthorized else ''}",)
    return error


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
