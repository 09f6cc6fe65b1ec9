import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_api.service.schemas import BindRequest, ProvisionRequest, RotateRequest
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import BIND, BINDING, INSTANCE, PROVISION, a_client, description, send

NO_JSON = [
    b"",
    b"{",
    b"null x",
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a":\xff}',
    b'{"service_id": "a", "service_id": "b"}',
    b'{"service_id": "a", "unknown": [{"b": 1, "\\u0062": 1}]}',
    b"\xef\xbb\xbf{}",
]
DEEP = b'{"parameters":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.rule("1.1.5", "1.4.1", "1.7.9")
@pytest.mark.parametrize(("method", "path"), [("PUT", INSTANCE), ("PATCH", INSTANCE), ("PUT", BINDING)])
@pytest.mark.parametrize("data", [*NO_JSON, DEEP], ids=range(len(NO_JSON) + 1))
def test_what_is_no_json_is_refused(method: str, path: str, data: bytes) -> None:
    response = send(a_client(InMemoryService()), method, path, data=data)
    assert response.status_code == 400
    assert description(response).startswith("The body must be JSON")


@pytest.mark.rule("1.4.1", "1.7.9")
@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_what_is_no_object_is_refused(value: object) -> None:
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, data=json.dumps(value))
    assert (response.status_code, description(response)) == (400, "The body must be a JSON object.")


@pytest.mark.rule("1.1.5")
@pytest.mark.parametrize("content_type", [None, "", "text/plain", "nonsense", "a/b; charset=x"])
def test_the_content_type_does_not_matter(content_type: str | None) -> None:
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, data=json.dumps(PROVISION), content_type=content_type)
    assert response.status_code == 201


@pytest.mark.rule("1.4.1", "1.7.9")
@pytest.mark.parametrize("field", ["service_id", "plan_id", "organization_guid", "space_guid"])
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (..., "is missing"),
        (None, "must be a string"),
        ([], "must be a string"),
        (1, "must be a string"),
        ("", "must not be empty"),
        ("x" * 256, "must have at most 255 characters"),
    ],
)
def test_mandatory_fields_are_named(field: str, value: object, complaint: str) -> None:
    body = {name: content for name, content in {**PROVISION, field: value}.items() if content is not ...}
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, json=body)
    assert (response.status_code, description(response)) == (400, f"{field} {complaint}.")


@pytest.mark.rule("1.4.1", "1.7.9")
@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("context", [], "context must be an object."),
        ("parameters", "x", "parameters must be an object."),
        ("maintenance_info", 1, "maintenance_info must be an object."),
        ("maintenance_info", {"version": 1}, "maintenance_info.version must be a string."),
    ],
)
def test_optional_fields_have_their_types(field: str, value: object, complaint: str) -> None:
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, json={**PROVISION, field: value})
    assert (response.status_code, description(response)) == (400, complaint)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("a\x00", "parameters.x must not hold a NUL character."),
        ({"a\x00": 1}, "parameters.x must not have a field whose name holds a NUL character."),
        ([1, 2**63], "parameters.x.1 must be a number of at most 64 bits."),
        (-(2**63) - 1, "parameters.x must be a number of at most 64 bits."),
        ("a\ud800", "parameters.x must not hold half of a surrogate pair."),
        ({"a\ud800": 1}, "parameters.x must not have a field whose name holds half of a surrogate pair."),
    ],
)
def test_values_that_cannot_be_stored_are_named(value: object, complaint: str) -> None:
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, json={**PROVISION, "parameters": {"x": value}})
    assert (response.status_code, description(response)) == (400, complaint)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-400", "-0.1e-400"])
def test_a_number_that_would_be_stored_as_another_one_is_refused(number: str) -> None:
    data = json.dumps(PROVISION).replace('"cluster"', f'"x": {number}, "cluster"')
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, data=data)
    assert (response.status_code, description(response)) == (
        400,
        "parameters.x must be a number that 64 bits can hold.",
    )


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "18446744073709551615"])
def test_an_integer_of_any_length_is_refused_with_the_same_sentence(number: str) -> None:
    data = json.dumps(PROVISION).replace('"cluster"', f'"x": {number}, "cluster"')
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, data=data)
    assert description(response) == "parameters.x must be a number of at most 64 bits."


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "1e308", "5e-324", "-0.0", "0e-999"])
def test_a_number_that_fits_arrives_as_it_is(number: str) -> None:
    service = InMemoryService()
    data = json.dumps(PROVISION).replace('"cluster"', f'"x": {number}, "cluster"')
    assert send(a_client(service), "PUT", INSTANCE, data=data).status_code == 201
    (request,) = service.requests
    assert request.parameters
    assert repr(request.parameters["x"]) == repr(json.loads(number))


