"""The routes of bindings."""

from dataclasses import dataclass
from http import HTTPStatus

from flask import Response, g
from flask.views import MethodView

from broker_api.osb import query_arguments
from broker_api.osb.api_versions import known_binding
from broker_api.osb.bodies import body_as
from broker_api.osb.responses import json_response, poll_response, verb_response
from broker_api.service.bindings import Bindings
from broker_api.service.schemas import BindRequest, RotateRequest


@dataclass(frozen=True)
class BindingRoute(MethodView):
    """``/v2/service_instances/:instance_id/service_bindings/:binding_id``."""

    init_every_request = False
    bindings: Bindings

    def put(self, instance_id: str, binding_id: str) -> Response:
        """Bind, or rotate."""
        body = body_as(BindRequest, if_it_rotates=RotateRequest)
        result = self.bindings.bind(instance_id, binding_id, body, g.caller)
        return verb_response(result, known_binding(result.body) if result.body else {})

    def delete(self, instance_id: str, binding_id: str) -> Response:
        """Unbind."""
        query_arguments.require_service_and_plan()
        result = self.bindings.unbind(instance_id, binding_id, g.caller)
        return verb_response(result, result.body)

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Fetch, with credentials."""
        return json_response(HTTPStatus.OK, known_binding(self.bindings.fetch(instance_id, binding_id)))


@dataclass(frozen=True)
class BindingOperationRoute(MethodView):
    """``/v2/service_instances/:instance_id/service_bindings/:binding_id/last_operation``."""

    init_every_request = False
    bindings: Bindings

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Poll. There is no Retry-After: with it Cloud Foundry waits longer than a bind in a manifest may take."""
        return poll_response(self.bindings.last_operation(instance_id, binding_id, query_arguments.operation()))
