"""The routes of bindings."""

from dataclasses import replace

from flask import Response
from flask.views import MethodView

from broker_api.osb import queries
from broker_api.osb.answers import answer, outcome, report
from broker_api.osb.bodies import bind_body
from broker_api.osb.interface import Service
from broker_api.osb.versions import known_binding


class Binding(MethodView):
    """``/v2/service_instances/:instance_id/service_bindings/:binding_id``."""

    init_every_request = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def put(self, instance_id: str, binding_id: str) -> Response:
        """Bind, or rotate."""
        result = self._service.bind(instance_id, binding_id, bind_body(), queries.caller())
        return outcome(replace(result, body=known_binding(result.body)))

    def delete(self, instance_id: str, binding_id: str) -> Response:
        """Unbind."""
        service_id, plan_id = queries.service_and_plan()
        return outcome(self._service.unbind(instance_id, binding_id, service_id, plan_id, queries.caller()))

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Fetch, with credentials."""
        return answer(200, known_binding(self._service.binding(instance_id, binding_id)))


class BindingOperation(MethodView):
    """``…/service_bindings/:binding_id/last_operation``."""

    init_every_request = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def get(self, instance_id: str, binding_id: str) -> Response:
        """Poll. Never with Retry-After: it makes Cloud Foundry wait longer than a manifest's bind may take."""
        return report(self._service.binding_operation(instance_id, binding_id, queries.operation()))
