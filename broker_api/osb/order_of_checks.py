"""The checks of every request, in this order, and the completion of every response.

1. authentication, also for unknown paths, and the user's role
2. the version of the API, unless the path does not have the method
3. the path, its ids and the method (by Flask's routing); up to here without the body
4. the query arguments and the body (in the routes)
5. ids of services and plans, parameters, the need to poll, existence, conflicts (in ``broker_api.service``)
"""

import contextlib
import secrets
import time
from http import HTTPStatus

from flask import Flask, Response, current_app, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

from broker_api.body_awaited import BODY_AWAITED
from broker_api.logins import Logins
from broker_api.osb.authentication import authenticate
from broker_api.osb.headers import (
    CONTROL,
    ORIGINATING_IDENTITY,
    REQUEST_IDENTITY,
    originating_identity,
    require_version,
)
from broker_api.service.schemas import MAX_ID_LENGTH, Caller
from broker_api.state.records import user_of

PROBES = frozenset({"health", "live", "ready"})
"""Endpoints without authentication, for orchestrators."""
REFUSED_BODY_BYTES = 4_194_304
"""How many bytes of a refused body are read at most, where a server is used that does not read them itself."""


def check_requests(app: Flask, logins: Logins) -> None:
    """Make the app check every request.

    The checks set for the routes, in ``flask.g``: ``started``, ``request_id``, ``minor`` (of the API's version) and
    ``caller``. They bind to all log lines of the request: its id, the ids in its path, its platform and its user.
    """

    @app.before_request
    def check() -> Response | None:
        g.started = time.perf_counter()
        headers = request.headers
        # Control characters could end the header in the response, or a log line.
        g.request_identity = CONTROL.sub("", headers.get(REQUEST_IDENTITY, ""))
        g.request_id = g.request_identity[:MAX_ID_LENGTH] or secrets.token_hex(16)
        clear_contextvars()
        bind_contextvars(request_id=g.request_id, **(request.view_args or {}))
        if request.endpoint not in PROBES:
            authenticate(request, logins)
        if request.path.startswith("/v2/") and not isinstance(request.routing_exception, MethodNotAllowed):
            g.minor = require_version(headers)
        given = headers.get(ORIGINATING_IDENTITY)
        identity = originating_identity(given) if given else None
        if identity:
            bind_contextvars(**user_of(identity))
        # Only the literal "true" counts.
        can_poll = request.args.get("accepts_incomplete") == "true"
        g.caller = Caller(can_poll, identity, g.request_id)
        # The server may ask whether it has to read the body; a wrong path or method is refused without it.
        if BODY_AWAITED not in request.environ or request.routing_exception:
            return None
        if (request.content_length or 0) >= current_app.config["MAX_CONTENT_LENGTH"]:
            raise RequestEntityTooLarge
        return Response(status=HTTPStatus.CONTINUE)

    app.after_request(_complete)


def _complete(response: Response) -> Response:
    """Read the rest of the body of a refused request, and send the request identity back."""
    # Unread bytes break the connection. The app cannot close the connection properly: ``Connection`` is a header of
    # the server (PEP 3333).
    if "wsgi.input_terminated" in request.environ:  # otherwise reading to the end might never return
        body, left = request.environ["wsgi.input"], REFUSED_BODY_BYTES
        with contextlib.suppress(Exception):  # if the body cannot be read, the server closes the connection
            while left > 0 and (read := len(body.read(min(left, 65_536)))):
                left -= read
    if g.request_identity:
        response.headers[REQUEST_IDENTITY] = g.request_identity
    return response
