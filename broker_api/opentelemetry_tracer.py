"""The traces of ``broker_api.tracing`` by the SDK of OpenTelemetry, which reads the variables OTEL_*."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from broker_api import tracing
from broker_api.tracing import Attributes

_PROPAGATOR = TraceContextTextMapPropagator()
_OTLP = "otlp_proto_http"
"""The exporter that the name ``otlp`` means here: the extra has no gRPC."""


def tracer(service: str, exporter: str) -> tracing.Tracer:
    """Return the tracer of this process.

    Args:
        service: The name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES gives one.
        exporter: The value of OTEL_TRACES_EXPORTER.

    Raises:
        ValueError: No installed package has this exporter.
    """
    name = _OTLP if exporter == "otlp" else exporter
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        raise ValueError(f"OTEL_TRACES_EXPORTER: there is no exporter {exporter}")
    resource = Resource({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(found.load()()))
    return Spans(provider.get_tracer("atlas-broker"))


class Spans:
    """A ``tracing.Tracer``."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self, name: str, kind: tracing.SpanKind, parent: str | None, attributes: Attributes, links: Sequence[str]
    ) -> Iterator[None]:
        """See ``tracing.span``. Of an exception only its kind is kept, since its text may name a user."""
        linked = [Link(trace.get_current_span(_context(each)).get_span_context()) for each in links]
        with self._tracer.start_as_current_span(
            name,
            _context(parent) if parent else None,
            SpanKind[kind],
            attributes,
            linked,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def record(self, name: str, seconds: float, attributes: Attributes, error: str | None) -> None:
        """See ``tracing.record``."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, start_time=ended - int(seconds * 1e9)
        )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(ended)

    def describe(self, name: str, attributes: Attributes) -> None:
        """See ``tracing.describe``."""
        span = trace.get_current_span()
        span.update_name(name)
        span.set_attributes(attributes)

    def traceparent(self) -> str | None:
        """See ``tracing.traceparent``."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")


def _context(traceparent: str) -> Context:
    """Return the context that a ``traceparent`` names; the library ignores one that is malformed."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context())
