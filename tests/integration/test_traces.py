"""Traces over OTLP: real processes send to a collector in this process what a platform's request has caused."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import CHECKOUT, HOST
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.tenant import Tenant, eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector:
    """Receives spans; ``raw`` is all that was sent."""

    port: int = 0
    raw: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def of_trace(self) -> dict[str, Span]:
        """Return the spans of the platform's trace, by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == TRACE}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.raw.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        collector.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def test_one_trace_leads_from_the_platforms_request_to_each_call_of_atlas(
    collector: Collector, state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator
) -> None:
    settings = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "BROKER_API_PROCESSES": "1",
    }
    stack = Stack(
        workers=1, flower=False, settings=settings, state=state_mongod, cluster=cluster_mongod, emulator=emulator
    )
    with stack, stack.client() as client:
        tenant = Tenant(client).provision()
        accepted = client.bind(tenant.instance_id, "b", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        tenant.succeed(accepted, "b")
        password = client.binding(tenant.instance_id, "b").json["credentials"]["password"]
        polled = "GET /api/atlas/v2/groups/{project}/clusters/{cluster}/status"
        eventually(lambda: {"atlas.bind", polled} <= collector.of_trace().keys(), "all spans have arrived")
        secrets = [password, stack.password, stack.encryption_key, emulator.private_key, stack.database]

    found = collector.of_trace()
    request = found["PUT /v2/service_instances/<id:instance_id>/service_bindings/<id:binding_id>"]
    create = found["POST /api/atlas/v2/groups/{project}/databaseUsers"]
    assert request.parent_span_id.hex() == PARENT
    assert found["atlas.bind"].parent_span_id == request.span_id
    assert found["bind: create"].parent_span_id == found["atlas.bind"].span_id
    assert create.parent_span_id == found["bind: create"].span_id
    told = {each.key: each.value.string_value or each.value.int_value for each in create.attributes}
    assert told == {"http.response.status_code": 201}
    ids = {each.key: each.value.string_value for each in found["atlas.bind"].attributes}
    assert ids == {"instance_id": tenant.instance_id, "binding_id": "b", "operation": accepted.operation}
    sent = b"".join(collector.raw)
    assert [secret for secret in secrets if secret.encode() in sent] == []


def test_nothing_of_it_is_loaded_unless_traces_are_asked_for() -> None:
    loaded = "{'broker_api.opentelemetry_tracer', 'opentelemetry.exporter'} & sys.modules.keys()"  # redis loads its API
    program = f"import sys, broker_api.broker, workers.tasks; sys.exit(bool({loaded}))"
    assert subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=False).returncode == 0
