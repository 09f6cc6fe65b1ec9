"""Documents that something else has changed: they lead to an error with a sentence, never to an action in Atlas."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from broker_api.errors import SettingError, TamperedError
from broker_api.state.encryption import Vault
from broker_api.state.housekeeping import BROKER, Housekeeping
from broker_api.state.record_macs import OPERATION, REQUEST, SETTLED
from broker_api.state.records import binding_key, canonical, instance_key
from broker_api.state.store import Store
from tests.books import call_users, document, held, make_user, sign
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.tenant import CLUSTER, Json, Tenant, eventually, works
from workers.maintenance.reconcile import ReconcileError, reconcile
from workers.operations.database_users import labels

ADMINISTRATOR = [{"roleName": "atlasAdmin", "databaseName": "admin"}]
OWN_ROLES = ["dbAdmin", "readWrite"]
ANOTHER = "the id of another broker"
NOT_AS_WRITTEN = "is not as the broker wrote it"


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def tenant(broker: InThisProcess, stack: Stack, atlas: Emulator) -> Iterator[Tenant]:
    """An instance of a broker whose documents all have MACs, as those of a new broker have."""
    del atlas
    assert broker.context.keys.passes()
    assert broker.context.store.macs.required
    with stack.client() as client:
        yield Tenant(client).provision()


def forge(broker: InThisProcess, key: str, changes: Json, *, strip: bool = False) -> None:
    """Change a document, and take its MACs away if told to."""
    macs = dict.fromkeys([REQUEST, SETTLED, OPERATION], "")
    update = {"$set": changes} | ({"$unset": macs} if strip else {})
    assert broker.context.store.collection.update_one({"_id": key}, update).matched_count == 1


def reopened(step: str, **others: object) -> Json:
    """Return the fields by which the operation that a document has, with its MAC, is due again at a step."""
    now = datetime.now(UTC)
    times = {"due": now, "accepted": now, "deadline": now + timedelta(minutes=5), "dispatched": now}
    operation = {"state": "in progress", "open": True, "step": step, **times, **others}
    return {f"operation.{name}": value for name, value in operation.items()}


def running(kind: str, step: str) -> Json:
    """Return the fields of an operation that the broker has not begun."""
    return reopened(step, id=f"{kind}-{uuid4().hex}", kind=kind)


def ended(broker: InThisProcess, key: str) -> str:
    """Return the description of the document's operation when it has ended, whatever platforms are told of it."""

    def look() -> str | None:
        found = broker.context.store.collection.find_one({"_id": key}) or {}
        return None if found["operation"]["open"] else str(found["operation"]["description"])

    return eventually(look, "the operation has ended")


def roles_of(atlas: Emulator, name: str) -> list[str]:
    return [role["roleName"] for user in atlas.users() if user["username"] == name for role in user["roles"]]


def test_a_copied_ciphertext_gives_no_other_binding_its_credentials(tenant: Tenant, broker: InThisProcess) -> None:
    tenant.bind("copied-a")
    tenant.bind("copied-b")
    sealed = broker.context.store.collection.find_one({"_id": binding_key(tenant.instance_id, "copied-a")}) or {}
    forge(broker, binding_key(tenant.instance_id, "copied-b"), {"sealed_credentials": sealed["sealed_credentials"]})
    with tenant.client.expecting(500):
        answer = tenant.client.binding(tenant.instance_id, "copied-b")
    assert "copied from another document or field" in answer.description
    assert works(tenant.credentials("copied-a"))


def test_a_fernet_token_which_is_bound_to_no_place_opens_no_more(tenant: Tenant, stack: Stack) -> None:
    tenant.bind("with-a-token")
    token = Vault((stack.encryption_key,)).seal_for_all_releases({"username": "u", "password": "p", "uri": "evil"})
    with held(stack) as documents:
        key = {"_id": binding_key(tenant.instance_id, "with-a-token")}
        documents.update_one(key, {"$set": {"sealed_credentials": token}})
    with tenant.client.expecting(500):
        answer = tenant.client.binding(tenant.instance_id, "with-a-token")
    assert "copied from another document or field" in answer.description


UNGUARDED: dict[str, Json] = {"as-it-was": {}, "of-atlasbroker-2": {"legacy": True}, "gone": {"phase": "gone"}}
"""Fields by which documents are told apart that need no MACs, or needed none in an earlier release."""


