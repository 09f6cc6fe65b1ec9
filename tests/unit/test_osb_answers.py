from urllib.parse import urlencode

import pytest

from broker_api.catalog.catalog import Catalog
from broker_api.config import Config
from broker_api.errors import UpdateNotSupported
from broker_api.json_types import JsonObject
from broker_api.service.schemas import LastOperation
from tests.unit.in_memory_service import CREDENTIALS, PLAN_ID, SERVICE_ID, InMemoryService
from tests.unit.osb_requests import BIND, BINDING, IDS, INSTANCE, PROVISION, a_client, send

ASYNC = "accepts_incomplete=true"


def test_the_catalog_is_answered_with_an_etag() -> None:
    service = InMemoryService()
    response = send(a_client(service), "GET", "/v2/catalog")
    assert (response.status_code, response.get_json()) == (200, service.catalog.document)
    assert response.headers["ETag"] == f'"{service.catalog.etag}-2.17"'


@pytest.mark.rule("1.1.7")
def test_a_known_catalog_is_not_sent_again() -> None:
    service = InMemoryService()
    client = a_client(service)
    etag = f"{service.catalog.etag}-2.17"
    for known in (f'"{etag}"', f'W/"{etag}", "x"', "*"):
        response = send(client, "GET", "/v2/catalog", headers={"If-None-Match": known})
        assert (response.status_code, response.data) == (304, b"")
        assert response.headers["Vary"] == "X-Broker-API-Version"
    assert send(client, "GET", "/v2/catalog", headers={"If-None-Match": '"x"'}).status_code == 200


# --- fields that only newer versions of the API have --------------------------------------------------------------


def at(minor: int) -> dict[str, str]:
    return {"X-Broker-API-Version": f"2.{minor}"}


SERVICE_FIELDS = {14: {"instances_retrievable", "bindings_retrievable"}, 15: {"allow_context_updates"}}
PLAN_FIELDS = {
    15: {"plan_updateable", "maximum_polling_duration", "maintenance_info"},
    17: {"binding_rotatable"},
}


def newer(fields: dict[int, set[str]], minor: int) -> set[str]:
    return {name for since, names in fields.items() if since > minor for name in names}


@pytest.mark.parametrize("minor", [13, 14, 15, 16, 17, 18, 100])
def test_the_catalog_has_the_fields_of_the_version_that_the_request_names(minor: int) -> None:
    config = Config({}, {})
    config.broker["plans"][0].update(plan_updateable=True, maintenance_info={"version": "1.0.0"})
    service = InMemoryService(catalog=Catalog(config))
    (offered,) = send(a_client(service), "GET", "/v2/catalog", headers=at(minor)).get_json()["services"]
    (whole,) = service.catalog.document["services"]
    assert set(whole) - set(offered) == newer(SERVICE_FIELDS, minor)
    assert set(whole["plans"][0]) - set(offered["plans"][0]) == newer(PLAN_FIELDS, minor)
    assert offered["plans"][0]["schemas"] == whole["plans"][0]["schemas"]
    assert offered["plan_updateable"] is False


def test_each_version_of_the_catalog_has_an_etag_of_its_own() -> None:
    client = a_client(InMemoryService())
    answers = {minor: send(client, "GET", "/v2/catalog", headers=at(minor)) for minor in (13, 14, 15, 16, 17, 18)}
    etags = {minor: answered.headers["ETag"] for minor, answered in answers.items()}
    assert len(set(etags.values())) == 5
    assert etags[17] == etags[18]
    old = {**at(14), "If-None-Match": etags[17]}
    assert send(client, "GET", "/v2/catalog", headers=old).status_code == 200
    assert {answered.headers["Vary"] for answered in answers.values()} == {"X-Broker-API-Version"}


OF_A_BINDING: JsonObject = {
    "endpoints": [{"host": "h", "ports": ["27017"]}],
    "metadata": {"expires_at": "2026-01-01T00:00:00.0Z", "renew_before": "2025-12-31T00:00:00.0Z"},
}
OF_AN_INSTANCE: JsonObject = {"dashboard_url": "d", "maintenance_info": {"version": "1.0.0"}}


