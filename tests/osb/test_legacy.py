"""What users of the old broker (atlasbroker 2.0.0) keep: names, answers, and what it wrote into MongoDB."""

from typing import Any

import pytest
import requests
from pymongo.collection import Collection
from requests.auth import HTTPDigestAuth

from tests.emulator.client import Emulator
from tests.osb.steps import ON_CLUSTER, bound, new_id, provisioned
from tests.osb_client import Json, OsbClient
from tests.tenant import CLUSTER

Documents = Collection[dict[str, Any]]


def _old_user(atlas: Emulator, instance_id: str, binding_id: str) -> None:
    """As the old broker made it: no labels, no scopes."""
    roles = [{"databaseName": f"instance-{instance_id}", "roleName": role} for role in ("dbAdmin", "readWrite")]
    body: Json = {"databaseName": "admin", "roles": roles, "username": binding_id, "password": "an-old-password"}
    response = requests.post(
        f"{atlas.base_url}/api/atlas/v2/groups/{atlas.project_id}/databaseUsers",
        json=body | {"groupId": atlas.project_id},
        headers={"Accept": "application/vnd.atlas.2023-01-01+json"},
        auth=HTTPDigestAuth(atlas.public_key, atlas.private_key),
        timeout=20,
    )
    assert response.status_code == 201, response.text


def _names(atlas: Emulator) -> set[str]:
    return {user["username"] for user in atlas.users() if not user["deleted"]}


@pytest.fixture
def old(atlas: Emulator, state: Documents) -> tuple[str, str]:
    """An instance and a binding that the old broker wrote, each twice, as its races did."""
    instance_id, binding_id = new_id(), new_id()
    database = f"instance-{instance_id}"
    for _ in range(2):
        state.insert_many(
            [
                {"instance_id": instance_id, "database": database, "cluster": CLUSTER, "parameters": ON_CLUSTER},
                {"binding_id": binding_id, "parameters": {}, "instance_id": instance_id},
            ]
        )
    _old_user(atlas, instance_id, binding_id)
    return instance_id, binding_id


def test_an_old_binding_is_404_and_says_that_its_password_was_never_kept(
    client: OsbClient, old: tuple[str, str]
) -> None:
    answer = client.binding(*old)
    assert answer.status == 404
    assert "password" in answer.description


def test_an_old_instance_is_described(client: OsbClient, old: tuple[str, str]) -> None:
    assert client.instance(old[0]).json["parameters"] == ON_CLUSTER
    poll = client.last_operation(old[0])
    assert (poll.state, poll.description) == ("succeeded", "The instance is ready.")
    assert client.provision(old[0], ON_CLUSTER).status == 200
    assert client.provision(old[0], {"cluster": "another"}).status == 409


def test_an_old_binding_is_unbound_and_its_doubles_with_it(
    client: OsbClient, atlas: Emulator, state: Documents, old: tuple[str, str]
) -> None:
    assert client.unbind(*old).status == 202
    assert client.wait(*old).state == "succeeded"
    assert old[1] not in _names(atlas)
    assert client.unbind(*old).status == 410
    assert state.count_documents({"binding_id": old[1]}) == 1


def test_an_old_instance_is_deprovisioned_with_its_bindings(
    client: OsbClient, atlas: Emulator, state: Documents, old: tuple[str, str]
) -> None:
    assert client.deprovision(old[0]).status == 202
    assert client.wait(old[0]).state == "succeeded"
    assert old[1] not in _names(atlas)
    assert {document["phase"] for document in state.find({"instance_id": old[0]})} == {"gone"}
    assert state.count_documents({"instance_id": old[0]}) == 2
    assert client.deprovision(old[0]).status == 410
    assert client.unbind(*old).status == 410


def test_an_old_instance_takes_new_bindings(client: OsbClient, old: tuple[str, str]) -> None:
    credentials = client.binding(old[0], bound(client, old[0])).json["credentials"]
    assert credentials["database"] == f"instance-{old[0]}"


def test_an_old_binding_can_be_rotated_to_one_whose_password_is_known(client: OsbClient, old: tuple[str, str]) -> None:
    new = new_id()
    assert client.rotate(old[0], new, old[1]).status == 202
    assert client.wait(old[0], new).state == "succeeded"
    assert client.binding(old[0], new).json["credentials"]["username"] == new


def test_health_answers_as_it_did(client: OsbClient) -> None:
    answer = client.request("GET", "/health", auth=None, headers={"X-Broker-API-Version": None})
    assert (answer.status, answer.json) == (200, {"status": True})


def test_the_database_is_named_after_the_instance_and_the_user_after_the_binding(
    client: OsbClient, atlas: Emulator
) -> None:
    instance_id = provisioned(client)
    binding_id = bound(client, instance_id)
    credentials = client.binding(instance_id, binding_id).json["credentials"]
    assert credentials["username"] == binding_id
    assert credentials["database"] == f"instance-{instance_id}"
    (user,) = [user for user in atlas.users() if user["username"] == binding_id]
    roles = {(role["roleName"], role["databaseName"]) for role in user["roles"]}
    assert roles == {("dbAdmin", f"instance-{instance_id}"), ("readWrite", f"instance-{instance_id}")}


def test_the_parameter_database_names_the_database(client: OsbClient) -> None:
    instance_id = provisioned(client, {"database": "shared"})
    credentials = client.binding(instance_id, bound(client, instance_id)).json["credentials"]
    assert credentials["database"] == "shared"


def test_the_uri_has_all_hosts_the_database_and_the_options(client: OsbClient, atlas: Emulator) -> None:
    hosts = ",".join(f"cluster-shard-00-0{n}.example:27017" for n in range(3))
    options = "ssl=true&authSource=admin&replicaSet=cluster-shard-0"
    atlas.put_cluster("three", connection_strings={"standard": f"mongodb://{hosts}/?{options}"})
    instance_id = provisioned(client, {"cluster": "three"})
    binding_id = bound(client, instance_id)
    credentials = client.binding(instance_id, binding_id).json["credentials"]
    login = f"{binding_id}:{credentials['password']}"
    assert credentials["uri"] == f"mongodb://{login}@{hosts}/instance-{instance_id}?{options}"
    assert len(credentials["password"]) == 32


def test_statuses_of_the_old_broker_hold_for_platforms_that_do_not_poll(client: OsbClient) -> None:
    instance_id, binding_id = new_id(), new_id()
    answers = [
        client.provision(instance_id, ON_CLUSTER, accepts_incomplete=None),
        client.provision(instance_id, ON_CLUSTER, accepts_incomplete=None),
        client.provision(instance_id, {"cluster": "another"}, accepts_incomplete=None),
        client.bind(instance_id, binding_id, accepts_incomplete=None),
        client.unbind(instance_id, binding_id, accepts_incomplete=None),
        client.unbind(instance_id, binding_id, accepts_incomplete=None),
        client.deprovision(instance_id, accepts_incomplete=None),
        client.deprovision(instance_id, accepts_incomplete=None),
    ]
    assert [answer.status for answer in answers] == [201, 200, 409, 201, 200, 410, 200, 410]
