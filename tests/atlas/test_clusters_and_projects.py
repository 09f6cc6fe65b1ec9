"""Section 6: clusters of every kind and state, their connection strings, and several projects with their keys."""

import json
import time

import pytest

from broker_api.state.housekeeping import RECENT_SECONDS, RECONCILED
from tests.atlas.broker import MAIN, OTHER, Broker, log_in, new_id, strings_of
from tests.atlas.operator_config import ENDPOINT_PLAN, PINNED_CLUSTER, PINNED_PLAN, PRIVATE_PLAN
from tests.emulator.client import Emulator
from tests.osb_client import Json
from tests.tenant import eventually, works
from workers.maintenance.reconcile import ReconcileError, reconcile

THREE_HOSTS = "mongodb://h1:27017,h2:27018,h3:27019/?ssl=true&authSource=admin&replicaSet=atlas-abcdef-shard-0"
PRIVATE = {
    "standard": "mongodb://public:27017/?authSource=admin",
    "standardSrv": "mongodb+srv://c.abcde.example.net",
    "private": "mongodb://c-pri:27017/?authSource=admin",
    "privateSrv": "mongodb+srv://c-pri.abcde.example.net",
    "privateEndpoint": [
        {
            "connectionString": "mongodb://pl-0:1024,pl-0:1025/?authSource=admin",
            "srvConnectionString": "mongodb+srv://c-pl-0.abcde.example.net",
            "type": "MONGOD",
            "endpoints": [],
        }
    ],
}


@pytest.fixture(scope="module", autouse=True)
def created_meanwhile(_broker: Broker) -> str:
    """An instance on a cluster that is being created, which the other tests give time to."""
    cluster, instance = _broker.cluster(state="CREATING"), new_id()
    _broker.client.provision(instance, {"cluster": cluster, "project": MAIN})
    waiting = f"Waiting until the cluster {cluster} has been created."
    eventually(lambda: _broker.client.last_operation(instance).description == waiting)
    _broker.atlas.put_cluster(cluster, state="IDLE")
    return instance


# --- kinds and states


@pytest.mark.parametrize("kind", ["dedicated", "free", "flex"])
def test_users_work_on_a_cluster_of_each_kind(broker: Broker, kind: str) -> None:
    log_in(broker.bind(broker.instance(broker.cluster(kind=kind))))


def test_a_cluster_that_is_being_changed_can_be_used(broker: Broker) -> None:
    """Section 4: users live in the project and can be made while a cluster is UPDATING."""
    log_in(broker.bind(broker.instance(broker.cluster(state="UPDATING"))))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"paused": True}, "The cluster {} is paused; resume it first."),
        ({"state": "DELETING"}, "The cluster {} is being deleted."),
        ({"kind": "flex", "state": "DELETING"}, "The cluster {} is being deleted."),
    ],
)
def test_no_instance_is_made_on_a_cluster_that_cannot_be_used(broker: Broker, settings: Json, sentence: str) -> None:
    cluster = broker.cluster(**settings)
    _, ended = broker.provision({"cluster": cluster, "project": MAIN})
    assert (ended.state, ended.description) == ("failed", sentence.format(cluster))


def test_a_missing_cluster_is_named(broker: Broker) -> None:
    _, ended = broker.provision({"cluster": "nowhere", "project": MAIN})
    assert (ended.state, ended.description) == ("failed", "The cluster nowhere is not available on Atlas.")


def test_a_free_cluster_whose_standard_string_comes_later_is_used_by_its_srv(broker: Broker) -> None:
    cluster = broker.cluster(kind="free", connection_strings={"standardSrv": "mongodb+srv://c.abcde.example.net"})
    credentials = broker.bind(broker.instance(cluster))
    assert credentials["uri"].startswith("mongodb+srv://")
    assert credentials["uri"] == credentials["connectionString"]


def test_a_bind_on_a_cluster_that_was_paused_meanwhile_fails_once_that_is_known(broker: Broker) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster)
    broker.atlas.put_cluster(cluster, paused=True)
    read_again(broker, cluster)
    assert broker.failed_bind(instance) == f"The cluster {cluster} is paused; resume it first."
    broker.atlas.put_cluster(cluster, paused=False)
    log_in(broker.bind(instance))


