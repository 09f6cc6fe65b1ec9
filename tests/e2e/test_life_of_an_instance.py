from collections.abc import Callable, Iterator
from functools import partial
from uuid import uuid4

import pytest
from pymongo.errors import OperationFailure

from tests.books import kept_credentials
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import IN_PROGRESS, OsbClient
from tests.tenant import CLUSTER, UNAUTHORIZED, Json, Tenant, eventually, log_in, together, works

USERS = "/groups/{groupId}/databaseUsers"


@pytest.fixture(params=["API key", "service account"])
def platform(request: pytest.FixtureRequest) -> Iterator[OsbClient]:
    """A platform on the shared stack, and one on a stack whose workers use OAuth."""
    stack: Stack = request.getfixturevalue("stack" if request.param == "API key" else "oauth_stack")
    with stack.client() as client:
        yield client


@pytest.fixture
def tenant(client: OsbClient, atlas: Emulator) -> Tenant:
    """With an instance; whatever is changed in Atlas is undone afterwards."""
    assert atlas.users() == []
    return Tenant(client).provision()


def database_exists(cluster: Mongod, name: str) -> bool:
    with cluster.client() as root:
        return name in root.list_database_names()


def write(credentials: Json) -> None:
    with log_in(credentials) as cluster:
        cluster[credentials["database"]]["things"].insert_one({"a": 1})


def test_an_instance_with_two_bindings_lives_from_provision_to_deprovision(
    platform: OsbClient, atlas: Emulator, cluster_mongod: Mongod
) -> None:
    atlas.apply_after(seconds=0.3)
    tenant = Tenant(platform).provision(**{"policy-on-delete": "drop"})
    about = platform.instance(tenant.instance_id).json
    assert about["parameters"] == {"cluster": CLUSTER, "policy-on-delete": "drop"}
    first, second = together(lambda: tenant.bind("b-1"), lambda: tenant.bind("b-2", role="readOnly"))
    assert (first["username"], second["username"]) == ("b-1", "b-2")
    assert first["password"] != second["password"]
    assert first["database"] == second["database"] == tenant.database
    write(first)
    with log_in(second) as cluster:
        assert cluster[tenant.database]["things"].count_documents({}) == 1
    refused(lambda: write(second))
    tenant.unbind("b-1")
    assert not works(first)
    assert works(second)
    tenant.deprovision()
    assert not works(second)
    assert not database_exists(cluster_mongod, tenant.database)
    eventually(lambda: atlas.users() == [], "the user that dropped it is gone, too")
    assert platform.instance(tenant.instance_id).status == 404
    assert platform.deprovision(tenant.instance_id).status == 410


def refused(act: Callable[[], object]) -> None:
    with pytest.raises(OperationFailure) as refusal:
        act()
    assert refusal.value.code == UNAUTHORIZED


def test_workers_use_what_they_were_given_to_open_atlas(stack: Stack, oauth_stack: Stack, atlas: Emulator) -> None:
    for used, caller in ((stack, atlas.public_key), (oauth_stack, atlas.client_id)):
        atlas.forget_calls()
        with used.client() as client:
            Tenant(client).provision()
        callers = {call["caller"] for call in atlas.calls() if call["template"].startswith("/groups")}
        assert callers - {None} == {caller}


def test_a_user_in_atlas_says_what_it_is_for_and_the_same_bind_again_makes_no_other(
    tenant: Tenant, atlas: Emulator
) -> None:
    accepted = tenant.client.bind(tenant.instance_id, "b")
    tenant.succeed(accepted, "b")
    (user,) = atlas.users()
    labels = {label["key"]: label["value"] for label in user["labels"]}
    assert labels["instance_id"] == tenant.instance_id
    assert labels["binding_id"] == "b"
    assert labels["operation"] == accepted.operation
    assert user["scopes"] == [{"name": CLUSTER, "type": "CLUSTER"}]
    roles = [(role["databaseName"], role["roleName"]) for role in user["roles"]]
    assert roles == [(tenant.database, "dbAdmin"), (tenant.database, "readWrite")]
    again = tenant.client.bind(tenant.instance_id, "b", {})
    assert (again.status, again.json["credentials"]) == (200, tenant.credentials("b"))
    assert atlas.counts()[f"POST {USERS}"] == 1


