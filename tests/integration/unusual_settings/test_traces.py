"""Traces over OTLP: real processes send to a collector in this process what a platform's request has caused."""

from tests.dev.stack import Stack
from tests.integration.unusual_settings.collector import Collector
from tests.tenant import Tenant, eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ANOTHER_TRACE = "5bf92f3577b34da6a3ce929d0e0e4736"


def test_one_trace_leads_from_the_platforms_request_to_each_call_of_atlas(collector: Collector, unusual: Stack) -> None:
    with unusual.client() as client:
        tenant = Tenant(client).provision()
        accepted = client.bind(tenant.instance_id, "b", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        tenant.succeed(accepted, "b")
        password = client.binding(tenant.instance_id, "b").json["credentials"]["password"]
        bind = "PUT /v2/service_instances/<id:instance_id>/service_bindings/<id:binding_id>"
        last = {bind, "atlas.bind", "GET /api/atlas/v2/groups/{project}/clusters/{cluster}/status"}
        eventually(lambda: last <= collector.of_trace(TRACE).keys(), "all spans have arrived")
        secrets = [password, unusual.password, unusual.encryption_key, unusual.emulator.private_key, unusual.database]

    found = collector.of_trace(TRACE)
    request = found[bind]
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


def test_the_removal_of_bindings_is_part_of_the_trace_of_the_deprovision(collector: Collector, unusual: Stack) -> None:
    with unusual.client() as client:
        tenant = Tenant(client).provision()
        tenant.bind("removed-with-its-instance")
        headers = {"traceparent": f"00-{ANOTHER_TRACE}-{PARENT}-01"}
        tenant.succeed(client.deprovision(tenant.instance_id, headers=headers))
    wanted = {"atlas.deprovision", "atlas.unbind"}
    eventually(lambda: wanted <= collector.of_trace(ANOTHER_TRACE).keys(), "both jobs are in the trace")