@pytest.mark.parametrize("unguarded", UNGUARDED)
@pytest.mark.parametrize("strip", [False, True], ids=["with its MACs", "without"])
def test_a_forged_bind_makes_no_administrator(
    tenant: Tenant, broker: InThisProcess, atlas: Emulator, unguarded: str, *, strip: bool
) -> None:
    name = f"forged-bind-{strip}-{unguarded}"
    tenant.bind(name)
    key = binding_key(tenant.instance_id, name)
    roles = {"roles": canonical([{"name": "atlasAdmin", "database": "admin"}]), "phase": "creating"}
    forge(broker, key, roles | UNGUARDED[unguarded] | reopened("create"), strip=strip)
    assert NOT_AS_WRITTEN in ended(broker, key)
    assert roles_of(atlas, name) == OWN_ROLES


@pytest.mark.parametrize("unguarded", UNGUARDED)
def test_forged_roles_of_a_binding_are_given_by_no_repair(
    tenant: Tenant, broker: InThisProcess, atlas: Emulator, unguarded: str
) -> None:
    name = f"forged-roles-{unguarded}"
    tenant.bind(name)
    roles = {"roles": canonical([{"name": "atlasAdmin", "database": "admin"}])}
    forge(broker, binding_key(tenant.instance_id, name), roles | UNGUARDED[unguarded])
    call_users(atlas, "DELETE", f"/admin/{name}")
    reconcile(broker.context, repair=True)
    assert roles_of(atlas, name) == []


def test_forged_parameters_are_not_taken_over_by_a_rotation_or_an_update(tenant: Tenant, broker: InThisProcess) -> None:
    tenant.bind("predecessor")
    forged = canonical({"role": "admin"})
    forge(broker, binding_key(tenant.instance_id, "predecessor"), {"parameters": forged})
    with tenant.client.expecting(500):
        assert NOT_AS_WRITTEN in tenant.client.rotate(tenant.instance_id, "successor", "predecessor").description
    forge(broker, instance_key(tenant.instance_id), {"parameters": canonical({"policy-on-delete": "drop"})})
    with tenant.client.expecting(500):
        answer = tenant.client.update(tenant.instance_id, {"policy-on-delete": "retain"})
    assert NOT_AS_WRITTEN in answer.description


def test_an_update_ends_with_a_sentence_when_a_binding_is_forged(
    tenant: Tenant, broker: InThisProcess, stack: Stack, atlas: Emulator
) -> None:
    tenant.bind("forged")
    tenant.bind("honest")
    administrator = "administrator-of-an-update"
    make_user(atlas, administrator, roles=ADMINISTRATOR)
    forge(broker, binding_key(tenant.instance_id, "forged"), {"username": administrator})
    begun = tenant.client.update(tenant.instance_id, {"policy-on-delete": "retain"})
    answer = tenant.client.wait(tenant.instance_id, None, begun.operation, seconds=20)
    assert (answer.state, NOT_AS_WRITTEN in answer.description) == ("failed", True)
    assert document(stack, tenant.instance_id)["operation"]["open"] is False
    assert (roles_of(atlas, administrator), roles_of(atlas, "honest")) == (["atlasAdmin"], OWN_ROLES)


@pytest.mark.parametrize("form", ["with its MACs", "without", "with MACs that fit"])
def test_a_forged_unbind_removes_no_administrator(
    tenant: Tenant, broker: InThisProcess, stack: Stack, atlas: Emulator, form: str
) -> None:
    administrator, name = f"administrator {form}", f"forged unbind {form}"
    make_user(atlas, administrator, roles=ADMINISTRATOR)
    tenant.bind(name)
    key = binding_key(tenant.instance_id, name)
    forge(broker, key, {"username": administrator, "made": True}, strip=form == "without")
    if form == "with MACs that fit":
        sign(stack, {"_id": key})  # as if MACs could be forged, too: what is left is the look at Atlas
        said = tenant.end(tenant.client.unbind(tenant.instance_id, name), name).description
        assert "is not labelled as that of this binding" in said
    else:
        forge(broker, key, {"phase": "creating", **reopened("remove", undo=True)})
        assert NOT_AS_WRITTEN in ended(broker, key)
    assert roles_of(atlas, administrator) == ["atlasAdmin"]


