"""HTTP responses from the results of the service: always a JSON object, without the fields that are None."""

from collections.abc import Mapping
from http import HTTPStatus

from flask import Response, jsonify

from broker_api.json_types import JsonObject
from broker_api.osb.api_versions import LAST_OPERATION, known
from broker_api.service.schemas import Accepted, Complete, LastOperation


def json_response(status: int, body: Mapping[str, object]) -> Response:
    """Return a response with a JSON object.

    Args:
        status: the HTTP status.
        body: the object. Fields that are None are left out: Cloud Foundry refuses a null ``operation``.
    """
    response = jsonify({name: value for name, value in body.items() if value is not None})
    response.status_code = status
    return response


def verb_response(result: Accepted | Complete, body: JsonObject) -> Response:
    """Return the response of a verb.

    Args:
        result: ``Accepted`` becomes 202; ``Complete`` becomes 201 if this request has created something, else 200.
        body: the fields of the body, without ``operation``.
    """
    if isinstance(result, Accepted):
        return json_response(HTTPStatus.ACCEPTED, {**body, "operation": result.operation})
    return json_response(HTTPStatus.CREATED if result.created else HTTPStatus.OK, body)


def poll_response(operation: LastOperation) -> Response:
    """Return the response to a poll, without ``Retry-After``, which polls of bindings must not have."""
    body = {
        "state": operation.state,
        "description": operation.description,
        "instance_usable": operation.instance_usable,
        "update_repeatable": operation.update_repeatable,
    }
    return json_response(HTTPStatus.OK, known(body, LAST_OPERATION))
