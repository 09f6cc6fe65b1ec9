"""Query arguments, and the caller that a request's headers and query describe.

The originating identity has been read once, when the request was let in (``g.identity``).
"""

from flask import g, request

from broker_api.errors import BadRequest
from broker_api.osb.headers import request_identity
from broker_api.service.schemas import MAX_ID_LENGTH, Caller


def accepts_incomplete() -> bool:
    """Return whether the platform can poll: only the literal ``true`` counts."""
    return request.args.get("accepts_incomplete") == "true"


def caller() -> Caller:
    """Return the platform and user of the request, and whether it can poll."""
    return Caller(accepts_incomplete(), g.identity, request_identity(request.headers)[:MAX_ID_LENGTH] or None)


def service_and_plan() -> tuple[str, str]:
    """Return the two arguments that every DELETE must have.

    Raises:
        BadRequest: one of them is missing or empty.
    """
    return _mandatory("service_id"), _mandatory("plan_id")


def operation() -> str | None:
    """Return the operation that a poll asks for; without one it asks for the latest."""
    return request.args.get("operation") or None


def _mandatory(name: str) -> str:
    if not (value := request.args.get(name)):
        raise BadRequest(f"The query argument {name} is missing or empty.")
    return value
