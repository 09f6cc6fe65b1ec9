"""1.10: bind."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from tests.emulator.client import Emulator
from tests.osb.offers import FIXED, OTHER_PLAN, OTHER_SERVICE, UNBINDABLE
from tests.osb.steps import (
    ON_CLUSTER,
    bound,
    failed_bind,
    failed_provision,
    held_bind,
    held_deprovision,
    held_provision,
    held_update,
    new_id,
    provisioned,
    release,
    users,
)
from tests.osb_client import Flag, Json, OsbClient


@pytest.mark.rule("1.10.1")
def test_a_new_one_is_202_with_its_operation_and_no_credentials(client: OsbClient, instance: str) -> None:
    answer = client.bind(instance, new_id())
    assert answer.status == 202
    assert set(answer.json) == {"operation"}


@pytest.mark.rule("1.10.2")
def test_the_same_again_while_it_is_made_is_202_with_the_same_operation(
    client: OsbClient, atlas: Emulator, instance: str
) -> None:
    binding_id, first = held_bind(client, atlas, instance)
    again = client.bind(instance, binding_id)
    assert (again.status, again.json) == (202, first.json)
    release(atlas)


@pytest.mark.rule("1.10.3")
@pytest.mark.parametrize("incomplete", [True, None])
def test_the_same_again_when_it_is_there_is_200_with_the_same_credentials(
    client: OsbClient, instance: str, binding: str, incomplete: Flag
) -> None:
    answer = client.bind(instance, binding, accepts_incomplete=incomplete)
    assert answer.status == 200
    assert answer.json["credentials"] == client.binding(instance, binding).json["credentials"]
    assert answer.json["endpoints"]


DIFFERENT: list[Json] = [
    {"parameters": {"role": "readOnly"}},
    {"app_guid": "another"},
    {"bind_resource": {"app_guid": "another"}},
]


@pytest.mark.rule("1.10.4")
@pytest.mark.parametrize("fields", DIFFERENT, ids=str)
def test_another_one_under_the_same_id_is_409(
    client: OsbClient, atlas: Emulator, instance: str, binding: str, fields: Json
) -> None:
    held, _ = held_bind(client, atlas, instance)
    assert client.bind(instance, binding, fields=fields).status == 409
    assert client.bind(instance, held, fields=fields).status == 409
    release(atlas)


@pytest.mark.rule("1.10.4")
def test_another_context_is_the_same_binding(client: OsbClient, instance: str, binding: str) -> None:
    assert client.bind(instance, binding, fields={"context": {"platform": "kubernetes"}}).status == 200


@pytest.mark.rule("1.10.5")
def test_without_polling_nothing_is_stored_where_nobody_may_wait(
    async_only: OsbClient, instance: str, state: Collection[dict[str, Any]]
) -> None:
    binding_id = new_id()
    assert async_only.bind(instance, binding_id, accepts_incomplete=None).json["error"] == "AsyncRequired"
    assert state.count_documents({"binding_id": binding_id}) == 0


@pytest.mark.rule("0.7", "1.10.7")
def test_bindings_of_one_instance_are_worked_on_side_by_side(client: OsbClient, atlas: Emulator) -> None:
    """Service Catalog never repeats a bind that was answered with an error."""
    instance_id = provisioned(client)
    old = bound(client, instance_id)
    held, _ = held_bind(client, atlas, instance_id)
    others = [new_id() for _ in range(3)]
    assert [client.bind(instance_id, each).status for each in others] == [202] * 3
    assert client.unbind(instance_id, old).status == 202
    release(atlas)
    assert {client.wait(instance_id, each).state for each in (held, old, *others)} == {"succeeded"}


@pytest.mark.rule("0.7", "1.10.7")
def test_an_instance_that_is_being_worked_on_takes_no_bind(client: OsbClient, atlas: Emulator) -> None:
    updated = provisioned(client)
    held_update(client, atlas, updated)
    made, _ = held_provision(client, atlas)
    release(atlas)
    deleted, _ = held_deprovision(client, atlas)
    for instance_id in (made, deleted):
        answer = client.bind(instance_id, new_id())
        assert (answer.status, answer.json["error"]) == (422, "ConcurrencyError")
    release(atlas)


@pytest.mark.rule("1.10.7")
def test_a_binding_that_is_being_deleted_is_422(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id = bound(client, instance)
    atlas.apply_by_hand()
    client.unbind(instance, binding_id)
    assert client.bind(instance, binding_id).json["error"] == "ConcurrencyError"
    release(atlas)


@pytest.mark.rule("0.4", "0.5", "1.10.7")
def test_an_id_that_was_unbound_or_failed_can_be_used_again(client: OsbClient, atlas: Emulator, instance: str) -> None:
    gone = bound(client, instance)
    client.unbind(instance, gone)
    client.wait(instance, gone)
    failed = failed_bind(client, atlas, instance)
    assert client.bind(instance, failed, {"role": "readOnly"}).status == 409
    assert [client.bind(instance, binding_id).status for binding_id in (gone, failed)] == [202, 202]
    for binding_id in (gone, failed):
        assert client.wait(instance, binding_id).state == "succeeded"
        assert client.binding(instance, binding_id).status == 200
        assert len(users(atlas, "binding_id", binding_id)) == 1


@pytest.mark.rule("1.10.8")
@pytest.mark.parametrize("name", ["service_id", "plan_id"])
def test_what_is_missing_is_400_and_named(client: OsbClient, instance: str, name: str) -> None:
    answer = client.bind(instance, new_id(), fields={name: None})
    assert answer.status == 400
    assert name in answer.description


@pytest.mark.rule("1.3.6", "1.10.8")
def test_an_instance_whose_plan_cannot_be_bound_takes_no_binding(several_plans: OsbClient) -> None:
    instance_id = new_id()
    several_plans.provision(instance_id, ON_CLUSTER, fields={"plan_id": UNBINDABLE})
    several_plans.wait(instance_id)
    answer = several_plans.bind(instance_id, new_id(), fields={"plan_id": UNBINDABLE})
    assert (answer.status, "error" in answer.json) == (400, False)
    assert "unbindable" in answer.description


@pytest.mark.rule("1.10.8")
def test_a_bind_must_name_the_plan_of_its_instance(several_plans: OsbClient, instance: str, binding: str) -> None:
    """Another plan's schemas would let other parameters pass."""
    answer = several_plans.bind(instance, new_id(), fields={"plan_id": FIXED})
    assert answer.status == 400
    assert "plan_id" in answer.description
    other = {"service_id": OTHER_SERVICE, "plan_id": OTHER_PLAN}
    assert several_plans.bind(instance, new_id(), fields=other).status == 400
    assert several_plans.bind(instance, binding, fields={"plan_id": FIXED}).status == 409