def test_a_bind_fails_when_its_cluster_is_deleted_and_leaves_no_user(broker: Broker, atlas: Emulator) -> None:
    """Users can be made for a cluster that does not exist (a case of the Kubernetes operator): they never work."""
    cluster = broker.cluster()
    instance = broker.instance(cluster)
    atlas.apply_by_hand()
    binding = broker.start_bind(instance)
    eventually(lambda: broker.user(binding))
    atlas.delete_cluster(cluster)
    assert broker.failure(instance, binding) == f"The cluster {cluster} does not exist any more."
    assert broker.user(binding) is None


def test_unbind_and_deprovision_succeed_when_the_cluster_is_gone(broker: Broker, atlas: Emulator) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster, **{"policy-on-delete": "drop"})
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    atlas.delete_cluster(cluster)
    broker.unbind(instance, binding)
    read_again(broker, cluster)
    broker.client.deprovision(instance)
    assert broker.client.wait(instance).state in ("succeeded", "gone")


# --- connection strings


@pytest.mark.parametrize(
    ("way", "uri", "srv"),
    [
        ("standard", "public:27017", "c.abcde.example.net"),
        ("private", "c-pri:27017", "c-pri.abcde.example.net"),
        ("private-endpoint", "pl-0:1024,pl-0:1025", "c-pl-0.abcde.example.net"),
    ],
)
def test_the_way_to_connect_is_a_parameter(broker: Broker, way: str, uri: str, srv: str) -> None:
    credentials = broker.bind(broker.instance(broker.cluster(connection_strings=PRIVATE), connection=way))
    assert f"@{uri}/" in credentials["uri"]
    assert f"@{srv}/" in credentials["connectionString"]


EVIL = "mongodb://c-shard-00-00.abcde.example.net:27017,c.abcde.example.org:27017/?authSource=admin"


def test_no_application_is_sent_to_a_host_outside_the_clusters_own_domain(broker: Broker) -> None:
    own = {"standardSrv": "mongodb+srv://c.abcde.example.net"}
    cluster = broker.cluster(connection_strings=own | {"standard": EVIL})
    outside = "lead to c.abcde.example.org, which is not under the cluster's own domain abcde.example.net"
    _, ended = broker.provision({"cluster": cluster, "project": MAIN})
    assert (ended.state, outside in ended.description) == ("failed", True)
    broker.atlas.put_cluster(cluster, connection_strings=own | {"standard": EVIL.replace(".org", ".net")})
    instance = broker.instance(cluster)
    broker.atlas.put_cluster(cluster, connection_strings=own | {"standard": EVIL})
    read_again(broker, cluster)
    assert outside in broker.failed_bind(instance)


def test_the_way_to_connect_is_the_plans(broker: Broker) -> None:
    fields = {"plan_id": PRIVATE_PLAN}
    parameters = {"cluster": broker.cluster(connection_strings=PRIVATE), "project": MAIN}
    refused = broker.client.provision("never", {**parameters, "connection": "standard"}, fields=fields)
    assert (refused.status, refused.description) == (
        400,
        "parameters.connection cannot be chosen: the plan decides it.",
    )
    instance, _ = broker.provision(parameters, fields=fields)
    broker.client.bind(instance, f"b-{instance}", fields=fields)
    assert "@c-pri:27017/" in broker.credentials(instance, f"b-{instance}")["uri"]


def test_a_cluster_without_private_strings_says_so(broker: Broker) -> None:
    cluster = broker.cluster()
    _, ended = broker.provision({"cluster": cluster, "project": MAIN, "connection": "private"})
    assert ended.description == f"The cluster {cluster} has no private connection string."
    instance = broker.instance(cluster)
    broker.client.update(instance, {"connection": "private-endpoint"})
    assert broker.failure(instance) == f"The cluster {cluster} has no private-endpoint connection string."


def private_endpoints(*entries: tuple[str, str]) -> dict[str, object]:
    """Connection strings of a cluster with several private endpoints, each with its id and region."""
    return {
        "standard": "mongodb://public:27017/?authSource=admin",
        "privateEndpoint": [
            {
                "connectionString": f"mongodb://pl-{endpoint}:1024/?authSource=admin",
                "srvConnectionString": f"mongodb+srv://c-pl-{endpoint}.abcde.example.net",
                "type": "MONGOD",
                "endpoints": [{"endpointId": endpoint, "providerName": "AWS", "region": region}],
            }
            for endpoint, region in entries
        ],
    }


