"""What is served for those who run the broker: probes, metrics and the description of the API."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker_api.errors import ErrStorageMongoConnection
from broker_api.osb.app import create_app
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import INSTANCE, PROVISION, a_client, description, send


def metrics_of(text: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("path", ["/health", "/live"])
def test_the_process_says_that_it_lives(path: str) -> None:
    assert a_client(InMemoryService(works=False)).get(path).get_json() == {"status": True}


def test_readiness_is_200_with_mongodb_and_503_without() -> None:
    assert a_client(InMemoryService()).get("/ready").get_json() == {"mongodb": True}
    response = a_client(InMemoryService(works=False)).get("/ready")
    assert (response.status_code, response.get_json()["mongodb"]) == (503, False)
    assert description(response) == "The database does not answer."


def test_requests_are_counted_by_route_and_not_by_id() -> None:
    client = a_client(InMemoryService())
    for number in range(3):
        send(client, "PUT", f"/v2/service_instances/i-{number}", json=PROVISION)
    client.get("/x")
    send(client, "FOO", "/y")
    metrics = metrics_of(send(client, "GET", "/metrics").text)
    name = "atlas_broker_http_request_seconds_count"
    assert metrics[(name, "PUT", "/v2/service_instances/<id:instance_id>", "201")] == 3
    assert metrics[(name, "GET", "none", "401")] == 1
    assert metrics[(name, "other", "none", "404")] == 1


def test_operations_are_counted_when_asked_for() -> None:
    metrics = metrics_of(send(a_client(InMemoryService()), "GET", "/metrics").text)
    assert metrics[("atlas_broker_latest_operations", "in progress", "bind")] == 3
    assert metrics[("atlas_broker_latest_operations", "failed", "bind")] == 4
    assert metrics[("atlas_broker_operations_in_progress", "bind")] == 3
    assert metrics[("atlas_broker_operations_total", "failed", "bind")] == 7
    assert metrics[("atlas_broker_operations_total", "succeeded", "unbind")] == 0
    assert metrics[("atlas_broker_operations_waiting_long", "applying", "bind")] == 2
    assert metrics[("atlas_broker_oldest_waiting_seconds", "bindings")] == 1.5
    assert metrics[("atlas_broker_oldest_waiting_seconds", "instances")] == 0
    assert metrics[("atlas_broker_queue_depth", "bindings")] == 6
    assert metrics[("atlas_broker_workers", "bindings")] == 1
    assert metrics[("atlas_broker_workers", "maintenance")] == 0
    assert metrics[("atlas_broker_workers_in_trouble", "a-project", "key_refused")] == 1
    assert metrics[("atlas_broker_circuit_open", "a-project")] == 1
    assert metrics[("atlas_broker_project_users_limit", "a-project")] == 50
    assert metrics[("atlas_broker_sends_total", "accepted")] == 9
    assert metrics[("atlas_broker_project_users", "a-project")] == 5
    assert metrics[("atlas_broker_mongodb_up",)] == 1


def test_metrics_are_there_without_mongodb() -> None:
    client = a_client(InMemoryService(trouble=ErrStorageMongoConnection("count")))
    response = send(client, "GET", "/metrics")
    assert response.status_code == 200
    assert metrics_of(response.text)[("atlas_broker_mongodb_up",)] == 0


def test_requests_that_wait_are_counted_while_they_do() -> None:
    service = InMemoryService()
    client = a_client(service)
    during: list[float] = []

    def look() -> None:
        service.during = None
        during.append(metrics_of(send(service_client, "GET", "/metrics").text)[("atlas_broker_sync_waiters",)])

    service_client = client.application.test_client()
    for path in (INSTANCE, f"{INSTANCE}?accepts_incomplete=true"):
        service.during = look
        send(client, "PUT", path, json=PROVISION)
    assert during == [1, 0]
    assert metrics_of(send(client, "GET", "/metrics").text)[("atlas_broker_sync_waiters",)] == 0


def test_the_description_lists_every_route_and_method() -> None:
    app = create_app(InMemoryService().service, {})
    served = {
        (rule.rule.replace("<id:", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    paths = send(a_client(InMemoryService()), "GET", "/openapi.json").get_json()["paths"]
    assert {(path, method) for path, item in paths.items() for method in item if method != "parameters"} == served


def test_the_description_has_no_dangling_reference() -> None:
    document = send(a_client(InMemoryService()), "GET", "/openapi.json").get_json()
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]}
    for reference in references:
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
