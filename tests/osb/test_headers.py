"""1.1 and 1.2: the headers of requests and answers, and who may ask."""

import base64
import json
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.dev.stack import Stack
from tests.osb.steps import ON_CLUSTER, bound, new_id, provisioned
from tests.osb_client import PLAN_ID, SERVICE_ID, Json, OsbClient
from tests.tenant import eventually

VERSION = "X-Broker-API-Version"
REQUEST_IDENTITY = "X-Broker-API-Request-Identity"
IDENTITY = "X-Broker-API-Originating-Identity"


@pytest.mark.rule("0.21", "1.1.2")
def test_older_clients_get_nothing_that_they_do_not_know(client: OsbClient, instance: str, binding: str) -> None:
    """The Go client (2.14) cannot decode endpoints; a checker of 2.13 refuses a catalog with newer fields."""
    texts = [
        answer.text
        for version in ("2.13", "2.14")
        for headers in [{VERSION: version}]
        for answer in (
            client.catalog(headers=headers),
            client.instance(instance, headers=headers),
            client.binding(instance, binding, headers=headers),
            client.bind(instance, binding, headers=headers),
            client.update(instance, headers=headers),
        )
    ]
    newer = ("endpoints", "maximum_polling_duration", "maintenance_info", "binding_rotatable", "allow_context_updates")
    assert not [(name, text) for name in newer for text in texts if f'"{name}"' in text]
    assert "endpoints" in client.binding(instance, binding, headers={VERSION: "2.15"}).json


def _originating(platform: str, value: object) -> dict[str, str | None]:
    return {IDENTITY: f"{platform} {base64.b64encode(json.dumps(value).encode()).decode()}"}


@pytest.mark.rule("1.1.3")
@pytest.mark.parametrize(
    ("platform", "value", "kept"),
    [
        ("cloudfoundry", {"user_id": "683ea748"}, {"user_id": "683ea748"}),
        (
            "kubernetes",
            {"username": "duke", "uid": "c2dde242", "groups": [f"cn=group-{n},ou=people" for n in range(700)]},
            {"username": "duke", "uid": "c2dde242"},
        ),
        ("other", {"anything": {"$where": "1", "a.b": None}}, {}),
    ],
    ids=["cloudfoundry", "kubernetes", "other"],
)
def test_what_names_the_originating_user_is_kept_with_the_operation(
    client: OsbClient, state: Collection[dict[str, Any]], platform: str, value: Json, kept: Json
) -> None:
    instance_id = new_id()
    client.provision(instance_id, ON_CLUSTER, headers=_originating(platform, value))
    found = state.find_one({"instance_id": instance_id})
    assert found is not None
    assert json.loads(found["operation"]["identity"]) == {"platform": platform, "value": kept}


@pytest.mark.rule("1.1.3")
@pytest.mark.parametrize(("characters", "status"), [(65_536, 202), (65_537, 431)])
def test_a_header_of_64_kilobytes_is_read_and_a_longer_one_is_refused(
    client: OsbClient, characters: int, status: int
) -> None:
    identity = _originating("kubernetes", {"username": "duke"})[IDENTITY] or ""
    answer = client.provision(new_id(), ON_CLUSTER, headers={IDENTITY: identity.ljust(characters - 1) + "x"})
    assert answer.status == status
    assert status == 202 or answer.description


@pytest.mark.rule("1.1.3")
def test_headers_that_are_too_long_together_are_refused(client: OsbClient) -> None:
    long = {f"X-Long-{n}": "x" * 60_000 for n in range(4)}
    assert client.provision(new_id(), ON_CLUSTER, headers=dict(list(long.items())[:2])).status == 202
    answer = client.provision(new_id(), ON_CLUSTER, headers=long)
    assert answer.status == 431
    assert answer.description