def test_credentials_are_refused_before_applied_and_given_only_when_they_work(
    stack: Stack, tenant: Tenant, atlas: Emulator
) -> None:
    atlas.apply_by_hand()
    accepted = tenant.client.bind(tenant.instance_id, "b")
    eventually(lambda: polls_of_the_status(atlas) >= 2, "the status has been read twice")
    credentials = kept_credentials(stack, tenant.instance_id, "b")
    assert not works(credentials)
    assert tenant.client.last_operation(tenant.instance_id, "b", accepted.operation).state == IN_PROGRESS
    assert tenant.client.binding(tenant.instance_id, "b").status == 404
    atlas.apply_now()
    tenant.succeed(accepted, "b")
    assert tenant.credentials("b") == credentials
    assert works(credentials)


def polls_of_the_status(atlas: Emulator) -> int:
    return atlas.counts().get("GET /groups/{groupId}/clusters/{clusterName}/status", 0)


def test_an_applied_that_is_older_than_the_change_is_not_believed(oauth_stack: Stack, atlas: Emulator) -> None:
    """That stack settles for a second."""
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        atlas.apply_after(stale_seconds=0.7, seconds=1.5)
        assert works(tenant.bind("b"))
        tenant.unbind("b")


def test_an_unbind_ends_only_when_the_credentials_are_refused(tenant: Tenant, atlas: Emulator) -> None:
    credentials = tenant.bind("b")
    atlas.apply_by_hand()
    accepted = tenant.client.unbind(tenant.instance_id, "b")
    eventually(lambda: atlas.users() == [] or atlas.users()[0]["deleted"], "the user is deleted")
    assert works(credentials)
    assert tenant.client.last_operation(tenant.instance_id, "b", accepted.operation).state == IN_PROGRESS
    atlas.apply_now()
    tenant.succeed(accepted, "b")
    assert not works(credentials)
    assert tenant.client.binding(tenant.instance_id, "b").status == 404


def test_credentials_are_refused_on_databases_of_others(tenant: Tenant) -> None:
    neighbour = Tenant(tenant.client).provision()
    credentials, theirs = together(tenant.bind, neighbour.bind)
    write(theirs)
    for foreign in (neighbour.database, "admin", "never-seen"):
        refused(partial(write, {**credentials, "database": foreign}))
        refused(partial(works, {**credentials, "database": foreign}))


def test_a_database_stays_unless_the_instance_says_at_its_end_that_it_is_to_be_dropped(
    tenant: Tenant, cluster_mongod: Mongod, atlas: Emulator
) -> None:
    dropped = Tenant(tenant.client).provision()
    dropped.update(**{"policy-on-delete": "drop"})
    for credentials in together(tenant.bind, dropped.bind):
        write(credentials)
    together(tenant.deprovision, dropped.deprovision)
    assert database_exists(cluster_mongod, tenant.database)
    assert not database_exists(cluster_mongod, dropped.database)
    eventually(lambda: atlas.users() == [], "the users of their bindings are gone, though nobody unbound them")


def test_a_database_that_another_instance_uses_is_not_dropped_and_the_instance_stays_usable(
    client: OsbClient, atlas: Emulator, cluster_mongod: Mongod
) -> None:
    shared = f"shared-{uuid4()}"
    mine = Tenant(client).provision(database=shared, **{"policy-on-delete": "drop"})
    other = Tenant(client).provision(database=shared)
    credentials = mine.bind()
    write(credentials)
    ended = mine.end(client.deprovision(mine.instance_id))
    assert ended.json["state"] == "failed"
    assert ended.json["instance_usable"] is True
    assert ended.description == (
        f"The database {shared} on {CLUSTER} is not dropped: the instance {other.instance_id} uses it too. "
        "Delete that first, or set policy-on-delete to retain."
    )
    assert all(works(given) for given in (credentials, mine.bind()))
    other.deprovision()
    assert database_exists(cluster_mongod, shared)
    mine.deprovision()
    assert not database_exists(cluster_mongod, shared)
    assert atlas.users() == []
