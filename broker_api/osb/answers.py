"""What the service says, as HTTP answers: always a JSON object, and what is not there is left out."""

from http import HTTPStatus

from flask import Response, jsonify

from broker_api.json_types import JsonObject
from broker_api.osb.versions import LAST_OPERATION, known
from broker_api.service.schemas import Accepted, Complete, LastOperation


def answer(status: int, body: JsonObject) -> Response:
    """Leave out what is None: Cloud Foundry takes a null ``operation`` for a malformed answer."""
    response = jsonify({name: value for name, value in body.items() if value is not None})
    response.status_code = status
    return response


def outcome(result: Accepted | Complete) -> Response:
    """Answer 202 for what goes on, 201 for what this request made, 200 for what is so already."""
    match result:
        case Accepted(operation, body):
            return answer(HTTPStatus.ACCEPTED, {**body, "operation": operation})
        case Complete(body, created):
            return answer(HTTPStatus.CREATED if created else HTTPStatus.OK, body)


def report(operation: LastOperation) -> Response:
    """Answer a poll. ``Retry-After`` is the caller's business: bindings must not have it."""
    body = {
        "state": operation.state,
        "description": operation.description,
        "instance_usable": operation.instance_usable,
        "update_repeatable": operation.update_repeatable,
    }
    return answer(HTTPStatus.OK, known(body, LAST_OPERATION))
