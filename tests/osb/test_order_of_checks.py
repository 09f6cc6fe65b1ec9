"""1.0: what a request is refused for first, when several things are wrong with it."""

from typing import Any

import pytest
from pymongo.collection import Collection

from tests.emulator.client import Emulator
from tests.osb.steps import ON_CLUSTER, UNKNOWN, bound, failed_provision, held_bind, held_update, new_id, provisioned
from tests.osb_client import PLAN_ID, SERVICE_ID, Json, OsbClient

pytestmark = pytest.mark.rule("0.2", "1.0")

NO_VERSION = {"X-Broker-API-Version": None}
BODY = {"service_id": SERVICE_ID, "plan_id": PLAN_ID}


def test_the_version_comes_before_the_mandatory_query_of_a_delete(client: OsbClient) -> None:
    assert client.deprovision(new_id(), headers=NO_VERSION, query={"service_id": None}).status == 412


@pytest.mark.parametrize(
    "fields",
    [
        {"plan_id": None},
        {"plan_id": 1},
        {"organization_guid": ""},
        {"service_id": UNKNOWN},
        {"plan_id": UNKNOWN},
        {"parameters": {"policy-on-delete": "drop"}},
        {"parameters": {"cluster": 1}},
    ],
    ids=str,
)
def test_the_body_and_the_ids_in_it_come_before_the_need_to_poll(async_only: OsbClient, fields: Json) -> None:
    answer = async_only.provision(new_id(), ON_CLUSTER, fields=fields, accepts_incomplete=None)
    assert answer.status == 400


@pytest.mark.parametrize("fields", [{"service_id": UNKNOWN}, {"plan_id": UNKNOWN}], ids=str)
def test_the_ids_in_the_body_of_an_update_come_before_existence(client: OsbClient, fields: Json) -> None:
    assert client.update(new_id(), fields=fields).status == 400


def test_the_query_of_a_delete_comes_before_the_need_to_poll(async_only: OsbClient) -> None:
    answer = async_only.deprovision(new_id(), accepts_incomplete=None, query={"plan_id": None})
    assert answer.status == 400


def test_the_need_to_poll_comes_before_existence(async_only: OsbClient) -> None:
    unknown, other = new_id(), new_id()
    answers = [
        async_only.bind(unknown, other, accepts_incomplete=None),
        async_only.update(unknown, accepts_incomplete=None),
    ]
    assert [(answer.status, answer.json["error"]) for answer in answers] == [(422, "AsyncRequired")] * 2


def test_existence_comes_before_the_need_to_poll_where_something_is_deleted(
    async_only: OsbClient, client: OsbClient, instance: str
) -> None:
    """A platform that cannot poll repeats a delete until it is told that nothing is there."""
    gone, unbound = provisioned(client), bound(client, instance)
    client.unbind(instance, unbound)
    client.deprovision(gone)
    client.wait(instance, unbound)
    client.wait(gone)
    answers = [async_only.deprovision(each, accepts_incomplete=None) for each in (new_id(), gone)]
    pairs = ((new_id(), new_id()), (instance, new_id()), (instance, unbound), (gone, unbound))
    answers += [async_only.unbind(*pair, accepts_incomplete=None) for pair in pairs]
    assert [answer.status for answer in answers] == [410] * 6


def test_existence_comes_before_a_conflict_of_maintenance(client: OsbClient) -> None:
    answer = client.update(new_id(), fields={"maintenance_info": {"version": "9.9.9"}})
    assert answer.status == 404


def test_idempotency_comes_before_a_conflict_of_maintenance(client: OsbClient, instance: str) -> None:
    wrong = {"maintenance_info": {"version": "9.9.9"}}
    assert client.provision(instance, ON_CLUSTER, fields=wrong).status == 200
    assert client.provision(instance, {"cluster": "cluster-test"}, fields=wrong).status == 409


def test_idempotency_comes_before_a_running_operation(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    update = held_update(client, atlas, instance_id)
    again = client.update(instance_id, {"policy-on-delete": "drop"})
    assert (again.status, again.operation) == (202, update.operation)
    assert client.provision(instance_id, ON_CLUSTER).status == 200


def test_a_running_operation_comes_before_a_conflict_of_maintenance(client: OsbClient, atlas: Emulator) -> None:
    instance_id = provisioned(client)
    held_update(client, atlas, instance_id)
    answer = client.update(instance_id, fields={"maintenance_info": {"version": "9.9.9"}})
    assert answer.json["error"] == "ConcurrencyError"


def test_a_conflict_of_maintenance_comes_before_any_act(client: OsbClient, state: Collection[dict[str, Any]]) -> None:
    instance_id = new_id()
    answer = client.provision(instance_id, ON_CLUSTER, fields={"maintenance_info": {"version": "9.9.9"}})
    assert answer.json["error"] == "MaintenanceInfoConflict"
    assert state.count_documents({"instance_id": instance_id}) == 0


def test_a_bind_that_was_refused_for_want_of_polling_is_taken_with_it(
    async_only: OsbClient, client: OsbClient, instance: str, state: Collection[dict[str, Any]]
) -> None:
    """Cloud Foundry's manifests first try without, then repeat the same binding id with it."""
    binding_id = new_id()
    assert async_only.bind(instance, binding_id, accepts_incomplete=None).status == 422
    assert state.count_documents({"binding_id": binding_id}) == 0
    assert client.bind(instance, binding_id).status == 202
    client.unbind(instance, binding_id)


def test_no_4xx_leaves_anything_behind(
    client: OsbClient, atlas: Emulator, instance: str, state: Collection[dict[str, Any]]
) -> None:
    failed, held = failed_provision(client), held_bind(client, atlas, instance)[0]
    # What other tests have asked for may still be worked on; it must only not become more.
    at_rest = list(state.find({"operation.open": False}, sort=[("_id", 1)]))
    known = set(state.distinct("_id"))
    answers = [
        client.provision(new_id(), {}),
        client.provision(new_id(), ON_CLUSTER, fields={"plan_id": UNKNOWN}),
        client.provision(instance, {"cluster": "other"}),
        client.provision(failed, ON_CLUSTER),
        client.update(instance, {"cluster": "other"}),
        client.update(failed),
        client.update(instance, fields={"maintenance_info": {"version": "9"}}),
        client.bind(instance, new_id(), {"role": "king"}),
        client.bind(instance, held, {"role": "readOnly"}),
        client.bind(failed, new_id()),
        client.rotate(instance, new_id(), new_id()),
        client.deprovision(new_id()),
        client.unbind(instance, new_id()),
        client.unbind(instance, held, query={"plan_id": None}),
        client.last_operation(new_id()),
        client.binding(instance, held),
    ]
    assert all(400 <= answer.status < 500 for answer in answers), [answer.status for answer in answers]
    assert set(state.distinct("_id")) == known
    assert list(state.find({"_id": {"$in": [each["_id"] for each in at_rest]}}, sort=[("_id", 1)])) == at_rest