UNSTORABLE = {
    "number": "18446744073709551615",
    "long number": "9" * 5000,
    "overflow": "1e400",
    "underflow": "1e-400",
    "NUL": '"\\u0000"',
    "NUL in a name": '{"\\u0000": 1}',
    "half a surrogate pair": '"\\ud800"',
    "half a pair in a name": '{"\\ud800": {"\\udc00": []}}',
    "70 levels": "[" * 70 + "]" * 70,
    "300 levels": '{"a":' * 300 + "1" + "}" * 300,
}


@pytest.mark.parametrize("value", UNSTORABLE.values(), ids=UNSTORABLE)
@pytest.mark.parametrize(
    ("method", "path", "body", "place"),
    [
        ("PUT", INSTANCE, PROVISION, '"x-own": {}'),
        ("PUT", INSTANCE, PROVISION, '"maintenance_info": {{"x": {}}}'),
        ("PATCH", INSTANCE, BIND, '"x-own": {}'),
        ("PATCH", INSTANCE, BIND, '"previous_values": {{"plan_id": {}}}'),
        ("PUT", BINDING, BIND, '"x-own": {}'),
        ("PUT", BINDING, BIND, '"bind_resource": {{"x": {}}}'),
        ("PUT", BINDING, {"predecessor_binding_id": "b-0"}, '"x-own": {}'),
    ],
)
def test_what_is_ignored_may_hold_anything(
    method: str, path: str, body: dict[str, object], place: str, value: str
) -> None:
    service = InMemoryService(instances={"i-1": {}} if (method, path) != ("PUT", INSTANCE) else {})
    data = json.dumps(body)[:-1] + ", " + place.format(value) + "}"
    assert send(a_client(service), method, path, data=data).status_code in (200, 201)
    (request,) = service.requests
    assert "x" not in repr(request.model_dump(exclude_none=True).keys())


@pytest.mark.parametrize("field", ["parameters", "context", "x-own"])
@pytest.mark.parametrize("levels", [1_000, 10_000, 80_000])
def test_no_depth_makes_the_broker_fail(field: str, levels: int) -> None:
    """How deep a body can be decoded at all is Python's own limit."""
    body = json.dumps(PROVISION)[:-1] + f', "{field}": ' + '{"a":' * (levels // 2) + "[" * (levels // 2)
    body += "]" * (levels // 2) + "}" * (levels // 2) + "}"
    response = send(a_client(InMemoryService(), max_body_bytes=10_000_000), "PUT", INSTANCE, data=body)
    assert response.status_code in ((201, 400) if field == "x-own" else (400,))
    assert response.status_code == 201 or "64 levels" in description(response)


@pytest.mark.parametrize("info", [None, {}, {"version": None}, {"version": ""}, {"description": "new"}], ids=repr)
def test_maintenance_information_without_a_version_is_no_information(info: object) -> None:
    for method, body in (("PUT", PROVISION), ("PATCH", BIND)):
        service = InMemoryService(instances={"i-1": {}} if method == "PATCH" else {})
        response = send(a_client(service), method, INSTANCE, json={**body, "maintenance_info": info})
        assert response.status_code in (200, 201)


@pytest.mark.parametrize(("levels", "status"), [(63, 201), (64, 400), (150, 400)])
def test_bodies_may_have_64_levels(levels: int, status: int) -> None:
    body = {**PROVISION, "context": nested(levels)}
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, json=body)
    assert response.status_code == status
    assert status == 201 or "64 levels" in description(response)


def test_unknown_fields_are_ignored() -> None:
    service = InMemoryService()
    response = send(a_client(service), "PUT", INSTANCE, json={**PROVISION, "x-own": {"a": None}})
    assert response.status_code == 201
    assert service.requests == [ProvisionRequest(**PROVISION)]


def test_operators_of_mongodb_are_data() -> None:
    service = InMemoryService()
    body = {**PROVISION, "parameters": {"cluster": "c", "$where": {"$gt": ""}}}
    assert send(a_client(service), "PUT", INSTANCE, json=body).status_code == 201
    assert send(a_client(service), "PUT", INSTANCE, json={**PROVISION, "plan_id": {"$ne": ""}}).status_code == 400


@pytest.mark.rule("1.4.5")
@pytest.mark.parametrize("size", [100, 101])
def test_bodies_have_a_limit(size: int) -> None:
    client = a_client(InMemoryService(), max_body_bytes=100)
    response = send(client, "PUT", INSTANCE, data=b" " * size)
    assert response.status_code == (400 if size == 100 else 413)
    assert size == 100 or description(response) == "The body must have at most 100 bytes."


def test_bodies_without_a_length_have_the_limit_too() -> None:
    service = InMemoryService()
    data = json.dumps(PROVISION).encode()
    # What a WSGI server hands over for a chunked body.
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    fits = send(a_client(service, max_body_bytes=len(data)), "PUT", INSTANCE, data=data, environ_overrides=chunked)
    long = send(a_client(service, max_body_bytes=len(data) - 1), "PUT", INSTANCE, data=data, environ_overrides=chunked)
    assert (fits.status_code, long.status_code) == (201, 413)


@pytest.mark.parametrize("more", [{}, {"wsgi.input_terminated": True}], ids=str)
def test_a_body_that_ends_early_is_refused_also_when_it_is_json_so_far(more: dict[str, object]) -> None:
    environ = {"CONTENT_LENGTH": "1000", **more}
    data = json.dumps(PROVISION)
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, data=data, environ_overrides=environ)
    assert response.status_code == 400
    assert description(response).startswith("The body ended early")


