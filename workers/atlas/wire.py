"""One HTTP exchange with Atlas: sends a call, waits within bounds, and hands the answer to the guard.

Knows sessions and time-outs; knows nothing of clusters or users.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from workers.atlas.endpoints import MINT_TOKEN, Call
from workers.atlas.errors import AtlasError, Refused
from workers.atlas.models import Json, Malformed, text
from workers.atlas.responses import interpret, no_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests.auth import HTTPBasicAuth

    from workers.atlas.api_key import ApiKey
    from workers.atlas.service_account import ServiceAccount

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one call, for the guard that watches Atlas's health and the rate limits.

    `path` is the template. `limit` and `remaining` are of the call's token bucket, None when Atlas sent none.
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


class CallGuard(Protocol):
    """Called before each HTTP request (what it raises passes through), and after each call with its answer."""

    def before(self) -> None:
        """Raise to prevent the request."""

    def after(self, answer: Answer) -> None:
        """Take note of an answer."""


class _Adapter(HTTPAdapter):
    """Asks the guard ahead of every single request, repeated ones included, and lets no redirect be followed."""

    def __init__(self, local: _PerThread) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)  # one thread, one host
        self._local = local

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        if self._local.guard:
            self._local.guard.before()
        response = super().send(request, *args, **kwargs)
        response.headers.pop("Location", None)
        return response


class _PerThread(threading.local):
    """The session of a thread, the process that made it, and the guard of the call under way."""

    session: requests.Session | None = None
    pid = 0
    guard: CallGuard | None = None


class Wire:
    """Sessions of one project's client: one for each thread and process, so that connections are reused, not shared."""

    def __init__(self, base_url: str, auth: ApiKey | ServiceAccount, timeout: tuple[float, float]) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the base URL of Atlas must be like https://cloud.mongodb.com")
        self._base = base_url.rstrip("/")
        self._auth = auth
        self._timeout = timeout
        self._local = _PerThread()

    def ask(self, call: Call, parse: Callable[[Json], T], guard: CallGuard | None) -> T:
        """Return what `parse` makes of Atlas's JSON object, which is empty for 204.

        `parse` raises Malformed when the shape is wrong. Raises AtlasError, and whatever the guard raises.
        """
        self._local.guard = guard
        endpoint = call.endpoint
        try:
            url = self._base + call.path
        except ValueError:
            sentence = f"Cannot {call.does}: no path of Atlas can carry that name."
            raise Refused(sentence, status=400, code="INVALID_PATH_PARAMETER", sent=False) from None
        accept = f"application/vnd.atlas.{endpoint.version}+json" if endpoint.version else "application/json"
        started = time.monotonic()
        response: requests.Response | None = None
        result: T | AtlasError
        try:
            response = self._session().request(
                endpoint.method,
                url,
                params=dict(call.query),
                json=call.body,
                data=call.form,
                headers={"Accept": accept},
                auth=call.auth,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (requests.RequestException, HTTPError) as error:
            result = no_answer(call, error)
        else:
            result = interpret(call, response, parse, self._auth)
        headers = {} if response is None else response.headers
        bucket = (headers.get(name, "") for name in ("RateLimit-Limit", "RateLimit-Remaining"))
        limit, remaining = (int(value) if value.isascii() and value.isdigit() else None for value in bucket)
        answer = Answer(
            method=endpoint.method,
            path=endpoint.path,
            status=None if response is None else response.status_code,
            error=result if isinstance(result, AtlasError) else None,
            limit=limit,
            remaining=remaining,
            seconds=time.monotonic() - started,
            requests=1 if response is None else 1 + len(response.history),
        )
        if guard:
            guard.after(answer)
        if isinstance(result, AtlasError):
            raise result  # outside the handler: the library's error holds the request with its Authorization
        return result

    def _session(self) -> requests.Session:
        """Return this thread's session; a forked process must not use its parent's sockets."""
        session = self._local.session
        if session is None or self._local.pid != os.getpid():
            session = self._local.session = requests.Session()
            self._local.pid = os.getpid()
            # A proxy only when one is named for HTTPS. netrc is then read too, but an auth object, always set, goes
            # first.
            session.trust_env = bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))
            session.headers["User-Agent"] = "atlas-broker"
            session.auth = self._auth.attach(self._ask_token)
            adapter = _Adapter(self._local)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
        return session

    def _ask_token(self, basic: HTTPBasicAuth) -> Json:
        """Ask for a token in the middle of a call, under the same guard."""
        call = Call(MINT_TOKEN, form={"grant_type": "client_credentials"}, auth=basic)
        return self.ask(call, _parse_token, self._local.guard)


def _parse_token(body: Json) -> Json:
    """Check that the token fits into a header and its life can be counted; other fields do not matter."""
    token, life = text(body, "access_token"), body.get("expires_in")
    if not token.isascii() or not token.isprintable():
        raise Malformed("access_token is no token")
    if not isinstance(life, int) or life <= 0:
        raise Malformed("expires_in is no number of seconds")
    return body
