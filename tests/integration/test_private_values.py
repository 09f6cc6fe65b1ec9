"""Unknown parameters and contexts may hold secrets: MongoDB has them only encrypted, and all works with them."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from broker_api.authentication import Authentication
from broker_api.catalog.parameter_schemas import binding_schema, instance_schema
from broker_api.config import BindingView, Config, Permissions
from broker_api.jobs.queue import QUEUES
from broker_api.state.encryption import Vault
from broker_api.state.private_values import KNOWN_PARAMETERS, opened
from broker_api.state.records import binding_key, canonical, instance_key, record
from broker_api.state.store import Store
from tests.books import document, held
from tests.console import Console
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess, in_this_process
from tests.tenant import CLUSTER, Json, Tenant, works

PLANTED = "pl4nted-in-"
PARAMETERS: Json = {"cluster": CLUSTER, "grade": {"key": f"{PLANTED}instance", "$n": [1, 1.5, None, True]}}
CONTEXT = {"platform": "cloudfoundry", "note": f"{PLANTED}context"}
OF_BINDING: Json = {"token": f"{PLANTED}binding", "role": "readWrite"}
NEW_KEY = "bmV3LWtleS1uZXcta2V5LW5ldy1rZXktbmV3LWtleSE="


class SecretReader(Config):
    """Gives ``read`` only if it sees the secrets of the instance and of the binding."""

    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        seen = binding.instance.parameters["grade"], binding.parameters["token"]
        database = binding.instance.get_dbname() or ""
        return permissions.add_role(database, "read" if all(PLANTED in str(each) for each in seen) else "dbAdmin")


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture(scope="module")
def broker(stack: Stack) -> Iterator[InThisProcess]:
    atlas = {"user": Emulator.public_key, "password": Emulator.private_key, "group": Emulator.project_id}
    with in_this_process(stack, SecretReader(atlas, None)) as running:
        yield running


@pytest.fixture
def tenant(broker: InThisProcess, stack: Stack, atlas: Emulator) -> Iterator[Tenant]:
    """An instance and the binding ``b-…`` of it, both with secrets."""
    assert broker.context.keys.passes()
    with stack.client() as client:
        made = Tenant(client)
        made.succeed(client.provision(made.instance_id, PARAMETERS, fields={"context": CONTEXT}))
        name = bound(made)
        made.succeed(client.bind(made.instance_id, name, OF_BINDING, fields={"context": CONTEXT}), name)
        (user,) = [user for user in atlas.users() if user["username"] == name]
        assert [role["roleName"] for role in user["roles"]] == ["read"]
        yield made


def bound(tenant: Tenant) -> str:
    return f"b-{tenant.instance_id}"


def stored(stack: Stack) -> str:
    with stack.state.client() as client:
        database = client[stack.database]
        return str([list(database[name].find()) for name in database.list_collection_names()])


def test_secrets_of_platforms_are_nowhere_in_clear_and_requests_see_them_as_before(
    tenant: Tenant, broker: InThisProcess, stack: Stack
) -> None:
    client, instance_id, name = tenant.client, tenant.instance_id, bound(tenant)
    assert client.instance(instance_id).json["parameters"] == PARAMETERS
    assert client.binding(instance_id, name).json["parameters"] == OF_BINDING
    assert client.provision(instance_id, PARAMETERS).status == 200
    assert client.provision(instance_id, PARAMETERS | {"grade": "other"}).status == 409
    assert client.bind(instance_id, name, OF_BINDING).status == 200
    assert client.bind(instance_id, name, OF_BINDING | {"token": "other"}).status == 409
    changed = {"grade": f"{PLANTED}update", "more": f"{PLANTED}more"}
    context = {**CONTEXT, "note": f"{PLANTED}new context"}
    tenant.succeed(client.update(instance_id, changed, fields={"context": context}))
    assert client.update(instance_id, changed, fields={"context": context}).status == 200
    assert client.instance(instance_id).json["parameters"] == PARAMETERS | changed
    whole = opened(Vault((stack.encryption_key,)), record(document(stack, instance_id)))
    assert (whole.context, whole.operation.request.count(PLANTED)) == (context, 3)
    tenant.succeed(client.rotate(instance_id, f"{name}-2", name), f"{name}-2")
    assert client.binding(instance_id, f"{name}-2").json["parameters"] == OF_BINDING

    collection = broker.context.store.collection
    without_keys = Store(collection.database.client, stack.database, collection.name)  # as commands may be
    found = without_keys.instance(instance_id)
    assert found
    assert (found.parameters, found.context) == ({"cluster": CLUSTER}, {})
    show = Console.of(stack).run("instances", "show", instance_id).stdout
    show += Console.of(stack).run("bindings", "show", name, "--json").stdout
    assert (CLUSTER in show, show.count("not shown")) == (True, 2)
    shown = [
        show,
        client.request("GET", "/operations").text,
        client.request("GET", f"/operations?instance={name}").text,
    ]
    with Redis.from_url(stack.settings["BROKER_REDIS_URL"]) as redis:
        messages = [json.loads(each) for queue in set(QUEUES.values()) for each in redis.lrange(queue, 0, -1)]
    bodies = [b64decode(message["body"]).decode() for message in messages]
    assert any(instance_id in body for body in bodies)
    shown += [str(messages), str(bodies)]
    for text in (stored(stack), broker.log_text(), *shown):
        assert text
        assert PLANTED not in text


def test_what_an_earlier_release_has_stored_in_clear_is_read_and_encrypted_by_a_rotation(
    tenant: Tenant, broker: InThisProcess, stack: Stack
) -> None:
    client, instance_id, name = tenant.client, tenant.instance_id, bound(tenant)
    tenant.succeed(client.update(instance_id, {"more": 1}, fields={"context": CONTEXT}))
    with held(stack) as documents:
        for key in (instance_key(instance_id), binding_key(instance_id, name)):
            whole = opened(broker.context.vault, record(documents.find_one({"_id": key}) or {}))
            clear = {"parameters": canonical(whole.parameters), "context": canonical(whole.context)}
            clear["operation.request"] = whole.operation.request
            gone = dict.fromkeys(["sealed_parameters", "sealed_context", "operation.sealed_request"], None)
            documents.update_one({"_id": key}, {"$set": {**clear, **gone}})
    before = client.instance(instance_id).json, client.binding(instance_id, name).json
    assert works(tenant.bind(**OF_BINDING))

    def console(*keys: str) -> Console:
        return Console({**Console.of(stack).settings, "BROKER_ENCRYPTION_KEYS": ",".join(keys)})

    status = console(stack.encryption_key).json("keys", "status")
    assert status["in_clear"] == 2
    assert console(stack.encryption_key).json("keys", "rotate")["left"] == 0
    assert console(stack.encryption_key).json("keys", "status")["in_clear"] == 0
    assert PLANTED not in stored(stack)
    assert (client.instance(instance_id).json, client.binding(instance_id, name).json) == before
    assert client.bind(instance_id, name, OF_BINDING).status == 200

    broker.context.vault.replace((stack.encryption_key, NEW_KEY))
    assert console(NEW_KEY, stack.encryption_key).json("keys", "rotate")["left"] == 0
    (new_id,) = Vault((NEW_KEY,)).ids
    rows = console(NEW_KEY, stack.encryption_key).json("keys", "status")["keys"]
    assert [row["key"] for row in rows if row["secrets"] + row["macs"]] == [new_id]
    with held(stack) as documents:
        found = record(documents.find_one({"_id": instance_key(instance_id)}) or {})
    assert opened(Vault((NEW_KEY,)), found).parameters == PARAMETERS | {"more": 1}
    assert console(stack.encryption_key, NEW_KEY).json("keys", "rotate")["left"] == 0


def test_what_atlasbroker_2_has_left_is_encrypted_when_it_is_converted(
    tenant: Tenant, broker: InThisProcess, stack: Stack
) -> None:
    given = PARAMETERS | {"$first": f"{PLANTED}operator"}
    left = {"instance_id": str(uuid4()), "database": f"left-{uuid4()}", "cluster": CLUSTER, "parameters": given}
    key, console = instance_key(str(left["instance_id"])), Console.of(stack)
    keys = Console({**console.settings, "BROKER_ENCRYPTION_KEYS": stack.encryption_key})
    with held(stack) as documents:
        documents.insert_one({**left})
        converted = Tenant(tenant.client, str(left["instance_id"]))
        assert works(converted.bind(**OF_BINDING))  # the hooks have seen the secrets
        assert PLANTED not in stored(stack)
        clear = {"parameters": {"$literal": given}, "sealed_parameters": None}
        documents.update_one({"_id": key}, [{"$set": clear}])  # as a build without encryption converted it
        assert keys.json("keys", "status")["in_clear"] == 1
        assert keys.json("keys", "rotate")["left"] == 0
        assert (documents.find_one({"_id": key}) or {})["parameters"] == {"cluster": CLUSTER}  # still an object
    assert PLANTED not in stored(stack)
    assert broker.context.store.instance(converted.instance_id)
    assert tenant.client.instance(converted.instance_id).json["parameters"] == given


FORGERIES = ("removed", "of another", "changed")


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_secrets_of_platforms_are_an_error_with_a_sentence(
    tenant: Tenant, broker: InThisProcess, stack: Stack, forgery: str
) -> None:
    client, instance_id, name = tenant.client, tenant.instance_id, bound(tenant)
    found = document(stack, instance_id)
    values: dict[str, Any] = {"removed": None, "changed": found["sealed_parameters"][:-8] + "AAAAAAA="}
    values["of another"] = document(stack, instance_id, name)["sealed_parameters"]
    with held(stack) as documents:
        documents.update_one({"_id": found["_id"]}, {"$set": {"sealed_parameters": values[forgery]}})
    with client.expecting(*[500] * 3):
        answers = [client.instance(instance_id), client.bind(instance_id, "b"), client.deprovision(instance_id)]
    assert {answer.status for answer in answers} == {500}
    assert all("changed in MongoDB" in answer.description for answer in answers)
    assert client.last_operation(instance_id).state == "succeeded"  # it needs none of them
    assert "Traceback" not in broker.log_text()


def test_a_forged_request_of_an_update_changes_nothing(tenant: Tenant, broker: InThisProcess, stack: Stack) -> None:
    instance_id = tenant.instance_id
    tenant.update(grade=f"{PLANTED}first")
    earlier = document(stack, instance_id)["operation"]["sealed_request"]
    tenant.update(grade=f"{PLANTED}second")
    with held(stack) as documents:
        again = {"operation.sealed_request": earlier, "operation.open": True, "operation.step": ""}
        again |= {"operation.state": "in progress"}
        documents.update_one({"_id": instance_key(instance_id)}, {"$set": again})
    said = tenant.client.wait(instance_id)
    assert (said.state, "is not as the broker wrote it" in said.description) == ("failed", True)
    assert tenant.client.instance(instance_id).json["parameters"]["grade"] == f"{PLANTED}second"
    assert broker.context.keys.passes()


def test_only_parameters_of_the_catalog_stay_in_clear() -> None:
    config = Config(None, None)
    pins = dict.fromkeys(["project", "cluster", "connection", "endpoint"])
    own_cluster = instance_schema(config, pins, {"kind": "dedicated"}, creating=True)
    schemas = own_cluster, instance_schema(config, pins, creating=True), binding_schema(config, [*Authentication])
    assert {name for schema in schemas for name in schema["properties"]} >= KNOWN_PARAMETERS
