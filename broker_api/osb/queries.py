"""Query arguments."""

from flask import request

from broker_api.errors import BadRequest


def require_service_and_plan() -> None:
    """Check the two arguments that every DELETE must have. They are hints, and what they hold is ignored.

    Raises:
        BadRequest: one of them is missing or empty.
    """
    for name in ("service_id", "plan_id"):
        if not request.args.get(name):
            raise BadRequest(f"The query argument {name} is missing or empty.")


def operation() -> str | None:
    """Return the operation that a poll asks for, or None for the latest one."""
    return request.args.get("operation") or None
