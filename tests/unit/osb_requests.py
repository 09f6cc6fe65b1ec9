"""What the tests of the HTTP layer send: a client that authenticates, and bodies that are in order."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from broker_api.osb.app import create_app
from tests.unit.in_memory_service import PLAN_ID, SERVICE_ID, InMemoryService

USER = ("platform", "pä:ss")
VERSION = {"X-Broker-API-Version": "2.17"}
INSTANCE = "/v2/service_instances/i-1"
BINDING = f"{INSTANCE}/service_bindings/b-1"
IDS = f"service_id={SERVICE_ID}&plan_id={PLAN_ID}"
PROVISION: dict[str, Any] = {
    "service_id": SERVICE_ID,
    "plan_id": PLAN_ID,
    "organization_guid": "o",
    "space_guid": "s",
    "parameters": {"cluster": "c"},
}
BIND: dict[str, Any] = {"service_id": SERVICE_ID, "plan_id": PLAN_ID}


def a_client(service: InMemoryService, **options: Any) -> FlaskClient:  # noqa: ANN401 - those of create_app
    return create_app(service.service, dict([USER]), **options).test_client()


def send(client: FlaskClient, method: str, path: str, **more: Any) -> TestResponse:  # noqa: ANN401 - those of Werkzeug
    headers = {**VERSION, **more.pop("headers", {})}
    return client.open(path, method=method, auth=more.pop("auth", USER), headers=headers, **more)


def description(response: TestResponse) -> str:
    assert response.content_type == "application/json"
    body = response.get_json()
    assert isinstance(body, dict)
    assert isinstance(body["description"], str)
    return str(body["description"])
