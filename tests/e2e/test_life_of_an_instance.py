from functools import partial
from uuid import uuid4

import pytest

from tests.books import kept_credentials
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.life import database_exists, live, refused, write
from tests.osb_client import IN_PROGRESS, OsbClient
from tests.tenant import CLUSTER, Tenant, eventually, together, works

USERS = "/groups/{groupId}/databaseUsers"


@pytest.fixture
def tenant(client: OsbClient, atlas: Emulator) -> Tenant:
    """With an instance; whatever is changed in Atlas is undone afterwards."""
    assert atlas.users() == []
    return Tenant(client).provision()


def test_an_instance_with_two_bindings_lives_from_provision_to_deprovision(
    client: OsbClient, atlas: Emulator, cluster_mongod: Mongod
) -> None:
    live(client, atlas, cluster_mongod)


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
