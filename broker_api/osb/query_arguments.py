"""Query arguments."""

from flask import request

from broker_api.errors import BadRequest


def require_service_and_plan() -> None:
    """Check that a DELETE has its two mandatory arguments. They are hints; their values are ignored.

    Raises:
        BadRequest: an argument is missing or empty.
    """
    for name in ("service_id", "plan_id"):
        if not request.args.get(name):
            raise BadRequest(f"The query argument {name} is missing or empty.")


def operation() -> str | None:
    """Return the id of the operation that a poll asks for; None for the latest operation."""
    return request.args.get("operation") or None
