"""Traces of requests: each request of the Open Service Broker API is a span, which continues the platform's trace."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from broker_api import tracing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def trace_requests(app: Flask) -> None:
    """Trace the app's requests from now on; does nothing in a process that sends no traces."""
    if not tracing.is_on():
        return
    untraced = app.wsgi_app

    def traced(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/v2/"):  # probes, metrics and pages for operators
            return untraced(environ, start_response)
        with tracing.span("request", "SERVER", parent=environ.get("HTTP_TRACEPARENT")):
            return untraced(environ, start_response)

    app.wsgi_app = traced  # type: ignore[method-assign]  # how Flask documents middleware

    @app.after_request
    def describe(response: Response) -> Response:
        if request.url_rule:
            route = str(request.url_rule)
            attributes: dict[str, str | int] = {
                "http.request.method": request.method,
                "http.route": route,
                "http.response.status_code": response.status_code,
                "request_id": g.request_id,
            }
            tracing.describe(f"{request.method} {route}", attributes | (request.view_args or {}))
        return response
