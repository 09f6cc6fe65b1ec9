"""The Flask app: routes, and what every request must pass before it reaches one."""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import MethodNotAllowed

from broker_api.catalog.parameters import MAX_BYTES
from broker_api.osb import openapi
from broker_api.osb.answers import answer
from broker_api.osb.authentication import Users
from broker_api.osb.bindings import Binding, BindingOperation
from broker_api.osb.bodies import discard_body
from broker_api.osb.errors import answer_errors
from broker_api.osb.headers import (
    API_VERSION,
    MAJOR,
    MINIMUM_MINOR,
    REQUEST_IDENTITY,
    originating_identity,
    request_identity,
    require_version,
    user_of,
)
from broker_api.osb.instances import Instance, InstanceOperation
from broker_api.osb.interface import Service
from broker_api.osb.metrics import Metrics
from broker_api.osb.paths import EncodedPath, IdConverter
from broker_api.osb.versions import NEWEST, known_catalog, minor
from broker_api.service.schemas import MAX_ID_LENGTH

if TYPE_CHECKING:
    from flask.json.provider import DefaultJSONProvider

_OPEN = frozenset({"health", "live", "ready"})
_INSTANCE = "/v2/service_instances/<id:instance_id>"
_BINDING = f"{_INSTANCE}/service_bindings/<id:binding_id>"


def create_app(
    service: Service,
    users: Mapping[str, str],
    *,
    max_body_bytes: int = MAX_BYTES,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Flask:
    """Make the WSGI app that serves ``service`` to ``users`` (passwords by name); while it stops it is not ready."""
    app = Flask("broker_api.osb", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=max_body_bytes + 1, PROVIDE_AUTOMATIC_OPTIONS=False)
    cast("DefaultJSONProvider", app.json).sort_keys = False
    # One path is one route: no redirects, whose bodies are HTML.
    app.url_map.merge_slashes = False
    app.url_map.converters["id"] = IdConverter
    _admit(app, Users(users))
    _add_routes(app, service)
    _add_probes(app, service, is_stopping)
    answer_errors(app)
    app.wsgi_app = EncodedPath(app.wsgi_app)  # type: ignore[method-assign]  # Flask's own way to add middleware
    return app


def _admit(app: Flask, users: Users) -> None:
    """Order of checks: authentication, also for unknown paths, then the version, then path, body and the rest."""

    @app.before_request
    def check() -> None:
        _bind_log()
        if request.endpoint not in _OPEN:
            users.require(request.authorization)
        if request.path.startswith("/v2/") and not isinstance(request.routing_exception, MethodNotAllowed):
            g.minor = require_version(request.headers)
        g.identity = originating_identity(request.headers)
        bind_contextvars(**user_of(g.identity))

    @app.after_request
    def leave_nothing_unread(response: Response) -> Response:
        discard_body()
        return response

    @app.after_request
    def echo(response: Response) -> Response:
        if identity := request_identity(request.headers):
            response.headers[REQUEST_IDENTITY] = identity
        return response


def _bind_log() -> None:
    """Bind the request id and the ids in the path to every log line of this request."""
    g.started = time.perf_counter()
    g.request_id = request_identity(request.headers)[:MAX_ID_LENGTH] or uuid.uuid4().hex
    clear_contextvars()
    bind_contextvars(request_id=g.request_id, **(request.view_args or {}))


def _add_routes(app: Flask, service: Service) -> None:
    app.add_url_rule("/v2/catalog", "catalog", _catalog(service))
    app.add_url_rule(_INSTANCE, view_func=Instance.as_view("instance", service))
    app.add_url_rule(f"{_INSTANCE}/last_operation", view_func=InstanceOperation.as_view("instance_operation", service))
    app.add_url_rule(_BINDING, view_func=Binding.as_view("binding", service))
    app.add_url_rule(f"{_BINDING}/last_operation", view_func=BindingOperation.as_view("binding_operation", service))
    metrics = Metrics(service)
    metrics.observe(app)
    app.add_url_rule("/metrics", "metrics", metrics.show)
    description = openapi.document()
    app.add_url_rule("/openapi.json", "openapi", lambda: Response(description, content_type="application/json"))


def _catalog(service: Service) -> Callable[[], Response]:
    """Answer the catalog, to each version of the API with the fields that it has."""
    documents = {
        version: known_catalog(service.catalog.document, version) for version in range(MINIMUM_MINOR, NEWEST + 1)
    }

    def catalog() -> Response:
        version = min(minor(), NEWEST)
        response = answer(200, documents[version])
        response.set_etag(f"{service.catalog.etag}-{MAJOR}.{version}")
        response.vary.add(API_VERSION)
        response.make_conditional(request)
        return response

    return catalog


def _add_probes(app: Flask, service: Service, is_stopping: Callable[[], bool]) -> None:
    """Probes come from orchestrators, which know neither the users nor the protocol."""

    def alive() -> Response:
        return answer(200, {"status": True})

    def ready() -> Response:
        if is_stopping():
            return answer(503, {"status": "stopping", "description": "This process is stopping. Ask another one."})
        works, body = service.readiness()
        return answer(200, body) if works else answer(503, {"description": "The database does not answer.", **body})

    app.add_url_rule("/health", "health", alive)
    app.add_url_rule("/live", "live", alive)
    app.add_url_rule("/ready", "ready", ready)
