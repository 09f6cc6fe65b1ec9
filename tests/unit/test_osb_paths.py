import socket
import threading
from collections.abc import Iterator
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server

from broker_api.osb.app import create_app
from broker_api.osb.url_paths import EncodedPath
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import BIND, BINDING, INSTANCE, PROVISION, USER, a_client, description, send

IDS = [
    "a/b",
    "a b",
    "ä€𝄞",
    "%2F",
    "a?b#c&d=e",
    "a+b",
    "..",
    ".",
    "$where",
    "{$ne: 1}",
    "a\nb",
    "last_operation",
    "~-._",
]


def segment(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.parametrize("id_", [*IDS, "x" * 255, "€" * 255])
def test_any_segment_is_an_id(id_: str) -> None:
    service = InMemoryService()
    client = a_client(service)
    instance = f"/v2/service_instances/{segment(id_)}"
    assert send(client, "PUT", instance, json=PROVISION).status_code == 201
    assert send(client, "PUT", f"{instance}/service_bindings/{segment(id_)}", json=BIND).status_code == 201
    assert send(client, "GET", f"{instance}/service_bindings/{segment(id_)}/last_operation").status_code == 200
    assert (list(service.instances), list(service.bindings)) == ([id_], [(id_, id_)])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=255))
def test_one_id_is_one_instance_however_it_is_encoded(id_: str) -> None:
    service = InMemoryService()
    client = a_client(service)
    assert send(client, "PUT", f"/v2/service_instances/{segment(id_)}", json=PROVISION).status_code == 201
    encoded = quote(id_, safe="").replace(".", "%2e").lower() if id_.lower() == id_ else segment(id_)
    assert send(client, "GET", f"/v2/service_instances/{encoded}").status_code == 200
    assert list(service.instances) == [id_]


@pytest.mark.parametrize(
    ("id_", "complaint"),
    [("%ff", "UTF-8"), ("%ED%A0%80", "UTF-8"), ("a%00b", "NUL"), ("x" * 256, "255"), (segment("€" * 256), "255")],
)
@pytest.mark.parametrize("path", ["/v2/service_instances/{}", INSTANCE + "/service_bindings/{}/last_operation"])
def test_what_cannot_be_an_id_is_refused(path: str, id_: str, complaint: str) -> None:
    response = send(a_client(InMemoryService()), "GET", path.format(id_))
    assert response.status_code == 400
    assert complaint in description(response)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2",
        "/v2/",
        "/v2/catalog/",
        "/v2/service_instances",
        "/v2/service_instances/",
        "/v2/service_instances//last_operation",
        f"{INSTANCE}/",
        f"{INSTANCE}//last_operation",
        f"{INSTANCE}/last_operation/",
        f"{INSTANCE}/service_bindings",
        f"{BINDING}/x",
        "/v2/../v2/catalog",
        "/V2/catalog",
        "/v2%2Fcatalog",
        "/static/x",
    ],
)
def test_unknown_paths_are_404_without_a_redirect(path: str) -> None:
    response = send(a_client(InMemoryService()), "GET", path)
    assert (response.status_code, description(response)) == (404, "There is no such path.")
    assert "Location" not in response.headers


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"RAW_URI": "/a%2Fb?c=/d", "PATH_INFO": "/a/b"}, "/a%2Fb"),
        ({"REQUEST_URI": "/a%2fb", "PATH_INFO": "/a/b"}, "/a%2Fb"),
        ({"RAW_URI": "http://host:80/a%2Fb?c"}, "/a%2Fb"),
        ({"RAW_URI": "http://host"}, "/"),
        ({"RAW_URI": "*"}, "%2A"),
        ({"RAW_URI": "/c%61t"}, "/cat"),
        ({"RAW_URI": "/%zz"}, "/%25zz"),
        ({"RAW_URI": "/\xc3\xa4"}, "/%C3%A4"),
        ({"RAW_URI": "/broker/v2/a%2Fb", "SCRIPT_NAME": "/broker"}, "/v2/a%2Fb"),
        ({"RAW_URI": "/brokers/v2", "SCRIPT_NAME": "/broker"}, "/brokers/v2"),
        ({"PATH_INFO": "/a b/%2F/\xc3\xa4"}, "/a%20b/%252F/%C3%A4"),
        ({}, ""),
    ],
)
def test_the_path_is_taken_from_the_request_line(environ: dict[str, str], path: str) -> None:
    def app(served: dict[str, Any], _: object) -> list[bytes]:
        return [served["PATH_INFO"].encode("latin-1")]

    def start(status: str, headers: list[tuple[str, str]], error: object = None, /) -> NoReturn:
        raise AssertionError(status, headers, error)

    assert list(EncodedPath(app)(environ, start)) == [path.encode("latin-1")]


@pytest.fixture
def port() -> Iterator[int]:
    server = make_server("127.0.0.1", 0, create_app(InMemoryService().service, dict([USER])), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("target", ["/v2/service_instances/a%2Fb", "http://host/v2/service_instances/a%2Fb"])
def test_a_server_hands_over_encoded_slashes(port: int, target: str) -> None:
    headers = "Authorization: Basic cGxhdGZvcm06cMOkOnNz\r\nX-Broker-API-Version: 2.17\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"The instance a/b does not exist" in answer