@pytest.mark.parametrize(
    ("minor", "fields"),
    [
        (13, {"credentials"}),
        (14, {"credentials"}),
        (15, {"credentials", "endpoints"}),
        (16, {"credentials", "endpoints", "metadata"}),
        (17, {"credentials", "endpoints", "metadata"}),
    ],
)
def test_a_binding_has_the_fields_of_the_version(minor: int, fields: set[str]) -> None:
    client = a_client(InMemoryService(instances={"i-1": {}}, more=OF_A_BINDING))
    for method in ("PUT", "GET"):
        body = send(client, method, BINDING, json=BIND, headers=at(minor)).get_json()
        assert set(body) == fields
        assert ("renew_before" in body.get("metadata", {})) is (minor == 17)
        assert ("expires_at" in body.get("metadata", {})) is (minor >= 16)


@pytest.mark.parametrize("minor", [13, 14, 15, 16, 17])
def test_an_instance_and_its_update_have_the_fields_of_the_version(minor: int) -> None:
    client = a_client(InMemoryService(instances={"i-1": {}}, more=OF_AN_INSTANCE))
    fetched = send(client, "GET", INSTANCE, headers=at(minor)).get_json()
    assert ("maintenance_info" in fetched) is (minor >= 17)
    assert fetched["dashboard_url"] == "d"
    for query in ("", f"?{ASYNC}"):
        updated = send(client, "PATCH", f"{INSTANCE}{query}", json=BIND, headers=at(minor)).get_json()
        assert ("dashboard_url" in updated) is (minor >= 14)


@pytest.mark.parametrize("minor", [13, 14, 15, 16, 17])
def test_a_poll_and_an_error_have_the_fields_of_the_version(minor: int) -> None:
    last = LastOperation("failed", "because", 60, instance_usable=True, update_repeatable=False)
    service = InMemoryService(instances={"i-1": {}}, last=last)
    client = a_client(service)
    polled = send(client, "GET", f"{INSTANCE}/last_operation", headers=at(minor))
    assert ("instance_usable" in polled.get_json()) is ("update_repeatable" in polled.get_json()) is (minor >= 16)
    assert ("Retry-After" in polled.headers) is (minor >= 15)
    service.trouble = UpdateNotSupported("no")
    refused = send(client, "PATCH", INSTANCE, json=BIND, headers=at(minor)).get_json()
    assert ("update_repeatable" in refused) is (minor >= 16)


def test_accepted_is_202_with_the_operation() -> None:
    service = InMemoryService()
    client = a_client(service)
    response = send(client, "PUT", f"{INSTANCE}?{ASYNC}", json=PROVISION)
    assert (response.status_code, response.get_json()) == (
        202,
        {"operation": "o-create", "dashboard_url": "https://atlas"},
    )
    assert send(client, "PATCH", f"{INSTANCE}?{ASYNC}", json=BIND).get_json() == {"operation": "o-update"}
    assert send(client, "PUT", f"{BINDING}?{ASYNC}", json=BIND).get_json() == {"operation": "o-create"}
    assert send(client, "DELETE", f"{BINDING}?{IDS}&{ASYNC}").get_json() == {"operation": "o-delete"}
    response = send(client, "DELETE", f"{INSTANCE}?{IDS}&{ASYNC}")
    assert (response.status_code, response.get_json()) == (202, {"operation": "o-delete"})


def test_what_the_request_made_is_201_and_what_is_there_is_200() -> None:
    client = a_client(InMemoryService())
    assert [send(client, "PUT", INSTANCE, json=PROVISION).status_code for _ in range(2)] == [201, 200]
    responses = [send(client, "PUT", BINDING, json=BIND) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 200]
    assert all(response.get_json() == {"credentials": CREDENTIALS} for response in responses)
    changed = {**PROVISION, "space_guid": "other"}
    assert send(client, "PUT", INSTANCE, json=changed).status_code == 409