def test_a_forged_deprovision_drops_nothing(tenant: Tenant, broker: InThisProcess, atlas: Emulator) -> None:
    credentials = tenant.bind("kept")
    forge(broker, instance_key(tenant.instance_id), {"phase": "deleting", **running("deprovision", "check")})
    assert NOT_AS_WRITTEN in tenant.client.wait(tenant.instance_id).description
    assert works(credentials)
    assert roles_of(atlas, "kept") == OWN_ROLES


def test_an_administrators_user_is_not_removed_for_a_document_like_those_of_atlasbroker_2(
    tenant: Tenant, broker: InThisProcess, atlas: Emulator
) -> None:
    name = "administrator-of-atlasbroker-2"
    make_user(atlas, name, roles=ADMINISTRATOR)
    broker.context.store.collection.insert_one(
        {"instance_id": tenant.instance_id, "binding_id": name, "parameters": {}}
    )
    ended = tenant.end(tenant.client.unbind(tenant.instance_id, name), name)
    assert "was not removed" in ended.description
    assert roles_of(atlas, name) == ["atlasAdmin"]


def test_a_document_of_atlasbroker_2_has_macs_once_it_is_converted(tenant: Tenant, broker: InThisProcess) -> None:
    store, instance_id = broker.context.store, str(uuid4())
    database = f"instance-{instance_id}"
    store.collection.insert_one(
        {"instance_id": instance_id, "database": database, "cluster": CLUSTER, "parameters": {"cluster": CLUSTER}}
    )
    client = store.collection.database.client
    without_keys = Store(client, store.collection.database.name, store.collection.name)  # as commands may be
    with pytest.raises(SettingError, match="BROKER_ENCRYPTION_KEYS"):
        without_keys.instance(instance_id)
    converted = Tenant(tenant.client, instance_id)
    assert works(converted.bind())
    forge(broker, instance_key(instance_id), {"database": tenant.database})
    with tenant.client.expecting(500):
        assert NOT_AS_WRITTEN in tenant.client.deprovision(instance_id).description


def test_forged_connection_strings_are_read_again_from_atlas(tenant: Tenant, broker: InThisProcess) -> None:
    housekeeping = broker.context.housekeeping
    name = f"connection/{Emulator.project_id}/{CLUSTER}"
    evil = {"standard": "mongodb://evil.example:27017/?tls=true"}
    for forged in ({"ways": canonical({"standard": evil})}, {"ways": canonical({"standard": evil}), "mac": None}):
        housekeeping.write(name, forged)
        credentials = tenant.bind()
        assert "evil.example" not in str(credentials)
        assert works(credentials)


@pytest.mark.parametrize("forged", [{"value": ANOTHER}, {"value": ANOTHER, "mac": None}, {"value": 5}])
def test_with_a_forged_id_of_the_broker_the_users_of_another_broker_are_not_removed(
    tenant: Tenant, broker: InThisProcess, atlas: Emulator, forged: Json
) -> None:
    assert works(tenant.bind("b"))
    bound = broker.context.store.binding(tenant.instance_id, "b")
    assert bound
    theirs = labels(broker.context, bound) | {"atlas-broker": ANOTHER, "binding_id": "theirs"}
    make_user(atlas, "theirs", labels=[{"key": key, "value": value} for key, value in theirs.items()])
    collection = broker.context.housekeeping.collection
    honest = collection.find_one({"_id": BROKER}) or {}
    collection.update_one({"_id": BROKER}, {"$set": forged})
    restarted = replace(broker.context, housekeeping=Housekeeping(broker.context.store))
    try:
        with pytest.raises(ReconcileError, match=f"its own id {NOT_AS_WRITTEN}"):
            reconcile(restarted, repair=True)
        with pytest.raises(TamperedError):
            labels(restarted, bound)
    finally:
        collection.replace_one({"_id": BROKER}, honest)
    assert roles_of(atlas, "theirs") == ["read"]


def test_a_forged_owner_of_a_database_lets_no_other_instance_in(tenant: Tenant, broker: InThisProcess) -> None:
    database = document_name(tenant)
    broker.context.housekeeping.write(database, {"organization_guid": "theirs", "owned": False})
    other = Tenant(tenant.client)
    parameters = {"cluster": CLUSTER, "database": tenant.database}
    ended = other.end(tenant.client.provision(other.instance_id, parameters))
    assert ended.state == "failed"
    assert NOT_AS_WRITTEN in ended.description


def document_name(tenant: Tenant) -> str:
    """Return the name of the reservation of the tenant's database."""
    return f"database/{Emulator.project_id}/{CLUSTER}/{tenant.database}"
