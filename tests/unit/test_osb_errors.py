import inspect
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from broker_api import errors
from broker_api.osb.errors import TABLE
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import INSTANCE, PROVISION, a_client, description, send

ASYNC = "This service plan requires client support for asynchronous service operations."
CONCURRENT = "The Service Broker does not support concurrent requests that mutate the same resource."
CASES = [
    (errors.BadRequest("no"), 400, None),
    (errors.ErrPlanUnsupported("p"), 400, None),
    (errors.NotFound("no"), 404, None),
    (errors.ErrStorageFindInstance("i"), 404, None),
    (errors.Conflict("no"), 409, None),
    (errors.Gone(), 410, None),
    (errors.AsyncRequired(), 422, "AsyncRequired"),
    (errors.ConcurrencyError(), 422, "ConcurrencyError"),
    (errors.MaintenanceInfoConflict("1.0.0", "the plan has none"), 422, "MaintenanceInfoConflict"),
    (errors.UpdateNotSupported("no"), 422, None),
    (errors.OperationFailed("no"), 500, None),
    (errors.ErrStorageMongoConnection("x"), 503, None),
    (errors.OutOfTime(50), 504, None),
]


@pytest.mark.parametrize(("trouble", "status", "code"), CASES, ids=lambda case: type(case).__name__)
def test_errors_become_their_status_and_code(trouble: Exception, status: int, code: str | None) -> None:
    response = send(a_client(InMemoryService(trouble=trouble)), "PUT", INSTANCE, json=PROVISION)
    assert response.status_code == status
    assert response.get_json().get("error") == code
    assert description(response)


def test_every_exception_of_the_broker_that_a_request_can_meet_has_its_answer() -> None:
    own = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    never = {errors.BrokerError, errors.OsbError, errors.SettingError, errors.ErrStorageTypeUnsupported}
    like_their_parents = {errors.MissingKeyError}
    assert own - never - like_their_parents == set(TABLE)


@pytest.mark.parametrize(
    ("trouble", "sentence"), [(errors.AsyncRequired(), ASYNC), (errors.ConcurrencyError(), CONCURRENT)]
)
def test_sentences_that_clients_compare_are_verbatim(trouble: Exception, sentence: str) -> None:
    response = send(a_client(InMemoryService(trouble=trouble)), "PUT", INSTANCE, json=PROVISION)
    assert description(response) == sentence


def test_an_update_that_can_never_succeed_says_so() -> None:
    client = a_client(InMemoryService(trouble=errors.UpdateNotSupported("no")))
    body = send(client, "PATCH", INSTANCE, json={"service_id": "s"}).get_json()
    assert body == {"description": "no", "update_repeatable": False}


def test_a_subclass_is_answered_like_its_parent() -> None:
    class Special(errors.Conflict):
        pass

    response = send(a_client(InMemoryService(trouble=Special("no"))), "PUT", INSTANCE, json=PROVISION)
    assert response.status_code == 409


def test_an_unexpected_error_names_the_request_and_not_its_cause() -> None:
    client = a_client(InMemoryService(trouble=ZeroDivisionError("secret detail")))
    with capture_logs() as logs:
        response = send(client, "GET", INSTANCE, headers={"X-Broker-API-Request-Identity": "r-1"})
    assert response.status_code == 500
    assert "request id r-1" in description(response)
    assert "secret detail" not in response.text
    assert "ZeroDivisionError" not in response.text
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


def test_an_error_after_the_answer_was_made_is_answered_too() -> None:
    client = a_client(InMemoryService())

    @client.application.after_request
    def fail(_: object) -> NoReturn:
        raise ZeroDivisionError

    response = send(client, "GET", "/v2/catalog")
    assert response.status_code == 500
    assert "request id" in description(response)


def test_without_a_request_identity_the_broker_makes_an_id() -> None:
    client = a_client(InMemoryService(trouble=RecursionError()))
    first, second = (description(send(client, "GET", INSTANCE)) for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", INSTANCE, {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
        ("OPTIONS", "/v2/catalog", {"GET", "HEAD"}),
        ("DELETE", f"{INSTANCE}/last_operation", {"GET", "HEAD"}),
        ("TRACE", "/metrics", {"GET", "HEAD"}),
        ("FOO", "/health", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_a_path_does_not_have_is_405_with_allow(method: str, path: str, allowed: set[str]) -> None:
    response = send(a_client(InMemoryService()), method, path)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert description(response)


def test_head_answers_like_get_without_a_body() -> None:
    client = a_client(InMemoryService())
    for path, status in (("/v2/catalog", 200), ("/v2/nope", 404), ("/health", 200)):
        response = send(client, "HEAD", path)
        assert (response.status_code, response.data) == (status, b"")
        assert response.content_type == "application/json"


def test_no_header_tells_what_serves() -> None:
    response = send(a_client(InMemoryService()), "GET", "/v2/catalog")
    assert not {"Server", "X-Powered-By", "Via"} & set(response.headers.keys())
