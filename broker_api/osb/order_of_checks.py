"""What every request must pass before its route, in this order, and what every response gets.

1. authentication, also for unknown paths
2. the version of the API, unless the path does not have the method
3. the path, its ids and the method (by Flask's routing)
4. the query arguments and the body (in the routes)
5. ids of services and plans, parameters, the need to poll, existence, conflicts (in ``broker_api.service``)
"""

import contextlib
import time
import uuid

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import MethodNotAllowed

from broker_api.osb.authentication import Users
from broker_api.osb.headers import (
    REQUEST_IDENTITY,
    originating_identity,
    request_identity,
    require_version,
    user_of,
)
from broker_api.service.schemas import MAX_ID_LENGTH, Caller

PROBES = frozenset({"health", "live", "ready"})
"""Endpoints that need no authentication: orchestrators ask for them."""
DISCARDED_BYTES = 4_194_304
"""How much of the body of a refused request is read."""


def check_requests(app: Flask, users: Users) -> None:
    """Check every request of the app.

    ``g`` holds for the routes: ``started``, ``request_id``, ``minor`` (of the API's version) and ``caller``. The log
    lines of a request hold its id, the ids in its path, and the platform and user behind it.
    """

    @app.before_request
    def check() -> None:
        g.started = time.perf_counter()
        g.request_identity = request_identity(request.headers)
        given_id = g.request_identity[:MAX_ID_LENGTH]
        g.request_id = given_id or uuid.uuid4().hex
        clear_contextvars()
        bind_contextvars(request_id=g.request_id, **(request.view_args or {}))
        if request.endpoint not in PROBES:
            users.require(request.authorization)
        if request.path.startswith("/v2/") and not isinstance(request.routing_exception, MethodNotAllowed):
            g.minor = require_version(request.headers)
        identity = originating_identity(request.headers)
        if identity:
            bind_contextvars(**user_of(identity))
        # Only the literal "true" counts.
        can_poll = request.args.get("accepts_incomplete") == "true"
        g.caller = Caller(can_poll, identity, given_id or None)

    @app.after_request
    def complete(response: Response) -> Response:
        # What is left of the body of a refused request would end the connection, so it is read. The application cannot
        # close the connection itself: ``Connection`` is the server's own header (PEP 3333).
        if "wsgi.input_terminated" in request.environ:  # else reading to the end might never return
            body, left = request.environ["wsgi.input"], DISCARDED_BYTES
            with contextlib.suppress(Exception):  # a body that cannot be read: the server closes the connection
                while left > 0 and (read := len(body.read(min(left, 65_536)))):
                    left -= read
        if g.request_identity:
            response.headers[REQUEST_IDENTITY] = g.request_identity
        return response