@pytest.mark.rule("1.1.3", "1.1.4")
def test_both_identities_are_in_the_lines_that_the_job_logs(stack: Stack, client: OsbClient) -> None:
    asked = {**_originating("cloudfoundry", {"user_id": "a-user"}), REQUEST_IDENTITY: f"request-{new_id()}"}
    client.provision(new_id(), ON_CLUSTER, headers=asked)
    lines = eventually(lambda: _job_lines(stack, str(asked[REQUEST_IDENTITY])))
    assert all("a-user" in line for line in lines)
    assert all('"operation": "provision-' in line for line in lines)


def _job_lines(stack: Stack, request_id: str) -> list[str]:
    return [line for worker in stack.workers for line in worker.log_text().splitlines() if request_id in line]


@pytest.mark.rule("1.1.5")
def test_every_answer_says_that_it_is_json(client: OsbClient, instance: str) -> None:
    answers = [
        client.catalog(),
        client.instance(instance),
        client.last_operation(instance),
        client.deprovision(new_id()),
        client.request("GET", "/nothing"),
        client.request("POST", "/v2/catalog"),
        client.catalog(auth=None),
    ]
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/json"}


@pytest.mark.rule("1.1.6")
def test_unknown_fields_are_ignored_everywhere(client: OsbClient) -> None:
    instance_id, new = new_id(), {"x-new": {"a": 1}, "previous_values": {"plan_id": "any"}}
    client.provision(instance_id, ON_CLUSTER, fields=new | {"maintenance_info": None})
    assert client.wait(instance_id).state == "succeeded"
    assert client.update(instance_id, fields=new).status == 200
    assert client.bind(instance_id, new_id(), fields=new | {"bind_resource": {"x": 1}}).status == 202
    assert client.catalog(query={"x-new": "1"}).status == 200
    assert client.last_operation(instance_id, query={"x-new": "1"}).status == 200
    client.deprovision(instance_id)


@pytest.mark.rule("1.1.6")
def test_what_is_ignored_may_be_what_could_not_be_stored(
    client: OsbClient, instance: str, state: Collection[dict[str, Any]]
) -> None:
    values = ("18446744073709551615", "1e400", '"\\u0000"', '"\\ud800"', "[" * 70 + "]" * 70)
    unknown = f', "x-own": [{", ".join(values)}]}}'.encode()
    plan = {"service_id": SERVICE_ID, "plan_id": PLAN_ID}
    owner = {"organization_guid": "o", "space_guid": "s", "parameters": ON_CLUSTER}
    new, bound_to = new_id(), new_id()
    answers = [
        client.provision(new, raw=json.dumps(plan | owner).encode()[:-1] + unknown),
        client.update(instance, raw=json.dumps(plan).encode()[:-1] + unknown),
        client.bind(instance, bound_to, raw=json.dumps(plan).encode()[:-1] + unknown),
    ]
    assert [answer.status for answer in answers] == [202, 200, 202]
    made = list(state.find({"instance_id": {"$in": [new, instance]}}))
    assert made
    assert not any("x-own" in repr(each) for each in made)


@pytest.mark.rule("1.2.2")
def test_no_header_tells_a_version_or_a_product_of_ours(client: OsbClient, instance: str) -> None:
    answers = [
        client.catalog(),
        client.instance(instance),
        client.request("GET", "/nothing"),
        client.catalog(auth=None),
    ]
    for answer in answers:
        told = " ".join(f"{name} {value}" for name, value in answer.headers.items()).lower()
        assert not any(word in told for word in ("werkzeug", "flask", "python", "gunicorn/", "x-powered-by"))


@pytest.mark.rule("1.1.6")
def test_a_binding_is_made_of_the_bodies_that_older_platforms_send(client: OsbClient) -> None:
    """2.13 has no context in some calls and app_guid beside bind_resource."""
    instance_id = provisioned(client)
    older = {"app_guid": "app", "bind_resource": {"app_guid": "app"}, "parameters": {}}
    answer = client.bind(instance_id, new_id(), fields=older, headers={VERSION: "2.13"})
    assert answer.status == 202
    assert bound(client, instance_id)
    client.deprovision(instance_id)