SEVERAL = (("vpce-1", "US_EAST_1"), ("vpce-2", "EU_WEST_1"), ("vpce-3", "EU_WEST_1"))


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("vpce-2", "pl-vpce-2"), ("VPCE-3", "pl-vpce-3"), ("US_EAST_1", "pl-vpce-1"), ("us-east-1", "pl-vpce-1")],
)
def test_one_of_several_private_endpoints_is_chosen_by_its_id_or_region(
    broker: Broker, endpoint: str, host: str
) -> None:
    cluster = broker.cluster(connection_strings=private_endpoints(*SEVERAL))
    instance = broker.instance(cluster, connection="private-endpoint", endpoint=endpoint)
    credentials = broker.bind(instance)
    assert f"@{host}:1024/" in credentials["uri"]
    assert f"@c-{host}.abcde.example.net/" in credentials["connectionString"]


def test_without_a_choice_the_first_private_endpoint_is_used_with_a_warning(broker: Broker) -> None:
    cluster = broker.cluster(connection_strings=private_endpoints(*SEVERAL))
    instance = broker.instance(cluster, connection="private-endpoint")
    assert "@pl-vpce-1:1024/" in broker.bind(instance)["uri"]
    warned = [line for line in broker.logs().splitlines() if "private_endpoint_not_chosen" in line and cluster in line]
    assert "vpce-2 (EU_WEST_1)" in warned[0]
    broker.client.update(instance, {"endpoint": "vpce-2"})
    assert broker.client.wait(instance).state == "succeeded"
    assert "@pl-vpce-2:1024/" in broker.bind(instance)["uri"]
    broker.client.update(instance, {"endpoint": "vpce-9"})
    assert "has no private endpoint vpce-9" in broker.failure(instance)
    assert "@pl-vpce-2:1024/" in broker.bind(instance)["uri"]


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (
            "vpce-9",
            "has no private endpoint vpce-9; it has vpce-1 (US_EAST_1), vpce-2 (EU_WEST_1), vpce-3 (EU_WEST_1).",
        ),
        (
            "EU_WEST_1",
            (
                "has several private endpoints in EU_WEST_1: vpce-2 (EU_WEST_1), vpce-3 (EU_WEST_1). "
                "Name one by its id as endpoint."
            ),
        ),
    ],
)
def test_a_private_endpoint_that_is_not_one_is_refused_with_those_that_there_are(
    broker: Broker, endpoint: str, sentence: str
) -> None:
    cluster = broker.cluster(connection_strings=private_endpoints(*SEVERAL))
    parameters = {"cluster": cluster, "project": MAIN, "connection": "private-endpoint", "endpoint": endpoint}
    _, ended = broker.provision(parameters)
    assert (ended.state, ended.description) == ("failed", f"The cluster {cluster} {sentence}")


def test_the_private_endpoint_is_the_plans(broker: Broker) -> None:
    fields = {"plan_id": ENDPOINT_PLAN}
    cluster = broker.cluster(connection_strings=private_endpoints(*SEVERAL))
    parameters = {"cluster": cluster, "project": MAIN}
    refused = broker.client.provision("never", {**parameters, "endpoint": "vpce-1"}, fields=fields)
    assert (refused.status, refused.description) == (400, "parameters.endpoint cannot be chosen: the plan decides it.")
    instance, _ = broker.provision(parameters, fields=fields)
    broker.client.bind(instance, f"b-{instance}", fields=fields)
    assert "@pl-vpce-3:1024/" in broker.credentials(instance, f"b-{instance}")["uri"]


def test_several_hosts_and_options_are_kept_and_the_user_is_escaped(broker: Broker) -> None:
    credentials = broker.bind(
        broker.instance(broker.cluster(connection_strings={"standard": THREE_HOSTS}), database="shop"),
        {"name": "a/b:c@d e"},
    )
    options = "ssl=true&authSource=admin&replicaSet=atlas-abcdef-shard-0"
    user = f"a%2Fb%3Ac%40d%20e:{credentials['password']}"
    assert credentials["uri"] == f"mongodb://{user}@h1:27017,h2:27018,h3:27019/shop?{options}"


