"""1.15: ids are opaque, and made safe before they become names."""

import base64
import contextlib
import json
import re
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb.steps import ON_CLUSTER, bound, new_id, provisioned, users
from tests.osb_client import PLAN_ID, SERVICE_ID, Answer, Json, OsbClient
from tests.tenant import together

IDS = [
    "a/b",
    "/",
    "a b",
    " ",
    "ünï-cödé 日本語 \u202eright-to-left",
    "🙂" * 20,
    "x" * 255,
    "ä" * 255,
    "a.b..c",
    "...",
    ".a",
    '{"$ne": "$where"}',
    "a%2Fb%",
    "a?b#c&d=e;f\\@:",
    "quote\"quote'quote`line\nline\r\ttab",
    "last_operation",
    "service_bindings",
    "-",
    "__proto__",
    "UPPER and lower",
]


@pytest.mark.rule("1.15.1")
def test_any_id_lives_a_whole_life(client: OsbClient, atlas: Emulator) -> None:
    """All side by side, so that ids which look alike meet each other."""
    together(*[_life(client, atlas, name) for name in IDS])


def _life(client: OsbClient, atlas: Emulator, name: str) -> Callable[[], None]:
    def live() -> None:
        provisioned(client, {"own": name}, instance_id=name)
        bound(client, name, {"own": name}, binding_id=name)
        assert client.instance(name).json["parameters"]["own"] == name
        fetched = client.binding(name, name).json
        assert fetched["parameters"] == {"own": name}
        _check_names(atlas, name, fetched["credentials"])
        client.unbind(name, name)
        assert client.wait(name, name).state == "succeeded"
        client.deprovision(name)
        assert client.wait(name).state == "succeeded"
        assert not users(atlas, "instance_id", name)

    return live


def _check_names(atlas: Emulator, name: str, credentials: Json) -> None:
    """Safe names, the id itself in the labels, and credentials that work."""
    (user,) = users(atlas, "instance_id", name)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", user["username"])
    assert re.fullmatch(r"instance-[A-Za-z0-9_-]+", credentials["database"])
    assert len(credentials["database"]) <= 63
    assert {"key": "binding_id", "value": name} in user["labels"]
    with MongoClient[Json](credentials["uri"]) as application:
        application[credentials["database"]]["visits"].insert_one({"by": name})


@pytest.mark.rule("1.15.1")
def test_ids_of_dots_that_urls_take_for_steps_live_too(client: OsbClient, stack: Stack) -> None:
    """Most clients cannot send them; this connection sends the path as it is."""
    instance_id = provisioned(client)
    together(*[partial(_live_as_it_is, stack, instance_id, segment) for segment in ("%2E", "%2E%2E")])


def _live_as_it_is(stack: Stack, instance_id: str, segment: str) -> None:
    path = f"/v2/service_instances/{instance_id}/service_bindings/{segment}"
    body = json.dumps({"service_id": SERVICE_ID, "plan_id": PLAN_ID})
    bind = _as_it_is(stack, "PUT", path, body)
    assert bind[0] == 201
    assert len(bind[1]["credentials"]["username"]) > 10
    unbind = _as_it_is(stack, "DELETE", f"{path}?service_id={SERVICE_ID}&plan_id={PLAN_ID}")
    assert unbind == (200, {})


