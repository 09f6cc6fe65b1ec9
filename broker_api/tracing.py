"""Traces: one from the platform's request through the operation to each call of Atlas.

The context of the trace is kept on the operation in MongoDB, in the form of W3C's header ``traceparent``, since a
message in Redis may be lost. ``broker_api.opentelemetry_tracer`` is imported only when traces are sent, so that nothing
is slower without them.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

import structlog

Attributes = Mapping[str, str | int]
SpanKind = Literal["SERVER", "CONSUMER", "INTERNAL"]

log = structlog.get_logger(__name__)


class Tracer(Protocol):
    """What traces are made with."""

    def span(
        self, name: str, kind: SpanKind, parent: str | None, attributes: Attributes, links: Sequence[str]
    ) -> AbstractContextManager[None]:
        """See ``tracing.span``."""

    def record(self, name: str, seconds: float, attributes: Attributes, error: str | None) -> None:
        """See ``tracing.record``."""

    def describe(self, name: str, attributes: Attributes) -> None:
        """See ``tracing.describe``."""

    def traceparent(self) -> str | None:
        """See ``tracing.traceparent``."""


_tracer: Tracer | None = None


def set_up(service: str) -> None:
    """Send traces from now on if OTEL_TRACES_EXPORTER names an exporter.

    Args:
        service: The name of the service, unless OTEL_SERVICE_NAME is set.
    """
    global _tracer  # noqa: PLW0603 - like the logs, traces belong to the process
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "none").strip()
    if exporter in ("", "none") or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        _tracer = importlib.import_module("broker_api.opentelemetry_tracer").tracer(service, exporter)
    except (ImportError, ValueError) as error:
        log.warning("traces_not_sent", reason=str(error))


def is_on() -> bool:
    """Return whether this process sends traces."""
    return _tracer is not None


def span(
    name: str,
    kind: SpanKind = "INTERNAL",
    *,
    parent: str | None = None,
    attributes: Attributes | None = None,
    links: Sequence[str] = (),
) -> AbstractContextManager[None]:
    """Return a context whose block is one span.

    Args:
        name: The name of the span, of a small set.
        kind: Whether it is a request, a job, or a part of one.
        parent: The ``traceparent`` of the span that it belongs to; None for the span around it.
        attributes: Ids and statuses; never a secret, the body of a request or an identity.
        links: The ``traceparent`` of other spans that it works for.
    """
    return _tracer.span(name, kind, parent, attributes or {}, links) if _tracer else nullcontext()


def record(name: str, seconds: float, attributes: Attributes, error: str | None = None) -> None:
    """Record a span that has just ended, within the span around the caller.

    Args:
        name: As in ``span``.
        seconds: How long it took.
        attributes: As in ``span``.
        error: The kind of error with which it ended.
    """
    if _tracer:
        _tracer.record(name, seconds, attributes, error)


def describe(name: str, attributes: Attributes) -> None:
    """Rename the span around the caller, and add attributes to it."""
    if _tracer:
        _tracer.describe(name, attributes)


def traceparent() -> str | None:
    """Return the context of the span around the caller; 55 characters. None outside of any trace."""
    return _tracer.traceparent() if _tracer else None