def test_done_is_an_object_and_gone_is_410() -> None:
    client = a_client(InMemoryService(instances={"i-1": {}}, bindings={("i-1", "b-1"): {}}))
    for path in (BINDING, INSTANCE):
        done, gone = (send(client, "DELETE", f"{path}?{IDS}") for _ in range(2))
        assert (done.status_code, done.get_json()) == (200, {})
        assert (gone.status_code, list(gone.get_json())) == (410, ["description"])


@pytest.mark.rule("1.5.1")
@pytest.mark.parametrize("value", ["false", "False", "True", "TRUE", "1", "", "true ", "yes", "null"])
def test_only_the_literal_true_accepts_incomplete(value: str) -> None:
    service = InMemoryService()
    client, query = a_client(service), urlencode({"accepts_incomplete": value})
    requests: list[tuple[str, str, JsonObject | None]] = [
        ("PUT", f"{INSTANCE}?{query}", PROVISION),
        ("PATCH", f"{INSTANCE}?{query}", {"service_id": SERVICE_ID}),
        ("PUT", f"{BINDING}?{query}", BIND),
        ("DELETE", f"{BINDING}?{IDS}&{query}", None),
        ("DELETE", f"{INSTANCE}?{IDS}&{query}", None),
    ]
    answers = [send(client, method, path, json=body).status_code for method, path, body in requests]
    assert answers == [201, 200, 201, 200, 200]
    assert {caller.accepts_incomplete for caller in service.callers} == {False}


def test_what_is_absent_is_left_out() -> None:
    response = send(a_client(InMemoryService(instances={"i-1": {}})), "GET", INSTANCE)
    assert response.get_json() == {"service_id": SERVICE_ID, "plan_id": PLAN_ID}


def test_a_poll_reports_the_state() -> None:
    service = InMemoryService(instances={"i-1": {}}, bindings={("i-1", "b-1"): {}}, last=LastOperation("in progress"))
    client = a_client(service)
    assert send(client, "GET", f"{INSTANCE}/last_operation").get_json() == {"state": "in progress"}
    service.last = LastOperation("failed", "because", None, instance_usable=True, update_repeatable=False)
    assert send(client, "GET", f"{INSTANCE}/last_operation?operation=o").get_json() == {
        "state": "failed",
        "description": "because",
        "instance_usable": True,
        "update_repeatable": False,
    }


def test_retry_after_is_for_instances_only() -> None:
    last = LastOperation("in progress", "waiting", retry_after=60)
    client = a_client(InMemoryService(instances={"i-1": {}}, bindings={("i-1", "b-1"): {}}, last=last))
    response = send(client, "GET", f"{INSTANCE}/last_operation")
    assert (response.headers["Retry-After"], response.get_json()) == (
        "60",
        {"state": "in progress", "description": "waiting"},
    )
    assert "Retry-After" not in send(client, "GET", f"{BINDING}/last_operation").headers


@pytest.mark.parametrize("query", ["", "operation=", "operation=nope", "operation=%00%ff", "service_id=x&plan_id=y"])
@pytest.mark.parametrize("path", [INSTANCE, BINDING])
def test_a_poll_is_never_refused_for_its_query(path: str, query: str) -> None:
    client = a_client(InMemoryService(instances={"i-1": {}}, bindings={("i-1", "b-1"): {}}))
    assert send(client, "GET", f"{path}/last_operation?{query}").status_code == 200


def test_polls_of_what_is_not_there_are_404_or_410() -> None:
    client = a_client(InMemoryService())
    assert send(client, "GET", f"{BINDING}/last_operation?operation=x").status_code == 404
    assert send(client, "GET", f"{BINDING}/last_operation?operation=gone").status_code == 410
    assert send(client, "GET", f"{INSTANCE}/last_operation").status_code == 404
    assert send(client, "GET", BINDING).status_code == 404
