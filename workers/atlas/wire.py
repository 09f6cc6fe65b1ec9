"""HTTP exchange with Atlas: sends a call with time-outs, and passes the answer to the guard.

``requests`` limits only the time between two bytes, and no size. Here a request ends within the sum of its time-outs, a
call with all its requests within ``TOTAL_SECONDS``, and no answer has more than ``MOST_BYTES``. Only connecting may
take longer, when a name server is slow or several addresses do not answer; then nothing is sent.
"""

from __future__ import annotations

import io
import math
import os
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError

from workers.atlas.endpoints import MINT_TOKEN, Call
from workers.atlas.errors import AtlasError, Refused
from workers.atlas.models import Json, Malformed, text
from workers.atlas.responses import AnswerTooLong, interpret, no_answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from requests.auth import HTTPBasicAuth

    from workers.atlas.api_key import ApiKey
    from workers.atlas.service_account import ServiceAccount

T = TypeVar("T")

TOTAL_SECONDS = 20.0
"""How long a call takes at most, with all its requests."""
MOST_TOKEN_SECONDS = 10.0**8
"""The longest lifetime of a token that is believed."""
MOST_BYTES = 16 * 2**20
"""The size of the longest answer, decompressed; 500 database users, the longest page, have less than 1 MiB."""

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
"""When the current request must have ended (monotonic seconds)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one call, for the guard. A request for an OAuth token is a call of its own.

    Attributes:
        method: The HTTP method.
        path: The template of the path.
        status: The HTTP status; None without an answer.
        error: The error of the call.
        limit: The size of the rate bucket of the call (RateLimit-Limit); None when Atlas sent none.
        remaining: The calls that are left in the bucket (RateLimit-Remaining); None when Atlas sent none.
        seconds: The duration of the call.
        requests: The number of HTTP requests; more than one after a digest challenge or a refused token.
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
    """Called before each HTTP request, and after each call with its answer. Its exceptions reach the caller."""

    def before(self) -> None:
        """Prevent the request by an exception, or return."""

    def after(self, answer: Answer) -> None:
        """Record the answer of a call."""


class _Reader(io.RawIOBase):
    """Reads from a socket until the request must have ended."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - any buffer
        left = _deadline.get() - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(min(left, self._sock.gettimeout() or left))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:  # noqa: ANN401 - http.client's own
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Reader(sock, self.fp.detach()))


class _Timed(HTTPConnection):
    """Reads by ``_Reader``, and sends nothing when the request must have ended before it has connected."""

    response_class = _Response

    def connect(self) -> None:
        super().connect()
        if time.monotonic() >= _deadline.get():
            self.close()
            raise ConnectTimeoutError(self, "connected too late")


def _pool(pool: type[HTTPConnectionPool], connection: type[HTTPConnection]) -> type[HTTPConnectionPool]:
    """Return a class of urllib3's pools whose connections are timed."""
    timed = type(f"Timed{connection.__name__}", (_Timed, connection), {})
    return type(f"Timed{pool.__name__}", (pool,), {"ConnectionCls": timed})


_POOLS = {"http": _pool(HTTPConnectionPool, HTTPConnection), "https": _pool(HTTPSConnectionPool, HTTPSConnection)}


class _Adapter(HTTPAdapter):
    """Calls the guard before each request, also a repeated one; prevents redirects; bounds the answer."""

    def __init__(self, local: _PerThread) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)  # one thread, one host
        self._local = local
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:  # noqa: ANN401 - requests' own
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401 - requests' own
        if self._local.guard:
            self._local.guard.before()
        _deadline.set(min(self._local.ends_at, time.monotonic() + sum(kwargs["timeout"])))
        response = super().send(request, *args, **{**kwargs, "stream": True})
        response.headers.pop("Location", None)
        content = response.raw.read(MOST_BYTES + 1, decode_content=True)
        if len(content) > MOST_BYTES:
            response.close()
            raise AnswerTooLong
        response._content = content  # noqa: SLF001 - requests itself would read any length
        return response


class _PerThread(threading.local):
    """The session of a thread, its process and credentials; the guard of the current call, and when that must end."""

    session: requests.Session | None = None
    pid = 0
    auth: ApiKey | ServiceAccount | None = None
    guard: CallGuard | None = None
    ends_at = math.inf


class Wire:
    """The HTTP sessions of a client, one for each thread and process.

    Args:
        base_url: The URL of Atlas.
        auth: The credentials.
        timeout: Seconds to connect, seconds between two bytes of the answer, and seconds for the whole call.

    Raises:
        ValueError: The base URL is malformed.
    """

    def __init__(self, base_url: str, auth: ApiKey | ServiceAccount, timeout: tuple[float, float, float]) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the base URL of Atlas must be like https://cloud.mongodb.com")
        self._base = base_url.rstrip("/")
        self.auth = auth
        self._timeout, self._total = timeout[:2], timeout[2]
        self._local = _PerThread()

    def ask(self, call: Call, parse: Callable[[Json], T], guard: CallGuard | None) -> T:
        """Send a call.

        Args:
            call: The call.
            parse: Turns the JSON object of the answer (empty for 204) into the result; raises Malformed when the
                shape is wrong.
            guard: Called before each HTTP request and after the answer.

        Returns:
            The result of `parse`.

        Raises:
            AtlasError: There is no answer, an error, or an unreadable one. Exceptions of the guard are raised too.
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
        outer = self._local.ends_at  # of the call that needs a token, if this one requests it
        self._local.ends_at = min(outer, started + self._total)
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
            result = interpret(call, response, parse, self._local.auth or self.auth)
        finally:
            self._local.ends_at = outer
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
        """Return the session of this thread with the current credentials.

        A forked process must not use the sockets of its parent.
        """
        session = self._local.session
        if session is None or self._local.pid != os.getpid() or self._local.auth is not self.auth:
            session = self._local.session = requests.Session()
            self._local.pid, auth = os.getpid(), self.auth
            self._local.auth = auth
            # Use a proxy only when HTTPS_PROXY names one. `requests` then reads .netrc too, but prefers session.auth.
            session.trust_env = bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))
            session.headers["User-Agent"] = "atlas-broker"
            session.auth = auth.attach(self._ask_token)
            adapter = _Adapter(self._local)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
        return session

    def _ask_token(self, basic: HTTPBasicAuth) -> Json:
        """Request a token during another call, with the guard of that call."""
        call = Call(MINT_TOKEN, form={"grant_type": "client_credentials"}, auth=basic)
        return self.ask(call, _parse_token, self._local.guard)


def _parse_token(body: Json) -> Json:
    """Check that the token fits into a header and its lifetime is a number; other fields are not needed."""
    token, life = text(body, "access_token"), body.get("expires_in")
    if not token.isascii() or not token.isprintable():
        raise Malformed("access_token is no token")
    try:
        seconds = float(life) if isinstance(life, int | float | str) else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < MOST_TOKEN_SECONDS:
        raise Malformed("expires_in is no number of seconds")
    return body | {"expires_in": seconds}