@pytest.mark.rule("1.10.8")
@pytest.mark.parametrize("database", ["other", "admin", "Instance"])
def test_roles_on_another_database_are_400_at_once(default_hooks: OsbClient, instance: str, database: str) -> None:
    """Hooks of an operator may give other roles, so only a broker without any can tell at the request."""
    wanted = {"roles": ["read", {"roleName": "read", "databaseName": database}]}
    answer = default_hooks.bind(instance, new_id(), wanted)
    assert answer.status == 400
    assert "parameters.roles[1].databaseName" in answer.description
    assert f"instance-{instance}" in answer.description


@pytest.mark.rule("1.10.8")
def test_roles_may_name_the_instances_own_database(client: OsbClient, instance: str) -> None:
    role = {"roleName": "read", "databaseName": f"instance-{instance}", "collectionName": "c"}
    assert client.bind(instance, new_id(), {"roles": [role]}).status == 202


@pytest.mark.rule("1.10.4")
def test_true_is_not_one_in_a_binding(client: OsbClient, instance: str) -> None:
    binding_id = bound(client, instance, {"flag": [1]})
    assert client.bind(instance, binding_id, {"flag": [True]}).status == 409
    assert client.bind(instance, binding_id, {"flag": [1.0]}).status == 200


@pytest.mark.rule("1.10.9")
def test_an_unknown_instance_is_404(client: OsbClient) -> None:
    gone = provisioned(client)
    client.deprovision(gone)
    client.wait(gone)
    for instance_id in (new_id(), gone, failed_provision(client)):
        answer = client.bind(instance_id, new_id())
        assert answer.status == 404
        assert instance_id in answer.description


@pytest.mark.rule("1.10.10")
def test_each_binding_has_credentials_of_its_own_that_work(client: OsbClient, instance: str, atlas: Emulator) -> None:
    del atlas
    first, second = (client.binding(instance, bound(client, instance)).json["credentials"] for _ in range(2))
    assert first["username"] != second["username"]
    assert first["password"] != second["password"]
    for credentials in (first, second):
        with MongoClient[Json](credentials["uri"]) as application:
            application[credentials["database"]]["visits"].insert_one({})
            with pytest.raises(OperationFailure):
                application["another"]["visits"].insert_one({})


@pytest.mark.rule("1.10.11")
def test_endpoints_are_the_hosts_of_the_uri_and_ports_are_strings(client: OsbClient, atlas: Emulator) -> None:
    hosts = ["a.example:27017", "b.example:27018", "c.example:27019"]
    strings = {"standard": f"mongodb://{','.join(hosts)}/?ssl=true&authSource=admin&replicaSet=rs"}
    atlas.put_cluster("three-hosts", connection_strings=strings)
    instance_id = provisioned(client, {"cluster": "three-hosts"})
    body = client.binding(instance_id, bound(client, instance_id)).json
    assert body["endpoints"] == [
        {"host": host, "ports": [port], "protocol": "tcp"} for host, _, port in (each.partition(":") for each in hosts)
    ]
    assert all(each in body["credentials"]["uri"] for each in hosts)


@pytest.mark.rule("1.10.12")
def test_a_binding_that_expires_says_when_and_when_to_renew(client: OsbClient, atlas: Emulator, instance: str) -> None:
    binding_id = bound(client, instance, {"expires_in": 600})
    metadata = client.binding(instance, binding_id).json["metadata"]
    assert set(metadata) == {"expires_at", "renew_before"}
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    expires, renew = (datetime.strptime(metadata[name], form).replace(tzinfo=UTC) for name in metadata)
    assert renew < expires
    assert timedelta(seconds=540) < expires - datetime.now(UTC) <= timedelta(seconds=600)
    assert users(atlas, "binding_id", binding_id)[0]["deleteAfterDate"]


@pytest.mark.rule("1.10.12")
def test_a_binding_that_stays_has_no_metadata(client: OsbClient, instance: str, binding: str) -> None:
    assert "metadata" not in client.binding(instance, binding).json


@pytest.mark.rule("1.10.13")
def test_nothing_is_given_that_the_catalog_does_not_require(client: OsbClient, instance: str, binding: str) -> None:
    given = client.binding(instance, binding).json
    assert not {"syslog_drain_url", "route_service_url", "volume_mounts"} & set(given)