def _as_it_is(stack: Stack, method: str, path: str, body: str | None = None) -> tuple[int, Json]:
    login = base64.b64encode(f"{stack.user}:{stack.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "X-Broker-API-Version": "2.17"}
    connection = HTTPConnection("127.0.0.1", stack.api.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.rule("1.15.1")
def test_a_percent_encoded_slash_is_part_of_the_id(client: OsbClient, instance: str) -> None:
    path = f"/v2/service_instances/{instance}/service_bindings/x%2Flast_operation"
    assert client.request("GET", path).status == 404
    assert client.request("DELETE", f"{path}?service_id=s&plan_id=p&accepts_incomplete=true").status == 410


@pytest.mark.rule("1.15.1")
@pytest.mark.parametrize(
    ("segment", "said"), [("%00", "NUL"), ("a%00b", "NUL"), ("%ff", "UTF-8"), ("%C0%AF", "UTF-8"), ("x" * 256, "255")]
)
def test_an_id_that_cannot_be_kept_is_400_and_the_reason_is_said(client: OsbClient, segment: str, said: str) -> None:
    instance = f"/v2/service_instances/{segment}"
    binding = f"/v2/service_instances/i/service_bindings/{segment}"
    for path in (instance, f"{instance}/last_operation", binding, f"{binding}/last_operation"):
        answer = client.request("GET", path)
        assert answer.status == 400
        assert said in answer.description
    assert client.request("PUT", f"{instance}?accepts_incomplete=true", {}).status == 400


@pytest.mark.rule("1.15.1")
@pytest.mark.parametrize("path", ["/v2/service_instances/", "/v2/service_instances//last_operation", "/v2//catalog"])
def test_an_empty_id_is_no_path(client: OsbClient, path: str) -> None:
    assert client.request("GET", path).status == 404


@pytest.mark.rule("1.15.1")
def test_a_path_that_is_too_long_for_the_server_is_refused_in_json(client: OsbClient) -> None:
    answer = client.request("GET", f"/v2/service_instances/{'x' * 20_000}")
    assert 400 <= answer.status < 500
    assert answer.description


@pytest.mark.rule("1.15.1", "1.4.5")
def test_operators_in_ids_and_parameters_are_data(
    client: OsbClient, instance: str, binding: str, state: Collection[dict[str, Any]]
) -> None:
    before = state.count_documents({"phase": "ready"})
    for name in ('{"$gt": ""}', "$ne", "[$regex]=.*", ".*", "null"):
        assert client.instance(name).status == 404
        assert client.binding(instance, name).status == 404
        assert client.deprovision(name).status == 410
        assert client.unbind(instance, name).status == 410
    evil: Json = {"$set": {"phase": "gone"}, "$literal": 1, "a.$[].b": {"$function": "x"}, "": {"": ""}}
    instance_id = provisioned(client, evil)
    bound(client, instance_id, evil, binding_id="$operation")
    assert client.instance(instance_id).json["parameters"] == {**ON_CLUSTER, **evil}
    assert client.binding(instance_id, "$operation").json["parameters"] == evil
    assert client.binding(instance, binding).status == 200
    assert state.count_documents({"phase": "ready"}) == before + 2


@pytest.mark.rule("1.15.1")
@pytest.mark.parametrize("name", ["service_id", "plan_id", "organization_guid", "space_guid"])
def test_operators_in_mandatory_fields_are_refused_or_data(client: OsbClient, name: str) -> None:
    for value in ({"$ne": None}, ["$where"], "$where"):
        answer = client.provision(new_id(), ON_CLUSTER, fields={name: value})
        assert answer.status == (202 if value == "$where" and name.endswith("guid") else 400)


@pytest.mark.rule("1.15.2")
def test_operations_need_no_encoding(client: OsbClient, instance: str) -> None:
    """Eden sends them back as they are."""
    instance_id, binding_id = new_id(), new_id()
    answers: list[Answer] = [client.provision(instance_id, ON_CLUSTER), client.bind(instance, binding_id)]
    client.wait(instance_id)
    answers += [client.unbind(instance, binding_id), client.deprovision(instance_id)]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,255}", answer.operation) for answer in answers)
    assert len({answer.operation for answer in answers}) == len(answers)


@pytest.mark.rule("1.15.1")
def test_ids_of_bindings_count_only_within_their_instance(client: OsbClient, instance: str) -> None:
    other, binding_id = provisioned(client), f"shared-{new_id()}"
    first, second = bound(client, instance, binding_id=binding_id), None
    answer = client.bind(other, binding_id)
    assert answer.status == 202
    ended = client.wait(other, binding_id)
    second = client.binding(other, binding_id)
    mine = client.binding(instance, first).json["credentials"]
    if ended.state == "succeeded":
        assert second.json["credentials"]["password"] != mine["password"]
    else:
        assert binding_id in ended.description
    with MongoClient[Json](mine["uri"]) as application:
        application[mine["database"]]["visits"].find_one()


@pytest.mark.rule("1.15.1")
def test_a_body_of_many_odd_names_comes_back_as_it_was(client: OsbClient) -> None:
    odd: Json = {f"$k.{n}": {quote(chr(n)): chr(n)} for n in range(1, 0x250, 7)}
    instance_id = provisioned(client, odd)
    parameters = client.instance(instance_id).json["parameters"]
    assert json.dumps(parameters, sort_keys=True) == json.dumps({**ON_CLUSTER, **odd}, sort_keys=True)
