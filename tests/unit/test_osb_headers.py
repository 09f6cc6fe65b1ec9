import base64
import json

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import IDS, INSTANCE, PROVISION, USER, a_client, description, send

IDENTITY = "X-Broker-API-Originating-Identity"
REQUEST = "X-Broker-API-Request-Identity"


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.rule("1.1.2")
@pytest.mark.parametrize("version", ["2.13", "2.14", "2.15", "2.16", "2.17", "2.18", "2.100"])
def test_every_minor_version_from_2_13_is_served(version: str) -> None:
    response = send(a_client(InMemoryService()), "GET", "/v2/catalog", headers={"X-Broker-API-Version": version})
    assert response.status_code == 200


@pytest.mark.rule("0.1", "1.1.2")
@pytest.mark.parametrize(
    "version",
    [
        "",
        " ",
        "2.12",
        "2.9",
        "2.1",
        "1.20",
        "3.0",
        "2",
        "two",
        "2.x",
        "-2.14",
        "2.17.0",
        "2.9999999",
        "\u0662.\u0661\u0667",
    ],
)
def test_other_versions_are_refused_with_a_sentence_that_names_the_header(version: str) -> None:
    headers = {"X-Broker-API-Version": version.encode().decode("latin-1")}
    response = send(a_client(InMemoryService()), "GET", "/v2/catalog", headers=headers)
    assert response.status_code == 412
    assert "X-Broker-API-Version" in description(response)
    assert "2.13" in description(response)


@pytest.mark.rule("0.1", "1.1.1")
@pytest.mark.parametrize("path", ["/v2/catalog", f"{INSTANCE}/last_operation", "/v2/no/such/path"])
def test_a_missing_version_is_refused(path: str) -> None:
    response = a_client(InMemoryService()).get(path, auth=USER)
    assert response.status_code == 412
    assert "X-Broker-API-Version" in description(response)


@pytest.mark.rule("1.0")
def test_the_version_comes_before_the_ids_and_the_body() -> None:
    client = a_client(InMemoryService())
    assert client.put("/v2/service_instances/%ff", data="{", auth=USER).status_code == 412


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json"])
def test_what_is_for_operators_needs_no_version(path: str) -> None:
    assert a_client(InMemoryService()).get(path, auth=USER).status_code == 200


@pytest.mark.rule("1.1.4")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/catalog", 200),
        ("GET", "/v2/x", 404),
        ("GET", INSTANCE, 404),
        ("GET", "/v2/service_instances/%00", 400),
        ("POST", "/v2/catalog", 405),
        ("DELETE", f"{INSTANCE}?{IDS}", 410),
    ],
)
def test_the_request_identity_is_echoed_on_every_answer(method: str, path: str, status: int) -> None:
    response = send(a_client(InMemoryService()), method, path, headers={REQUEST: "r-1"})
    assert (response.status_code, response.headers[REQUEST]) == (status, "r-1")


def test_the_request_identity_is_echoed_where_authentication_or_the_broker_failed() -> None:
    client = a_client(InMemoryService(trouble=ZeroDivisionError("boom")))
    assert client.get("/v2/catalog", headers={REQUEST: "r-1"}).headers[REQUEST] == "r-1"
    assert client.get("/v2/catalog", headers={REQUEST: "r-3"}, auth=USER).headers[REQUEST] == "r-3"  # without a version
    assert send(client, "GET", INSTANCE, headers={REQUEST: "r-2"}).headers[REQUEST] == "r-2"


@pytest.mark.rule("1.1.4")
@pytest.mark.parametrize("given", [None, ""])
def test_an_absent_or_empty_request_identity_is_not_echoed(given: str | None) -> None:
    headers = {} if given is None else {REQUEST: given}
    assert REQUEST not in send(a_client(InMemoryService()), "GET", "/v2/catalog", headers=headers).headers


