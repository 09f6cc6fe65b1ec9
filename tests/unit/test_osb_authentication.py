import pytest

from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import BINDING, INSTANCE, USER, VERSION, a_client, description, send

ROUTES = [
    ("GET", "/v2/catalog"),
    ("GET", INSTANCE),
    ("PUT", INSTANCE),
    ("PATCH", INSTANCE),
    ("DELETE", INSTANCE),
    ("GET", f"{INSTANCE}/last_operation"),
    ("GET", BINDING),
    ("PUT", BINDING),
    ("DELETE", BINDING),
    ("GET", f"{BINDING}/last_operation"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/operations"),
    ("GET", "/operations/bind-1"),
    ("POST", "/operations"),
    ("GET", "/no/such/path"),
    ("GET", "/v2/no/such/path"),
    ("POST", "/v2/catalog"),
    ("POST", "/health"),
]


@pytest.mark.rule("1.2.1", "1.2.2")
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_and_every_unknown_path_demands_authentication(method: str, path: str) -> None:
    response = a_client(InMemoryService()).open(path, method=method)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith('Basic realm="Atlas Broker"')
    assert "password" in (response.text if path.startswith("/operations") else description(response))


@pytest.mark.rule("1.2.1")
@pytest.mark.parametrize(
    "auth", [("platform", "wrong"), ("nobody", USER[1]), ("platform", ""), ("", ""), ("platform", f"{USER[1]}x")]
)
def test_wrong_users_and_wrong_passwords_are_refused_on_every_route(auth: tuple[str, str]) -> None:
    client = a_client(InMemoryService())
    assert {send(client, method, path, auth=auth, data=b"no json").status_code for method, path in ROUTES} == {401}


@pytest.mark.rule("1.2.1")
@pytest.mark.parametrize("value", ["Basic", "Basic !!!", "Basic /////w==", "Basic cGxhdGZvcm0=", "Bearer x", "x"])
def test_an_authorization_that_cannot_be_read_is_refused(value: str) -> None:
    response = a_client(InMemoryService()).get("/v2/catalog", headers={**VERSION, "Authorization": value})
    assert response.status_code == 401


def test_without_users_nobody_is_let_in() -> None:
    from broker_api.osb.app import create_app  # noqa: PLC0415 - the only test that needs it

    assert send(create_app(InMemoryService().service, {}).test_client(), "GET", "/v2/catalog").status_code == 401


@pytest.mark.rule("1.0")
def test_authentication_comes_before_the_version_the_ids_and_the_body() -> None:
    client = a_client(InMemoryService())
    assert client.put("/v2/service_instances/%ff", data="{").status_code == 401


@pytest.mark.rule("1.2.1")
@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
def test_probes_need_neither_authentication_nor_a_version(path: str) -> None:
    assert a_client(InMemoryService()).get(path).status_code == 200
