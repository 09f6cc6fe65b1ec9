"""1.4 and 1.5: how the broker says no, and what an asynchronous operation needs."""

import base64
import contextlib
import json
from http.client import HTTPConnection

import pytest

from tests.emulator.client import Emulator
from tests.osb.offers import MAINTAINED
from tests.osb.steps import ON_CLUSTER, UNKNOWN, held_update, new_id, provisioned
from tests.osb_client import Answer, Json, OsbClient

ASYNC_REQUIRED = "This service plan requires client support for asynchronous service operations."
CONCURRENCY = "The Service Broker does not support concurrent requests that mutate the same resource."


@pytest.mark.rule("1.4.1")
def test_an_error_is_an_object_with_a_description_for_the_user(client: OsbClient, instance: str) -> None:
    for answer in _refusals(client, instance):
        assert set(answer.json) <= {"error", "description"}, answer.text
        assert answer.json["description"]


def _refusals(client: OsbClient, instance: str) -> list[Answer]:
    return [
        client.catalog(auth=None),
        client.catalog(headers={"X-Broker-API-Version": None}),
        client.provision(new_id(), raw=b"{"),
        client.provision(new_id(), raw=b'{"a":' * 50_000),
        client.provision(new_id(), raw=b'"' + b"x" * 300_000 + b'"'),
        client.provision(new_id(), fields={"plan_id": UNKNOWN}),
        client.provision(instance, {"cluster": "other"}),
        client.update(instance, fields={"maintenance_info": {"version": "0.1.0"}}),
        client.instance(new_id()),
        client.binding(instance, new_id()),
        client.last_operation(new_id()),
        client.last_operation(instance, new_id()),
        client.request("GET", "/v2/nothing"),
        client.request("GET", "/"),
        client.request("POST", "/v2/catalog"),
        client.request("OPTIONS", f"/v2/service_instances/{instance}"),
        client.bind(new_id(), new_id()),
        client.deprovision(new_id()),
    ]


@pytest.mark.rule("0.12", "1.4.6")
def test_every_refusal_is_a_json_object_whatever_is_refused(client: OsbClient, instance: str) -> None:
    answers = _refusals(client, instance)
    assert {answer.status for answer in answers} == {400, 401, 404, 405, 409, 410, 412, 413, 422}
    assert all(answer.json for answer in answers if answer.status != 410)
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}


@pytest.mark.rule("0.12", "1.4.6")
def test_a_head_has_no_body_and_a_wrong_method_names_the_right_ones(client: OsbClient, instance: str) -> None:
    answer = client.request("POST", f"/v2/service_instances/{instance}")
    assert answer.status == 405
    assert {"PUT", "PATCH", "GET", "DELETE"} <= set(answer.headers["Allow"].split(", "))


@pytest.mark.rule("1.4.1")
def test_no_description_names_a_library_a_class_or_a_file(client: OsbClient, instance: str) -> None:
    words = (
        "pydantic",
        "flask",
        "werkzeug",
        "mongo.",
        "pymongo",
        "jsonschema",
        "traceback",
        ".py",
        "error(",
        "request(",
    )
    for answer in _refusals(client, instance):
        assert not [word for word in words if word in answer.description.lower()], answer.description


@pytest.mark.rule("1.4.2", "1.4.3", "1.5.1")
def test_async_required_is_said_in_the_words_that_clients_compare(async_only: OsbClient) -> None:
    answer = async_only.provision(new_id(), ON_CLUSTER, accepts_incomplete=None)
    assert (answer.status, answer.json) == (422, {"error": "AsyncRequired", "description": ASYNC_REQUIRED})