class Broken(io.BytesIO):
    """What a server hands over for a body whose chunks are malformed, or do not come."""

    def __init__(self, trouble: Exception) -> None:
        super().__init__()
        self.trouble = trouble

    def readinto(self, _: object) -> int:
        raise self.trouble


@pytest.mark.parametrize("trouble", [Exception("chunk"), ConnectionResetError(), TimeoutError()], ids=repr)
def test_a_body_that_cannot_be_read_is_refused(trouble: Exception) -> None:
    environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True, "wsgi.input": Broken(trouble)}
    response = send(a_client(InMemoryService()), "PUT", INSTANCE, environ_overrides=environ)
    assert response.status_code == 400
    assert description(response).startswith("The body ended early")


def test_naming_a_predecessor_makes_a_bind_a_rotation() -> None:
    service = InMemoryService(instances={"i-1": {}})
    client = a_client(service)
    send(client, "PUT", BINDING, json={"predecessor_binding_id": "b-0"})
    send(client, "PUT", f"{BINDING}2", json={**BIND, "predecessor_binding_id": None})
    assert service.requests == [RotateRequest(predecessor_binding_id="b-0"), BindRequest(**BIND)]


@pytest.mark.parametrize("predecessor", ["", 1, {}])
def test_a_predecessor_must_be_an_id(predecessor: object) -> None:
    response = send(a_client(InMemoryService()), "PUT", BINDING, json={**BIND, "predecessor_binding_id": predecessor})
    assert response.status_code == 400
    assert description(response).startswith("predecessor_binding_id must")


@pytest.mark.parametrize("path", [INSTANCE, BINDING])
@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("", "service_id"),
        ("service_id=&plan_id=p", "service_id"),
        ("service_id=s", "plan_id"),
        ("service_id=s&plan_id=", "plan_id"),
    ],
)
def test_a_delete_must_name_service_and_plan(path: str, query: str, missing: str) -> None:
    response = send(a_client(InMemoryService()), "DELETE", f"{path}?{query}")
    assert (response.status_code, description(response)) == (
        400,
        f"The query argument {missing} is missing or empty.",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
FIELDS = ("service_id", "plan_id", "organization_guid", "space_guid", "context", "parameters", "predecessor_binding_id")


@given(body=st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON, path=st.sampled_from([INSTANCE, BINDING]))
def test_no_body_makes_the_broker_fail(body: object, path: str) -> None:
    client = a_client(InMemoryService(instances={"i-1": {}}))
    response = send(client, "PUT", path, data=json.dumps(body))
    assert response.status_code in {200, 201, 400, 409}
