"""What the client asks Atlas for, word for word, and what it reads from the answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar, Unpack
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.atlas_stand_in import PROJECT, Heard, Reply, StandIn, cluster_body, refuse, say, user_body
from workers.atlas.client import (
    AccessEntry,
    AtlasClient,
    AtlasError,
    AtlasRole,
    Certificate,
    Cluster,
    ClusterLimitReached,
    ClusterNameTaken,
    ClusterNotFound,
    ClusterProtected,
    ConnectionStrings,
    DatabaseUser,
    EntryNotFound,
    NewCluster,
    OutOfCapacity,
    PaymentRequired,
    PrivateEndpoint,
    Refused,
    UnreadableAnswer,
    UserNotFound,
)
from workers.atlas.models import ClusterChanges, UserChanges, parse_certificate, parse_cluster, parse_flex

T = TypeVar("T")

GROUP = f"/api/atlas/v2/groups/{PROJECT}"
USER = DatabaseUser("b-1", (AtlasRole("readWrite", "shop"),), password="open-sesame-1")
ARN = "arn:aws:iam::123456789012:role/shop"
ENTRY = AccessEntry("10.0.0.0/8", "office")
DEDICATED = NewCluster("c1", "dedicated", "AWS", "EU_WEST_1", {"instance_id": "i-1"}, tier="M10")
FLEX = {
    "backupSettings": {"enabled": True},
    "clusterType": "REPLICASET",
    "connectionStrings": {"standardSrv": "mongodb+srv://f1.swzm1ku.mongodb-dev.net"},
    "mongoDBVersion": "8.0.29",
    "name": "f1",
    "providerSettings": {"backingProviderName": "AWS", "providerName": "FLEX", "regionName": "US_EAST_1"},
    "stateName": "CREATING",
}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIF\n-----END CERTIFICATE-----\n"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMIIJ\n-----END PRIVATE KEY-----\n"


def heard(reply: Reply, ask: Callable[[AtlasClient], object]) -> Heard:
    with StandIn(lambda _: reply) as atlas:
        ask(atlas.client())
        assert len(atlas.heard) == 1
        return atlas.heard[0]


def told(body: object, ask: Callable[[AtlasClient], T]) -> T:
    with StandIn(lambda _: say(200, body)) as atlas:
        return ask(atlas.client())


# --- requests ---

OPERATIONS: list[tuple[str, str, str, Reply, Callable[[AtlasClient], object]]] = [
    ("GET", GROUP, "2023-01-01", say(200, {"id": PROJECT}), lambda c: c.project()),
    ("GET", f"{GROUP}/clusters/c1", "2024-08-05", say(200, cluster_body()), lambda c: c.cluster("c1")),
    (
        "GET",
        f"{GROUP}/clusters/c1/status",
        "2023-01-01",
        say(200, {"changeStatus": "APPLIED"}),
        lambda c: c.cluster_status("c1"),
    ),
    ("POST", f"{GROUP}/databaseUsers", "2023-01-01", say(201, user_body()), lambda c: c.create_user(USER)),
    ("GET", f"{GROUP}/databaseUsers/admin/b-1", "2023-01-01", say(200, user_body()), lambda c: c.user("b-1")),
    (
        "PATCH",
        f"{GROUP}/databaseUsers/admin/b-1",
        "2023-01-01",
        say(200, user_body()),
        lambda c: c.update_user("b-1", password="x"),
    ),
    ("DELETE", f"{GROUP}/databaseUsers/admin/b-1", "2023-01-01", say(204), lambda c: c.delete_user("b-1")),
    ("GET", f"{GROUP}/databaseUsers", "2023-01-01", say(200, {"results": []}), lambda c: list(c.users())),
    ("GET", f"{GROUP}/accessList", "2023-01-01", say(200, {"results": []}), lambda c: c.access_list()),
    ("POST", f"{GROUP}/accessList", "2023-01-01", say(201, {"results": []}), lambda c: c.add_access_entry(ENTRY)),
    (
        "GET",
        f"{GROUP}/accessList/10.0.0.0%2F8/status",
        "2023-01-01",
        say(200, {"STATUS": "PENDING"}),
        lambda c: c.access_status("10.0.0.0/8"),
    ),
    (
        "DELETE",
        f"{GROUP}/accessList/10.0.0.0%2F8",
        "2023-01-01",
        say(204),
        lambda c: c.delete_access_entry("10.0.0.0/8"),
    ),
    ("POST", f"{GROUP}/clusters", "2024-10-23", say(201, cluster_body()), lambda c: c.create_cluster(DEDICATED)),
    (
        "PATCH",
        f"{GROUP}/clusters/c1",
        "2024-10-23",
        say(200, cluster_body()),
        lambda c: c.update_cluster(parse_cluster(cluster_body()), backup=False),
    ),
    ("DELETE", f"{GROUP}/clusters/c1", "2023-02-01", say(202, {}), lambda c: c.delete_cluster("c1", "dedicated")),
    (
        "POST",
        f"{GROUP}/flexClusters",
        "2024-11-13",
        say(201, FLEX),
        lambda c: c.create_cluster(NewCluster("f1", "flex", "AWS", "US_EAST_1")),
    ),
    (
        "PATCH",
        f"{GROUP}/flexClusters/f1",
        "2024-11-13",
        say(200, FLEX),
        lambda c: c.update_cluster(parse_flex(FLEX), termination_protection=True),
    ),
    ("DELETE", f"{GROUP}/flexClusters/f1", "2024-11-13", say(204), lambda c: c.delete_cluster("f1", "flex")),
    (
        "GET",
        f"{GROUP}/databaseUsers/%24external/{ARN.replace(':', '%3A').replace('/', '%2F')}",
        "2023-01-01",
        say(200, user_body(ARN, databaseName="$external", awsIAMType="ROLE")),
        lambda c: c.user(ARN, "$external"),
    ),
    (
        "POST",
        f"{GROUP}/databaseUsers/b-1/certs",
        "2023-01-01",
        say(201, CERTIFICATE.encode() + PRIVATE_KEY.encode()),
        lambda c: c.create_certificate("b-1", 12),
    ),
    (
        "GET",
        f"{GROUP}/limits/atlas.project.security.databaseAccess.users",
        "2023-01-01",
        say(200, {"value": 100}),
        lambda c: c.user_limit(),
    ),
    ("GET", "/api/atlas/v2", "2023-01-01", say(200, {}), lambda c: c.key_roles()),
]


@pytest.mark.parametrize(("method", "path", "version", "reply", "ask"), OPERATIONS)
def test_every_operation_asks_for_its_exact_version(
    method: str, path: str, version: str, reply: Reply, ask: Callable[[AtlasClient], object]
) -> None:
    request = heard(reply, ask)
    assert (request.method, urlsplit(request.target).path) == (method, path)
    assert request.headers["accept"] == f"application/vnd.atlas.{version}+json"


def test_flex_clusters_have_a_version_of_their_own() -> None:
    with StandIn(lambda _: say(200, {"results": []})) as atlas:
        atlas.client().clusters()
        asked = {urlsplit(heard.target).path: heard.headers["accept"] for heard in atlas.heard}
    assert asked == {
        f"{GROUP}/clusters": "application/vnd.atlas.2024-08-05+json",
        f"{GROUP}/flexClusters": "application/vnd.atlas.2024-11-13+json",
    }


def test_a_body_is_plain_json() -> None:
    assert heard(say(201, user_body()), lambda c: c.create_user(USER)).headers["content-type"] == "application/json"


def test_a_user_is_made_with_all_that_it_needs_and_a_role_always_names_its_database() -> None:
    user = DatabaseUser(
        "b-1",
        (AtlasRole("readWrite", "shop"), AtlasRole("read", "shop", "orders")),
        scopes=("c1",),
        labels={"instance": "i-1", "binding": "b-1"},
        password="open-sesame-1",
        description="made by the broker",
        delete_after=datetime(2026, 8, 11, 5, 5, 41, 999, timezone(timedelta(hours=2))),
    )
    assert heard(say(201, user_body()), lambda c: c.create_user(user)).json() == {
        "username": "b-1",
        "databaseName": "admin",
        "groupId": PROJECT,
        "password": "open-sesame-1",
        "roles": [
            {"roleName": "readWrite", "databaseName": "shop"},
            {"roleName": "read", "databaseName": "shop", "collectionName": "orders"},
        ],
        "scopes": [{"name": "c1", "type": "CLUSTER"}],
        "labels": [{"key": "instance", "value": "i-1"}, {"key": "binding", "value": "b-1"}],
        "description": "made by the broker",
        "deleteAfterDate": "2026-08-11T03:05:41Z",
    }


def test_a_custom_role_stands_on_the_database_admin() -> None:
    user = DatabaseUser("b-1", (AtlasRole("auditor", "admin"),))
    assert heard(say(201, user_body()), lambda c: c.create_user(user)).json()["roles"] == [
        {"roleName": "auditor", "databaseName": "admin"}
    ]


def test_an_update_sends_only_what_changes() -> None:
    def sent(**changes: Unpack[UserChanges]) -> dict[str, object]:
        body: dict[str, object] = heard(say(200, user_body()), lambda c: c.update_user("b-1", **changes)).json()
        assert (body.pop("username"), body.pop("databaseName"), body.pop("groupId")) == ("b-1", "admin", PROJECT)
        return body

    assert sent(password="new-password") == {"password": "new-password"}
    assert sent(roles=(AtlasRole("read", "shop"),)) == {"roles": [{"roleName": "read", "databaseName": "shop"}]}
    assert sent(labels={}, scopes=()) == {"labels": [], "scopes": []}
    assert sent(delete_after=datetime(2026, 1, 1, tzinfo=UTC)) == {"deleteAfterDate": "2026-01-01T00:00:00Z"}
    assert sent(description="d") == {"description": "d"}


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("a:b", "a%3Ab"),
        ("a%2Fb", "a%252Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("gr\u00fcn", "gr%C3%BCn"),
        ("CN=x,OU=y", "CN%3Dx%2COU%3Dy"),
        ("a..b", "a..b"),
        ("...", "..."),
        ("a\\b\n", "a%5Cb%0A"),
    ],
)
def test_a_user_name_is_one_path_segment_encoded_once(name: str, segment: str) -> None:
    assert heard(say(204), lambda c: c.delete_user(name)).target == f"{GROUP}/databaseUsers/admin/{segment}"


@pytest.mark.parametrize("name", ["", ".", "..", "\ud800"])
def test_a_name_that_no_path_can_carry_is_never_sent(name: str) -> None:
    with StandIn(lambda _: say(204)) as atlas:
        for ask in (atlas.client().delete_user, atlas.client().user, atlas.client().cluster):
            with pytest.raises(Refused) as caught:
                ask(name)
            assert not caught.value.sent
            assert not caught.value.retryable
            assert not isinstance(caught.value, UserNotFound)
        assert atlas.heard == []


# --- clusters ---


def test_a_dedicated_cluster_is_read_with_its_connection_strings() -> None:
    assert told(cluster_body(), lambda c: c.cluster("c1")) == Cluster(
        name="c1",
        state="IDLE",
        paused=False,
        kind="dedicated",
        connection_strings=ConnectionStrings(
            standard=(
                "mongodb://h1:27017,h2:27017,h3:27017/?ssl=true&authSource=admin&replicaSet=atlas-6pz0v4-shard-0"
            ),
            srv="mongodb+srv://c1.b2icth.mongodb-dev.net",
        ),
        version="8.0.29",
        provider="AWS",
        region="US_EAST_1",
        major_version="8.0",
        backup=False,
    )


def test_a_cluster_being_created_has_no_connection_strings() -> None:
    body = cluster_body(connectionStrings={}, stateName="CREATING", mongoDBVersion=None)
    cluster = told(body, lambda c: c.cluster("c1"))
    assert cluster.connection_strings == ConnectionStrings()
    assert (cluster.state, cluster.version) == ("CREATING", "8.0")


@pytest.mark.parametrize("state", ["UPDATING", "DELETING", "REPAIRING", "SOMETHING_NEW"])
def test_states_are_read_as_they_come(state: str) -> None:
    assert told(cluster_body(stateName=state), lambda c: c.cluster("c1")).state == state


def test_a_paused_cluster_is_read() -> None:
    assert told(cluster_body(paused=True), lambda c: c.cluster("c1")).paused


def test_a_free_cluster_is_told_by_its_provider() -> None:
    body = cluster_body(replicationSpecs=[{"regionConfigs": [{"providerName": "TENANT"}]}])
    assert told(body, lambda c: c.cluster("c1")).kind == "free"


def test_private_strings_and_private_endpoints_are_read() -> None:
    strings = {
        "awsPrivateLinkSrv": {},
        "private": "mongodb://p1,p2/?ssl=true",
        "privateSrv": "mongodb+srv://p",
        "privateEndpoint": [
            {
                "connectionString": "mongodb://e1,e2",
                "srvConnectionString": "mongodb+srv://e",
                "srvShardOptimizedConnectionString": "mongodb+srv://e-lb",
                "type": "MONGOD",
                "endpoints": [{"endpointId": "vpce-1", "providerName": "AWS", "region": "US_EAST_1"}, {}],
            }
        ],
    }
    read = told(cluster_body(connectionStrings=strings), lambda c: c.cluster("c1")).connection_strings
    assert (read.private, read.private_srv) == ("mongodb://p1,p2/?ssl=true", "mongodb+srv://p")
    assert read.private_endpoints == (
        PrivateEndpoint(
            "mongodb://e1,e2", "mongodb+srv://e", "mongodb+srv://e-lb", "MONGOD", ("vpce-1",), ("US_EAST_1",)
        ),
    )


def test_a_flex_cluster_that_the_clusters_api_refuses_is_asked_of_the_flex_api() -> None:
    def script(heard: Heard) -> Reply:
        if "flexClusters" in heard.target:
            return say(200, FLEX)
        return refuse(400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API", "Flex.", ["f1"])

    with StandIn(script) as atlas:
        cluster = atlas.client().cluster("f1")
        assert atlas.heard[1].headers["accept"] == "application/vnd.atlas.2024-11-13+json"
    assert (cluster.kind, cluster.state, cluster.paused) == ("flex", "CREATING", False)
    assert (cluster.provider, cluster.region, cluster.tier) == ("AWS", "US_EAST_1", None)
    assert cluster.connection_strings == ConnectionStrings(srv="mongodb+srv://f1.swzm1ku.mongodb-dev.net")


def test_a_cluster_is_asked_of_the_api_of_the_expected_kind_first() -> None:
    def script(heard: Heard) -> Reply:
        if "flexClusters" not in heard.target:
            return say(200, cluster_body())
        return (
            say(200, FLEX) if heard.target.endswith("/f1") else refuse(400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API")
        )

    with StandIn(script) as atlas:
        assert [atlas.client().cluster(name, "flex").kind for name in ("f1", "c1")] == ["flex", "dedicated"]
        assert len(atlas.heard) == 3


def test_a_cluster_missing_in_either_api_is_missing() -> None:
    def script(heard: Heard) -> Reply:
        missing = "flexClusters" in heard.target or heard.target.endswith("/c1")
        return refuse(*((404, "CLUSTER_NOT_FOUND") if missing else (400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API")))

    with StandIn(script) as atlas:
        for name in ("c1", "f1"):
            with pytest.raises(Refused) as caught:
                atlas.client().cluster(name)
            assert isinstance(caught.value, ClusterNotFound)


def test_all_kinds_of_clusters_are_listed() -> None:
    def script(heard: Heard) -> Reply:
        body = FLEX if "flexClusters" in heard.target else cluster_body()
        return say(200, {"results": [body], "totalCount": 1, "links": []})

    with StandIn(script) as atlas:
        assert [(each.name, each.kind) for each in atlas.client().clusters()] == [("c1", "dedicated"), ("f1", "flex")]


@pytest.mark.parametrize("missing", ["name", "stateName"])
def test_a_cluster_without_what_is_needed_makes_no_sense(missing: str) -> None:
    body = {key: value for key, value in cluster_body().items() if key != missing}
    with pytest.raises(UnreadableAnswer, match=missing):
        told(body, lambda c: c.cluster("c1"))


@pytest.mark.parametrize(
    "more",
    [
        {"connectionStrings": "none"},
        {"connectionStrings": {"standard": 7}},
        {"connectionStrings": {"privateEndpoint": {}}},
        {"replicationSpecs": [7]},
        {"mongoDBVersion": 8},
    ],
)
def test_a_cluster_with_parts_of_another_shape_makes_no_sense(more: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        told(cluster_body(**more), lambda c: c.cluster("c1"))


REGION = {
    "analyticsSpecs": {"instanceSize": "M10", "diskIOPS": 3000, "diskSizeGB": 10.0, "nodeCount": 0},
    "autoScaling": {"compute": {"enabled": False}},
    "effectiveElectableSpecs": {"instanceSize": "M10", "diskSizeGB": 10.0, "nodeCount": 3},
    "electableSpecs": {
        "instanceSize": "M10",
        "diskIOPS": 3000,
        "diskSizeGB": 10.0,
        "ebsVolumeType": "STANDARD",
        "nodeCount": 3,
    },
    "priority": 7,
    "providerName": "AWS",
    "regionName": "EU_WEST_1",
}
TAGGED = cluster_body(
    tags=[{"key": "instance_id", "value": "i-1"}],
    terminationProtectionEnabled=True,
    backupEnabled=True,
    replicationSpecs=[{"id": "r1", "zoneId": "z1", "zoneName": "Zone 1", "regionConfigs": [REGION]}],
)


def test_the_settings_of_a_cluster_are_read() -> None:
    cluster = told(TAGGED, lambda c: c.cluster("c1"))
    assert (cluster.tags, cluster.termination_protection, cluster.backup) == ({"instance_id": "i-1"}, True, True)
    assert (cluster.provider, cluster.region, cluster.tier, cluster.disk_size_gb) == ("AWS", "EU_WEST_1", "M10", 10.0)


def test_a_dedicated_cluster_is_created_with_what_is_given() -> None:
    body = heard(say(201, cluster_body()), lambda c: c.create_cluster(DEDICATED)).json()
    nodes = {"instanceSize": "M10", "nodeCount": 3}
    region = {"providerName": "AWS", "regionName": "EU_WEST_1", "priority": 7, "electableSpecs": nodes}
    assert body == {
        "name": "c1",
        "tags": [{"key": "instance_id", "value": "i-1"}],
        "terminationProtectionEnabled": False,
        "clusterType": "REPLICASET",
        "replicationSpecs": [{"regionConfigs": [region]}],
    }
    full = replace(DEDICATED, disk_size_gb=40, major_version="8.0", backup=True)
    body = heard(say(201, cluster_body()), lambda c: c.create_cluster(full)).json()
    assert (body["mongoDBMajorVersion"], body["backupEnabled"]) == ("8.0", True)
    assert body["replicationSpecs"][0]["regionConfigs"][0]["electableSpecs"] == nodes | {"diskSizeGB": 40}


def test_a_flex_cluster_is_created_in_a_region() -> None:
    new = NewCluster("f1", "flex", "GCP", "WESTERN_EUROPE", {"atlas-broker": "b"}, termination_protection=True)
    assert heard(say(201, FLEX), lambda c: c.create_cluster(new)).json() == {
        "name": "f1",
        "tags": [{"key": "atlas-broker", "value": "b"}],
        "terminationProtectionEnabled": True,
        "providerSettings": {"backingProviderName": "GCP", "regionName": "WESTERN_EUROPE"},
    }


def test_a_change_of_a_cluster_sends_only_what_changes_and_regions_as_a_whole() -> None:
    def sent(**changes: Unpack[ClusterChanges]) -> object:
        return heard(say(200, TAGGED), lambda c: c.update_cluster(parse_cluster(TAGGED), **changes)).json()

    assert sent(termination_protection=False) == {"terminationProtectionEnabled": False}
    assert sent(major_version="8.0", backup=False) == {"mongoDBMajorVersion": "8.0", "backupEnabled": False}
    assert sent(tags={}) == {"tags": []}
    nodes = {"instanceSize": "M20", "diskSizeGB": 10.0, "ebsVolumeType": "STANDARD", "nodeCount": 3}
    region = {name: REGION[name] for name in ("autoScaling", "priority", "providerName", "regionName")}
    spec = {"id": "r1", "zoneName": "Zone 1", "regionConfigs": [region | {"electableSpecs": nodes}]}
    assert sent(tier="M20") == {"replicationSpecs": [spec]}
    spec["regionConfigs"] = [region | {"electableSpecs": nodes | {"instanceSize": "M10", "diskSizeGB": 40}}]
    assert sent(disk_size_gb=40) == {"replicationSpecs": [spec]}


def test_a_tag_without_a_value_is_no_reason_not_to_read_a_cluster() -> None:
    body = cluster_body(tags=[{"key": "team", "value": ""}, {"key": "cost", "value": None}])
    assert told(body, lambda c: c.cluster("c1")).tags == {"team": "", "cost": ""}


def test_a_deletion_is_accepted_with_and_without_a_body() -> None:
    for reply in (say(202, {}), say(202)):
        heard(reply, lambda c: c.delete_cluster("c1", "dedicated"))
    with pytest.raises(UnreadableAnswer):
        heard(say(200), lambda c: c.delete_cluster("c1", "dedicated"))


def test_a_deletion_that_is_under_way_already_is_no_error() -> None:
    refused = refuse(400, "CLUSTER_ALREADY_REQUESTED_DELETION", "The cluster c1 has already been requested.", ["c1"])
    heard(refused, lambda c: c.delete_cluster("c1", "dedicated"))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "DUPLICATE_CLUSTER_NAME", ClusterNameTaken),
        (400, "DUPLICATE_CLUSTER_NAME_PREFIX", ClusterNameTaken),
        (400, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED", ClusterProtected),
        (400, "CLUSTER_LIMIT_EXCEEDED", ClusterLimitReached),
        (403, "CLUSTER_LIMIT_REACHED", ClusterLimitReached),
        (403, "CROSS_REGION_NODES_LIMIT_EXCEEDED", ClusterLimitReached),
        (402, "NO_PAYMENT_INFORMATION_FOUND", PaymentRequired),
        (402, "ACCOUNT_SUSPENDED", PaymentRequired),
        (409, "OUT_OF_CAPACITY", OutOfCapacity),
        (409, "NO_CAPACITY", OutOfCapacity),
        (404, "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND", EntryNotFound),
    ],
)
def test_what_atlas_does_not_allow_has_a_type_and_is_not_tried_again(
    status: int, code: str, kind: type[AtlasError]
) -> None:
    with pytest.raises(kind) as caught:
        heard(refuse(status, code), lambda c: c.create_cluster(DEDICATED))
    assert not caught.value.retryable


# --- users ---


def test_a_user_without_a_password_is_made_on_the_external_database() -> None:
    roles = (AtlasRole("read", "shop"),)

    def sent(user: DatabaseUser) -> dict[str, object]:
        return dict(heard(say(201, user_body()), lambda c: c.create_user(user)).json())

    body = sent(DatabaseUser(ARN, roles, database="$external", aws_iam="ROLE"))
    assert (body["username"], body["databaseName"], body["awsIAMType"]) == (ARN, "$external", "ROLE")
    assert not {"password", "x509Type"} & body.keys()
    body = sent(DatabaseUser("b-1", roles, database="$external", x509="MANAGED"))
    assert (body["databaseName"], body["x509Type"]) == ("$external", "MANAGED")
    assert not {"password", "awsIAMType"} & body.keys()


@pytest.mark.parametrize("body", [CERTIFICATE + PRIVATE_KEY, PRIVATE_KEY + CERTIFICATE])
@pytest.mark.parametrize("encode", [str.encode, lambda text: json.dumps(text).encode()])
def test_a_certificate_and_its_key_are_told_apart(body: str, encode: Callable[[str], bytes]) -> None:
    with StandIn(lambda _: say(201, encode(body))) as atlas:
        assert atlas.client().create_certificate("b-1", 6) == Certificate(CERTIFICATE, PRIVATE_KEY)
        assert atlas.heard[0].json() == {"monthsUntilExpiration": 6}
    assert "MIIJ" not in repr(Certificate(CERTIFICATE, PRIVATE_KEY))


def test_certificates_of_issuers_stay_behind_the_users_own() -> None:
    issuer = CERTIFICATE.replace("MIIF", "MIIC")
    with StandIn(lambda _: say(201, (CERTIFICATE + issuer + PRIVATE_KEY).encode())) as atlas:
        assert atlas.client().create_certificate("b-1", 6) == Certificate(CERTIFICATE + issuer, PRIVATE_KEY)


@pytest.mark.parametrize(
    "body", [CERTIFICATE, PRIVATE_KEY, f"{PRIVATE_KEY}{PRIVATE_KEY}{CERTIFICATE}", "<html/>", "{}"]
)
def test_an_answer_without_one_certificate_and_one_key_makes_no_sense(body: str) -> None:
    with StandIn(lambda _: say(201, body.encode())) as atlas, pytest.raises(UnreadableAnswer) as caught:
        atlas.client().create_certificate("b-1", 6)
    assert "MIIJ" not in str(caught.value)


def test_a_user_is_read_as_recorded_and_unknown_fields_are_ignored() -> None:
    body = user_body(
        labels=[{"key": "instance", "value": "i-1"}],
        scopes=[{"name": "c1", "type": "CLUSTER"}, {"name": "lake", "type": "DATA_LAKE"}],
        roles=[{"databaseName": "shop", "roleName": "read", "collectionName": "orders"}],
        deleteAfterDate="2026-08-11T03:05:41Z",
        description="made by the broker",
        somethingNew={"a": [1]},
    )
    assert told(body, lambda c: c.user("b-1")) == DatabaseUser(
        "b-1",
        (AtlasRole("read", "shop", "orders"),),
        scopes=("c1",),
        labels={"instance": "i-1"},
        description="made by the broker",
        delete_after=datetime(2026, 8, 11, 3, 5, 41, tzinfo=UTC),
    )


def test_a_user_of_another_authentication_database_is_told_apart() -> None:
    page = {"results": [user_body("CN=x", databaseName="$external", roles=[])]}
    assert told(page, lambda c: [user.database for user in c.users()]) == ["$external"]


@pytest.mark.parametrize(
    "more",
    [{"labels": [{"key": "instance"}]}, {"roles": [{"roleName": "read"}]}, {"deleteAfterDate": "soon"}, {"scopes": 7}],
)
def test_a_user_with_parts_of_another_shape_makes_no_sense(more: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        told(user_body(**more), lambda c: c.user("b-1"))


def test_a_password_is_in_no_repr() -> None:
    assert "open-sesame-1" not in repr(USER)


# --- pages ---


class Pages:
    """A project with `count` users, `most` a page whatever is asked for."""

    def __init__(self, count: int, most: int, *, totals: bool = True, links: bool = True) -> None:
        self.names = [f"b-{number}" for number in range(count)]
        self.most = most
        self.totals = totals
        self.links = links

    def __call__(self, heard: Heard) -> Reply:
        query = parse_qs(urlsplit(heard.target).query)
        number, size = int(query["pageNum"][0]), min(self.most, int(query["itemsPerPage"][0]))
        body: dict[str, object] = {
            "results": [user_body(name) for name in self.names[(number - 1) * size : number * size]]
        }
        if self.totals:
            body["totalCount"] = len(self.names)
        if self.links and number * size < len(self.names):
            body["links"] = [{"rel": "next", "href": "http://atlas/next"}]
        return say(200, body)


def listed(pages: Pages) -> tuple[list[str], int]:
    with StandIn(pages) as atlas:
        return [user.username for user in atlas.client().users()], len(atlas.heard)


def test_all_pages_are_read_five_hundred_at_a_time() -> None:
    pages = Pages(1100, most=500)
    assert listed(pages) == (pages.names, 3)


def test_a_list_is_complete_when_items_per_page_is_ignored() -> None:
    pages = Pages(250, most=100)
    assert listed(pages) == (pages.names, 3)


def test_a_list_is_complete_when_atlas_does_not_count() -> None:
    pages = Pages(250, most=100, totals=False)
    assert listed(pages) == (pages.names, 3)


def test_a_list_goes_on_while_it_has_a_next_page_whatever_it_counts() -> None:
    pages = iter(
        [
            {"results": [user_body("u-1"), user_body("u-2")], "totalCount": 2, "links": [{"rel": "next", "href": "x"}]},
            {"results": [user_body("u-3")], "totalCount": 1, "links": []},
        ]
    )
    with StandIn(lambda _: say(200, next(pages))) as atlas:
        assert [user.username for user in atlas.client().users()] == ["u-1", "u-2", "u-3"]


@pytest.mark.parametrize(("state", "status"), [("IDLE", "APPLIED"), ("UPDATING", "PENDING")])
def test_the_status_of_a_flex_cluster_that_only_its_own_api_knows(state: str, status: str) -> None:
    other = refuse(400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API")
    with StandIn(lambda asked: say(200, FLEX | {"stateName": state}) if "flex" in asked.target else other) as atlas:
        assert atlas.client().cluster_status("f1") == status


@pytest.mark.parametrize("lines", [("{}", "{}"), ("{}\r\n", "{}\r\n")], ids=["no line end", "CRLF"])
def test_certificate_and_key_stay_apart_whatever_ends_their_lines(lines: tuple[str, str]) -> None:
    key = lines[0].format("-----BEGIN PRIVATE KEY-----\r\na\r\n-----END PRIVATE KEY-----")
    issued = lines[1].format("-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----")
    made = parse_certificate({"text": key + issued})
    assert made.certificate == "-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n"
    assert made.private_key == "-----BEGIN PRIVATE KEY-----\na\n-----END PRIVATE KEY-----\n"


def test_the_status_of_an_access_entry_may_be_in_small_letters() -> None:
    with StandIn(lambda _: say(200, {"status": "ACTIVE"})) as atlas:
        assert atlas.client().access_status("10.0.0.0/8") == "ACTIVE"


def test_an_error_code_in_the_header_counts_where_the_body_has_none() -> None:
    with StandIn(lambda _: say(404, X_Error_Code="USERNAME_NOT_FOUND")) as atlas, pytest.raises(UserNotFound):
        atlas.client().delete_user("b-1")


def test_a_list_that_fits_costs_one_call() -> None:
    pages = Pages(100, most=500)
    assert listed(pages) == (pages.names, 1)


def test_a_count_that_is_too_high_ends_with_an_empty_page() -> None:
    always = say(200, {"results": [], "totalCount": 33})
    with StandIn(lambda _: always) as atlas:
        assert list(atlas.client().users()) == []
        assert len(atlas.heard) == 1


def test_a_list_without_an_end_is_given_up() -> None:
    same = say(200, {"results": [{"cidrBlock": "0.0.0.0/0"}], "links": [{"rel": "next", "href": "http://atlas/next"}]})
    with StandIn(lambda _: same) as atlas, pytest.raises(UnreadableAnswer, match="does not end"):
        atlas.client().access_list()


def test_a_page_that_fails_is_no_short_list() -> None:
    pages = Pages(250, most=100)

    def script(heard: Heard) -> Reply:
        return refuse(503, "SERVICE_UNAVAILABLE") if "pageNum=2" in heard.target else pages(heard)

    with StandIn(script) as atlas, pytest.raises(Refused):
        list(atlas.client().users())


# --- what `check` asks ---


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"name": "n", "value": 350, "defaultLimit": 100}, 350),
        ({"name": "n", "defaultLimit": 100, "value": None}, 100),
        ({"name": "n"}, None),
    ],
)
def test_the_limit_of_users_is_read(body: dict[str, object], limit: int | None) -> None:
    assert told(body, lambda c: c.user_limit()) == limit


def test_a_keys_roles_are_those_in_this_project_and_owner_of_the_organization() -> None:
    roles = [
        {"groupId": PROJECT, "roleName": "GROUP_READ_ONLY"},
        {"groupId": "another", "roleName": "GROUP_OWNER"},
        {"orgId": "org", "roleName": "ORG_MEMBER"},
    ]
    assert told({"apiKey": {"roles": roles}}, lambda c: c.key_roles()) == frozenset({"GROUP_READ_ONLY"})
    roles.append({"orgId": "org", "roleName": "ORG_OWNER"})
    assert told({"apiKey": {"roles": roles}}, lambda c: c.key_roles()) == frozenset({"GROUP_READ_ONLY", "ORG_OWNER"})


def test_a_service_accounts_roles_are_unknown() -> None:
    assert told({"appName": "MongoDB Atlas", "apiKey": None}, lambda c: c.key_roles()) is None


def test_the_access_list_is_read_and_added_to() -> None:
    entry = {"cidrBlock": "192.168.0.243/32", "comment": "test", "groupId": PROJECT, "ipAddress": "192.168.0.243"}
    by_address = {"cidrBlock": "203.0.113.7/24", "groupId": PROJECT}
    group = {"awsSecurityGroup": "sg-1", "groupId": PROJECT}
    listed = told({"results": [entry, by_address, group], "totalCount": 3}, lambda c: c.access_list())
    assert listed == [AccessEntry("192.168.0.243/32", "test"), AccessEntry("203.0.113.7/24"), AccessEntry(None)]
    assert [each.network and str(each.network) for each in listed] == ["192.168.0.243/32", "203.0.113.0/24", None]
    request = heard(say(201, {"results": []}), lambda c: c.add_access_entry(ENTRY))
    assert json.loads(request.body) == [{"cidrBlock": "10.0.0.0/8", "comment": "office"}]


@pytest.mark.parametrize("status", ["PENDING", "FAILED", "ACTIVE"])
def test_the_status_of_an_entry_is_in_capitals(status: str) -> None:
    assert told({"STATUS": status}, lambda c: c.access_status("10.0.0.0/8")) == status
    with pytest.raises(UnreadableAnswer):
        told({"STATUS": "SOMETHING_NEW"}, lambda c: c.access_status("10.0.0.0/8"))


def test_no_body_of_a_get_or_delete_is_sent() -> None:
    request = heard(say(204), lambda c: c.delete_user("b-1"))
    assert request.body == b""
    assert json.dumps(request.headers).lower().count("content-type") == 0
