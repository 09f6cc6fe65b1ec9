"""The Flask app and its routes."""

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from flask import Flask, Response, request

from broker_api.catalog.parameter_checks import MAX_BODY_BYTES
from broker_api.logins import Logins
from broker_api.osb import openapi
from broker_api.osb.api_versions import NEWEST, known_catalog, minor
from broker_api.osb.binding_routes import BindingOperationRoute, BindingRoute
from broker_api.osb.errors import answer_errors
from broker_api.osb.headers import API_VERSION, MAJOR, MINIMUM_MINOR
from broker_api.osb.instance_routes import InstanceOperationRoute, InstanceRoute
from broker_api.osb.metrics import Metrics
from broker_api.osb.operation_pages import PATH, TEMPLATE_FILTERS, OperationPages
from broker_api.osb.order_of_checks import check_requests
from broker_api.osb.responses import json_response
from broker_api.osb.traces import trace_requests
from broker_api.osb.url_paths import EncodedPath, IdConverter
from broker_api.service.health import Health
from broker_api.service.service import Service

if TYPE_CHECKING:
    from flask.json.provider import DefaultJSONProvider

LOGINS = "logins"
"""The name of the app's ``Logins`` in ``Flask.extensions``."""

_INSTANCE = "/v2/service_instances/<id:instance_id>"
_BINDING = f"{_INSTANCE}/service_bindings/<id:binding_id>"


def create_app(
    service: Service,
    users: Mapping[str, str],
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    is_stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Flask:
    """Return the WSGI app.

    Args:
        service: the verbs, the catalog and the health that the app serves.
        users: passwords or hashes by user name, as in the settings.
        max_body_bytes: the limit of a request's body.
        is_stopping: returns whether the process is about to end; ``/ready`` then answers 503.
        clock: tells the seconds by which wrong passwords are forgotten.
    """
    app = Flask("broker_api.osb", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=max_body_bytes + 1, PROVIDE_AUTOMATIC_OPTIONS=False)
    cast("DefaultJSONProvider", app.json).sort_keys = False
    # Redirects have HTML bodies, so no path is redirected to another one.
    app.url_map.merge_slashes = False
    app.url_map.converters["id"] = IdConverter
    metrics = Metrics(service.health)
    app.extensions[LOGINS] = logins = Logins(users, metrics.count_failed_login, clock)
    check_requests(app, logins)
    metrics.observe(app)
    answer_errors(app)

    instances, bindings = service.instances, service.bindings
    app.add_url_rule("/v2/catalog", "catalog", _catalog(service))
    app.add_url_rule(_INSTANCE, view_func=InstanceRoute.as_view("instance", instances))
    polled = InstanceOperationRoute.as_view("instance_operation", instances)
    app.add_url_rule(f"{_INSTANCE}/last_operation", view_func=polled)
    app.add_url_rule(_BINDING, view_func=BindingRoute.as_view("binding", bindings))
    polled = BindingOperationRoute.as_view("binding_operation", bindings)
    app.add_url_rule(f"{_BINDING}/last_operation", view_func=polled)
    _add_probes(app, service.health, is_stopping)
    app.add_url_rule("/metrics", "metrics", metrics.show)
    app.jinja_env.filters.update(TEMPLATE_FILTERS)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    pages = OperationPages(service.operations)
    app.add_url_rule(PATH, "operations", pages.show_list)
    app.add_url_rule(f"{PATH}/<id:operation_id>", "operation", pages.show_one)
    app.add_url_rule("/openapi.json", "openapi", _description)

    trace_requests(app)
    app.wsgi_app = EncodedPath(app.wsgi_app)  # type: ignore[method-assign]  # how Flask documents middleware
    return app


def _catalog(service: Service) -> Callable[[], Response]:
    """Return the view of the catalog. Its answer has only the fields of the API version in the request."""
    versions = range(MINIMUM_MINOR, NEWEST + 1)
    documents = {version: known_catalog(service.catalog.document, version) for version in versions}

    def catalog() -> Response:
        version = min(minor(), NEWEST)
        response = json_response(HTTPStatus.OK, documents[version])
        response.set_etag(f"{service.catalog.etag}-{MAJOR}.{version}")
        response.vary.add(API_VERSION)
        response.make_conditional(request)
        return response

    return catalog


def _description() -> Response:
    """Answer with the description of the API. The first request makes it, since that takes a twentieth of the start."""
    return Response(openapi.document(), content_type="application/json")


def _add_probes(app: Flask, health: Health, is_stopping: Callable[[], bool]) -> None:
    """Add the probes of orchestrators, which need neither authentication nor the headers of the API."""

    def alive() -> Response:
        return json_response(HTTPStatus.OK, {"status": True})

    def ready() -> Response:
        if is_stopping():
            sentence = "This process is stopping. Ask another one."
            return json_response(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stopping", "description": sentence})
        is_ready, body = health.readiness()
        if is_ready:
            return json_response(HTTPStatus.OK, body)
        return json_response(HTTPStatus.SERVICE_UNAVAILABLE, {"description": "The database does not answer.", **body})

    app.add_url_rule("/health", "health", alive)
    app.add_url_rule("/live", "live", alive)
    app.add_url_rule("/ready", "ready", ready)
