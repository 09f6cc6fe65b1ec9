"""1.8 and 1.11: fetching instances and bindings."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pymongo import MongoClient

from tests.emulator.client import Emulator
from tests.osb.steps import (
    ON_CLUSTER,
    failed_bind,
    failed_provision,
    held_bind,
    held_provision,
    held_update,
    new_id,
    provisioned,
    release,
)
from tests.osb_client import PLAN_ID, SERVICE_ID, Answer, OsbClient
from tests.tenant import CLUSTER


@pytest.mark.rule("1.8.1")
def test_an_instance_is_described(client: OsbClient, atlas: Emulator, instance: str) -> None:
    answer = client.instance(instance)
    assert answer.status == 200
    assert answer.json == {
        "service_id": SERVICE_ID,
        "plan_id": PLAN_ID,
        "parameters": ON_CLUSTER,
        "dashboard_url": f"https://cloud.mongodb.com/v2/{atlas.project_id}#/clusters/detail/{CLUSTER}",
    }


@pytest.mark.rule("1.8.2")
def test_what_is_not_there_is_404(client: OsbClient, atlas: Emulator) -> None:
    gone = provisioned(client)
    client.deprovision(gone)
    client.wait(gone)
    held, _ = held_provision(client, atlas)
    answers = [client.instance(each) for each in (new_id(), held, failed_provision(client), gone)]
    assert [answer.status for answer in answers] == [404] * 4


@pytest.mark.rule("1.8.3")
def test_while_it_is_updated_it_is_422(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    assert client.instance(instance_id).json["error"] == "ConcurrencyError"
    release(atlas)
    client.wait(instance_id)
    assert client.instance(instance_id).json["parameters"] == {**ON_CLUSTER, "policy-on-delete": "drop"}


@pytest.mark.rule("1.8.4")
def test_an_instance_can_be_fetched_the_moment_its_poll_says_succeeded(client: OsbClient, *, long_form: bool) -> None:
    for _ in range(10 if long_form else 5):
        instance_id = new_id()
        client.provision(instance_id, ON_CLUSTER)
        assert client.wait(instance_id, every=0.005).state == "succeeded"
        assert client.instance(instance_id).status == 200


@pytest.mark.rule("1.11.1", "1.10.3")
def test_a_binding_is_fetched_with_credentials_endpoints_and_parameters(client: OsbClient, instance: str) -> None:
    binding_id = new_id()
    client.bind(instance, binding_id, {"role": "readOnly"})
    client.wait(instance, binding_id)
    body = client.binding(instance, binding_id).json
    assert set(body) == {"credentials", "endpoints", "parameters"}
    assert {"username", "password", "database", "uri"} <= set(body["credentials"])
    assert body["parameters"] == {"role": "readOnly"}


@pytest.mark.rule("1.11.1")
def test_a_binding_that_is_not_there_is_404(client: OsbClient, atlas: Emulator, instance: str) -> None:
    failed = failed_bind(client, atlas, instance)
    held, _ = held_bind(client, atlas, instance)
    answers = [client.binding(instance, each) for each in (new_id(), held, failed)]
    assert [answer.status for answer in answers] == [404] * 3
    assert client.binding(new_id(), held).status == 404
    client.unbind(instance, held)
    release(atlas)
    client.wait(instance, held)
    assert client.binding(instance, held).status == 404


@pytest.mark.rule("1.6.9", "1.11.2", "1.11.3")
def test_a_binding_can_be_fetched_and_used_the_moment_its_poll_says_succeeded(
    client: OsbClient, atlas: Emulator, instance: str, *, long_form: bool
) -> None:
    """Service Catalog asks exactly once; a single 404 ends the binding."""
    atlas.apply_after(seconds=0.3)
    atlas.user_limit(1000)
    number = 200 if long_form else 16
    with ThreadPoolExecutor(8) as platforms:
        fetched = list(platforms.map(lambda _: _bind_and_fetch(client, instance), range(number)))
    assert [answer.status for answer in fetched] == [200] * number
    with MongoClient[dict[str, object]](fetched[-1].json["credentials"]["uri"]) as application:
        application.get_default_database()["visits"].insert_one({})


def _bind_and_fetch(client: OsbClient, instance: str) -> Answer:
    binding_id = new_id()
    client.bind(instance, binding_id)
    ended = client.wait(instance, binding_id, every=0.02)
    assert ended.state == "succeeded", ended.text
    return client.binding(instance, binding_id)