@pytest.mark.rule("1.4.2", "1.4.3")
def test_a_concurrency_error_is_said_in_the_words_that_clients_compare(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    answer = client.deprovision(instance_id)
    assert (answer.status, answer.json) == (422, {"error": "ConcurrencyError", "description": CONCURRENCY})


@pytest.mark.rule("1.4.2", "1.10.6")
def test_no_application_is_required(client: OsbClient, instance: str) -> None:
    """So ``RequiresApp`` is never said."""
    assert client.bind(instance, new_id()).status == 202


@pytest.mark.rule("1.4.2")
def test_a_maintenance_conflict_has_its_code_and_says_what_is_current(several_plans: OsbClient) -> None:
    wrong = {"plan_id": MAINTAINED, "maintenance_info": {"version": "1.1.0"}}
    answer = several_plans.provision(new_id(), ON_CLUSTER, fields=wrong)
    assert (answer.status, answer.json["error"]) == (422, "MaintenanceInfoConflict")
    assert "1.2.0" in answer.description


@pytest.mark.rule("1.4.4")
@pytest.mark.parametrize(
    "body",
    [
        {"plan_id": UNKNOWN},
        {"service_id": UNKNOWN},
        {"parameters": {"cluster": []}},
        {"parameters": {"cluster": "c", "policy-on-delete": "x"}},
        {"parameters": "text"},
        {"context": []},
    ],
    ids=str,
)
def test_what_is_wrong_with_a_provision_is_400_and_never_422(client: OsbClient, body: Json) -> None:
    """Cloud Foundry takes a 422 without a fixed code for a broken broker and deletes what it asked for."""
    assert client.provision(new_id(), ON_CLUSTER, fields=body).status == 400


@pytest.mark.rule("1.4.4")
@pytest.mark.parametrize(
    "body",
    [
        {"plan_id": UNKNOWN},
        {"parameters": {"role": "king"}},
        {"parameters": {"roles": ["root"]}},
        {"parameters": {"role": "readOnly", "roles": ["read"]}},
        {"parameters": {"expires_in": 1}},
        {"parameters": {"expires_in": 10_000_000}},
        {"app_guid": ""},
    ],
    ids=str,
)
def test_what_is_wrong_with_a_bind_is_400_and_never_422(client: OsbClient, instance: str, body: Json) -> None:
    assert client.bind(instance, new_id(), fields=body).status == 400


@pytest.mark.rule("1.4.7")
def test_what_is_absent_is_left_out_and_never_null(client: OsbClient, instance: str, binding: str) -> None:
    answers = [
        client.instance(instance),
        client.binding(instance, binding),
        client.last_operation(instance),
        client.last_operation(instance, binding),
        client.provision(new_id(), ON_CLUSTER),
        client.bind(instance, new_id()),
    ]
    assert not [answer.text for answer in answers if "null" in answer.text]


@pytest.mark.rule("1.5.2")
def test_what_goes_on_behind_the_request_is_202(client: OsbClient) -> None:
    instance_id, binding_id = new_id(), new_id()
    assert client.provision(instance_id, ON_CLUSTER).status == 202
    client.wait(instance_id)
    assert client.update(instance_id, {"policy-on-delete": "drop"}).status == 202
    client.wait(instance_id)
    assert client.bind(instance_id, binding_id).status == 202
    assert client.unbind(instance_id, binding_id).status == 202
    assert client.deprovision(instance_id).status == 202


@pytest.mark.rule("1.5.3")
def test_what_is_there_already_needs_no_polling(client: OsbClient, instance: str, binding: str) -> None:
    assert client.provision(instance, ON_CLUSTER, accepts_incomplete=None).status == 200
    assert client.bind(instance, binding, accepts_incomplete=None).status == 200


@pytest.mark.rule("1.4.6")
@pytest.mark.parametrize("length", [262_145, 300_000, 1_000_000])
def test_a_connection_can_be_used_again_after_a_body_that_was_too_long(client: OsbClient, length: int) -> None:
    for _ in range(5):
        assert client.provision(new_id(), raw=b"x" * length).status == 413
        assert client.catalog().status == 200


@pytest.mark.rule("1.4.6")
@pytest.mark.parametrize("length", [1000, 100_000, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_can_be_used_again_after_a_body_that_nobody_read(
    client: OsbClient, length: int, *, chunked: bool
) -> None:
    pieces = [b"%x\r\n%s\r\n" % (1000, b"x" * 1000)] * (length // 1000) + [b"0\r\n\r\n"]
    body = b"".join(pieces) if chunked else b"x" * length
    path = f"/v2/service_instances/{new_id()}"
    with _connection(client) as connection:
        for auth, status in ((None, 401), (client.auth, 413 if length > 262_144 else 400), (None, 401)):
            assert _sent(connection, path, auth, body, chunked=chunked) == status
            assert _sent(connection, "/v2/catalog", client.auth) == 200


@pytest.mark.rule("1.4.1", "1.4.6")
@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"-1\r\n", b"5\r\n{}\r\n0\r\n\r\n"])
def test_chunks_that_are_malformed_are_400(client: OsbClient, body: bytes) -> None:
    with _connection(client) as connection:
        assert _sent(connection, f"/v2/service_instances/{new_id()}", client.auth, body, chunked=True) == 400


def _connection(client: OsbClient) -> contextlib.closing[HTTPConnection]:
    host, _, port = client.base_url.removeprefix("http://").partition(":")
    connection = HTTPConnection(host, int(port), timeout=60)
    connection.connect()
    return contextlib.closing(connection)


def _sent(
    connection: HTTPConnection, path: str, auth: tuple[str, str] | None, body: bytes = b"", *, chunked: bool = False
) -> int:
    """The status of a PUT with a body, as its bytes are given, else of a GET; on this connection and no other."""
    connection.auto_open = 0
    headers = {"X-Broker-API-Version": "2.17"}
    if auth:
        headers["Authorization"] = f"Basic {base64.b64encode(':'.join(auth).encode()).decode()}"
    if body:
        headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    connection.request("PUT" if body else "GET", path, body or None, headers)
    response = connection.getresponse()
    assert "description" in json.loads(response.read()) or response.status == 200
    return response.status
