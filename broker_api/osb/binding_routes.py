"""The routes of bindings."""

from http import HTTPStatus

from flask import Response, g
from flask.views import MethodView

from broker_api.osb import queries
from broker_api.osb.bodies import bind_body
from broker_api.osb.responses import json_response, poll_response, verb_response
from broker_api.osb.versions import known_binding
from broker_api.service.bindings import Bindings


class BindingRoute(MethodView):
    """``/v2/service_instances/:instance_id/service_bindings/:binding_id``."""

    init_every_request = False

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings

    def put(self, instance_id: str, binding_id: str) -> Response:
        """Bind, or rotate."""
        result = self._bindings.bind(instance_id, binding_id, bind_body(), g.caller)
        return verb_response(result, known_binding(result.body) if result.body else {})

    def delete(self, instance_id: str, binding_id: str) -> Response:
        """Unbind."""
        queries.require_service_and_plan()
        result = self._bindings.unbind(instance_id, binding_id, g.caller)
        return verb_response(result, result.body)

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Fetch, with credentials."""
        return json_response(HTTPStatus.OK, known_binding(self._bindings.fetch(instance_id, binding_id)))


class BindingOperationRoute(MethodView):
    """``/v2/service_instances/:instance_id/service_bindings/:binding_id/last_operation``."""

    init_every_request = False

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Poll. Without Retry-After: it makes Cloud Foundry wait longer than the bind of a manifest may take."""
        return poll_response(self._bindings.last_operation(instance_id, binding_id, queries.operation()))