def test_endpoints_name_every_host(broker: Broker) -> None:
    instance = broker.instance(broker.cluster(connection_strings={"standard": THREE_HOSTS}))
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    endpoints = broker.client.binding(instance, binding).json["endpoints"]
    assert [(each["host"], each["ports"]) for each in endpoints] == [
        ("h1", ["27017"]),
        ("h2", ["27018"]),
        ("h3", ["27019"]),
    ]


def test_connection_strings_are_read_again_when_they_are_old(broker: Broker) -> None:
    cluster = broker.cluster(connection_strings=PRIVATE)
    instance = broker.instance(cluster)
    assert "@public:27017/" in broker.bind(instance)["uri"]
    broker.atlas.put_cluster(cluster, connection_strings={"standard": strings_of(broker.stack.cluster)})
    read_again(broker, cluster)
    log_in(broker.bind(instance))


def read_again(broker: Broker, cluster: str) -> None:
    """Make what the broker knows of a cluster old: it reads again after a minute, and a test does not wait so long."""
    with broker.stack.state.client() as client:
        known = client[broker.stack.database]["instances_housekeeping"]
        known.update_one({"_id": f"connection/{MAIN}/{cluster}"}, [{"$set": {"read_again": "$$NOW"}}])
    time.sleep(RECENT_SECONDS)  # so long a worker trusts what it has read


# --- projects


def test_a_cluster_is_found_in_whichever_project_has_it(broker: Broker) -> None:
    cluster = broker.cluster(project=OTHER)
    instance, ended = broker.provision({"cluster": cluster})
    assert ended.state == "succeeded", ended.text
    binding = broker.start_bind(instance)
    log_in(broker.credentials(instance, binding))
    assert broker.user(binding, OTHER)
    assert not broker.user(binding, MAIN)


def test_a_cluster_name_that_two_projects_have_must_come_with_its_project(broker: Broker) -> None:
    cluster = broker.cluster()
    broker.atlas.put_cluster(cluster, project=OTHER)
    _, ended = broker.provision({"cluster": cluster})
    sentence = f"Several Atlas projects have a cluster {cluster}: {MAIN}, {OTHER}. Name one as project."
    assert (ended.state, ended.description) == ("failed", sentence)
    assert works(broker.bind(broker.instance(cluster, project=OTHER)))


def test_a_project_without_credentials_is_refused(broker: Broker) -> None:
    _, ended = broker.provision({"cluster": "c", "project": "f" * 24})
    assert ended.description == f"The broker has no credentials for the Atlas project {'f' * 24}."


def test_a_project_that_the_key_may_not_read_keeps_no_other_from_being_compared(broker: Broker) -> None:
    instance = broker.instance(broker.cluster(project=OTHER), project=OTHER)
    binding = broker.start_bind(instance)
    broker.credentials(instance, binding)
    broker.context.projects[OTHER].guarded().delete_user(binding)
    broker.atlas.fail("GET", f"/groups/{MAIN}/databaseUsers", times=None, status=403, error_code="USER_UNAUTHORIZED")
    with pytest.raises(ReconcileError, match=rf"1 of \d projects not compared\. Project {MAIN}: "):
        reconcile(broker.context, repair=False)
    found = broker.context.housekeeping.read(RECONCILED)
    assert json.loads(found["not_compared"]).keys() == {MAIN}
    assert {"binding_without_user": binding, "project": OTHER} in json.loads(found["differences"])


def test_a_plan_that_pins_project_and_cluster_needs_no_parameter(broker: Broker) -> None:
    broker.atlas.put_cluster(PINNED_CLUSTER, project=OTHER)
    fields = {"plan_id": PINNED_PLAN}
    instance, ended = broker.provision(None, fields=fields)
    assert ended.state == "succeeded", ended.text
    broker.client.bind(instance, f"b-{instance}", fields=fields)
    log_in(broker.credentials(instance, f"b-{instance}"))
    assert broker.user(f"b-{instance}", OTHER)


def test_a_provision_waits_until_its_cluster_has_been_created(broker: Broker, created_meanwhile: str) -> None:
    """Connection strings are empty until then; the wait costs one look in a quarter of a minute."""
    assert broker.client.wait(created_meanwhile).state == "succeeded"
    log_in(broker.bind(created_meanwhile))
