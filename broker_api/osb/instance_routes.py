"""The routes of instances."""

from dataclasses import dataclass
from http import HTTPStatus

from flask import Response, g
from flask.views import MethodView

from broker_api.osb import query_arguments
from broker_api.osb.api_versions import INSTANCE, RETRY_AFTER, UPDATE, known, minor
from broker_api.osb.bodies import body_as
from broker_api.osb.responses import json_response, poll_response, verb_response
from broker_api.service.instances import Instances
from broker_api.service.schemas import ProvisionRequest, UpdateRequest


@dataclass(frozen=True)
class InstanceRoute(MethodView):
    """``/v2/service_instances/:instance_id``."""

    init_every_request = False
    instances: Instances

    def put(self, instance_id: str) -> Response:
        """Provision."""
        result = self.instances.provision(instance_id, body_as(ProvisionRequest), g.caller)
        return verb_response(result, result.body)

    def patch(self, instance_id: str) -> Response:
        """Update."""
        result = self.instances.update(instance_id, body_as(UpdateRequest), g.caller)
        return verb_response(result, known(result.body, UPDATE))

    def delete(self, instance_id: str) -> Response:
        """Deprovision."""
        query_arguments.require_service_and_plan()
        result = self.instances.deprovision(instance_id, g.caller)
        return verb_response(result, result.body)

    def get(self, instance_id: str) -> Response:
        """Fetch."""
        return json_response(HTTPStatus.OK, known(self.instances.fetch(instance_id), INSTANCE))


@dataclass(frozen=True)
class InstanceOperationRoute(MethodView):
    """``/v2/service_instances/:instance_id/last_operation``."""

    init_every_request = False
    instances: Instances

    def get(self, instance_id: str) -> Response:
        """Poll. service_id and plan_id are ignored: during a change of plan they are those of the old plan."""
        operation = self.instances.last_operation(instance_id, query_arguments.operation())
        response = poll_response(operation)
        if operation.retry_after is not None and minor() >= RETRY_AFTER:
            response.headers["Retry-After"] = str(operation.retry_after)
        return response