def test_a_request_identity_cannot_split_headers() -> None:
    environ = {"HTTP_X_BROKER_API_REQUEST_IDENTITY": "a\r\nSet-Cookie: b\x00"}
    response = send(a_client(InMemoryService()), "GET", "/v2/catalog", environ_overrides=environ)
    assert response.headers[REQUEST] == "aSet-Cookie: b"
    assert "Set-Cookie" not in response.headers


def test_identities_reach_the_service() -> None:
    service = InMemoryService()
    headers = {IDENTITY: f"cloudfoundry {encoded({'user_id': 'u-1'})}", REQUEST: "r-1"}
    send(a_client(service), "PUT", f"{INSTANCE}?accepts_incomplete=true", json=PROVISION, headers=headers)
    (caller,) = service.callers
    assert caller.identity == {"platform": "cloudfoundry", "value": {"user_id": "u-1"}}
    assert caller.request_id == "r-1"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"username": "jo", "uid": "7", "groups": ["g"] * 2000, "extra": {"a": ["b"]}}, {"username": "jo", "uid": "7"}),
        ({"user_id": "u", "x": 2**64, "y": chr(0), "z": "\ud800"}, {"user_id": "u"}),
        ({"user_id": 1, "username": None, "uid": ["u"]}, {}),
        ({"username": "x" * 40_000}, {"username": "x" * 255}),
        ({"username": "a\x00\r\nb\ud800"}, {"username": "ab?"}),
        ({"anything": {"$where": "1"}}, {}),
    ],
    ids=range(6),
)
def test_of_an_originating_identity_only_what_names_the_user_is_kept(given: object, kept: object) -> None:
    service = InMemoryService()
    send(a_client(service), "PUT", INSTANCE, json=PROVISION, headers={IDENTITY: f"kubernetes {encoded(given)}"})
    assert service.callers[0].identity == {"platform": "kubernetes", "value": kept}


def test_a_long_request_identity_is_echoed_whole_and_kept_in_part() -> None:
    service = InMemoryService()
    response = send(a_client(service), "PUT", INSTANCE, json=PROVISION, headers={REQUEST: "r" * 5000})
    assert response.headers[REQUEST] == "r" * 5000
    assert service.callers[0].request_id == "r" * 255


@pytest.mark.rule("1.1.3")
@pytest.mark.parametrize(
    "identity",
    [
        "cloudfoundry",
        "x" * 4000,
        "cloudfoundry !!!",
        f"cloudfoundry {encoded([1])}",
        "cloudfoundry " + base64.b64encode(b'{"user_id": NaN}').decode(),
        "cloudfoundry " + base64.b64encode(b"[" * 5000).decode(),
        "cloudfoundry " + base64.b64encode(b"\xff").decode(),
        "\xe4\xf6\xfc \xe4",
    ],
)
def test_a_malformed_originating_identity_is_logged_and_does_no_harm(identity: str) -> None:
    service = InMemoryService()
    with capture_logs() as logs:
        response = send(a_client(service), "PUT", INSTANCE, json=PROVISION, headers={IDENTITY: identity})
    assert response.status_code == 201
    assert service.callers[0].identity is None
    assert [line["event"] for line in logs].count("originating_identity_unreadable") == 1


def test_log_lines_tell_what_a_request_is_about_and_no_secret() -> None:
    headers = {IDENTITY: f"kubernetes {encoded({'username': 'jo', 'groups': ['secret-group']})}", REQUEST: "r-1"}
    with capture_logs(processors=[merge_contextvars]) as logs:
        send(a_client(InMemoryService()), "PUT", INSTANCE, json=PROVISION, headers=headers)
        send(a_client(InMemoryService()), "GET", "/v2/catalog")
    first, second = logs
    assert {
        "event": "request_answered",
        "request_id": "r-1",
        "instance_id": "i-1",
        "platform": "kubernetes",
    }.items() <= (first.items())
    assert (first["user"], first["status"], first["method"]) == ("jo", 201, "PUT")
    assert not {"instance_id", "platform", "user"} & set(second)
    assert not any(secret in repr(logs) for secret in ("secret-group", USER[1], "Basic", "cluster"))
