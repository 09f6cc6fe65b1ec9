"""Answers as Atlas writes them."""

import json

from werkzeug import Response

from tests.emulator.errors import ApiError


def json_response(
    body: object, status: int = 200, headers: dict[str, str] | None = None, content_type: str = "application/json"
) -> Response:
    return Response(json.dumps(body), status, headers or {}, content_type=content_type)


def empty_response(status: int, headers: dict[str, str], content_type: str) -> Response:
    """A 204 is empty, and says the versioned media type all the same."""
    return Response(None, status, headers, content_type=content_type)


def refusal(error: ApiError, headers: dict[str, str] | None = None) -> Response:
    merged = (headers or {}) | error.headers | {"X-Error-Code": error.code}
    return json_response(error.body(), error.status, merged)


def unauthorized(challenge: str) -> Response:
    """Missing and wrong credentials look the same: pretty-printed, no parameters, no X-Error-Code, no rate headers."""
    body = {
        "error": 401,
        "reason": "Unauthorized",
        "detail": "You are not authorized for this resource.",
        "errorCode": "UNEXPECTED_ERROR",
    }
    headers = {"Www-Authenticate": challenge}
    return Response(json.dumps(body, indent=2), 401, headers, content_type="application/json")


def vnd(version: str) -> str:
    return f"application/vnd.atlas.{version}+json;charset=utf-8"
