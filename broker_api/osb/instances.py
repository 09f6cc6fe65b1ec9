"""The routes of instances."""

from dataclasses import replace

from flask import Response
from flask.views import MethodView

from broker_api.osb import queries
from broker_api.osb.answers import answer, outcome, report
from broker_api.osb.bodies import body_as
from broker_api.osb.interface import Service
from broker_api.osb.versions import INSTANCE, RETRY_AFTER, UPDATE, known, minor
from broker_api.service.schemas import ProvisionRequest, UpdateRequest


class Instance(MethodView):
    """``/v2/service_instances/:instance_id``."""

    init_every_request = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def put(self, instance_id: str) -> Response:
        """Provision."""
        return outcome(self._service.provision(instance_id, body_as(ProvisionRequest), queries.caller()))

    def patch(self, instance_id: str) -> Response:
        """Update."""
        result = self._service.update(instance_id, body_as(UpdateRequest), queries.caller())
        return outcome(replace(result, body=known(result.body, UPDATE)))

    def delete(self, instance_id: str) -> Response:
        """Deprovision."""
        service_id, plan_id = queries.service_and_plan()
        return outcome(self._service.deprovision(instance_id, service_id, plan_id, queries.caller()))

    def get(self, instance_id: str) -> Response:
        """Fetch."""
        return answer(200, known(self._service.instance(instance_id), INSTANCE))


class InstanceOperation(MethodView):
    """``/v2/service_instances/:instance_id/last_operation``."""

    init_every_request = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def get(self, instance_id: str) -> Response:
        """Poll. service_id and plan_id are hints and not looked at: during a change of plan they are the old ones."""
        operation = self._service.instance_operation(instance_id, queries.operation())
        response = report(operation)
        if operation.retry_after is not None and minor() >= RETRY_AFTER:
            response.headers["Retry-After"] = str(operation.retry_after)
        return response
