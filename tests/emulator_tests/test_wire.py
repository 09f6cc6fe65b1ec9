"""What recorded answers of Atlas show, for each call that the broker makes: status, headers, shape of the body."""

import re
from collections.abc import Sequence
from urllib.parse import quote

import pytest
import requests

from tests.emulator.client import Emulator
from tests.emulator_tests.conftest import CLUSTERS, FIRST, FLEX, Api

USER_KEYS = {
    *("awsIAMType", "databaseName", "groupId", "labels", "ldapAuthType", "links", "oidcAuthType", "roles", "scopes"),
    *("username", "x509Type"),
}
CLUSTER_KEYS = {
    *("adaptiveCapacity", "advancedConfiguration", "backupEnabled", "biConnector", "clusterType", "connectionStrings"),
    *("createDate", "diskWarmingMode", "effectiveDatabaseEdition", "effectiveReplicationSpecs"),
    *("encryptionAtRestProvider", "featureCompatibilityVersion", "globalClusterSelfManagedSharding", "groupId", "id"),
    *("internalClusterRole", "labels", "links", "mongoDBMajorVersion", "mongoDBVersion", "name", "paused"),
    *("pitEnabled", "redactClientLogData", "replicationSpecs", "retainBackups", "rootCertType", "stateName", "tags"),
    *("terminationProtectionEnabled", "useAwsTimeBasedSnapshotCopyForFastInitialSync", "versionReleaseSystem"),
}
FLEX_KEYS = {
    *("backupSettings", "clusterType", "connectionStrings", "createDate", "groupId", "id", "mongoDBVersion", "name"),
    *("providerSettings", "stateName", "tags", "terminationProtectionEnabled", "versionReleaseSystem"),
}
GROUP_KEYS = {
    *("clusterCount", "created", "id", "links", "name", "orgId", "tags", "withDefaultAlertsSettings"),
}


def assert_answer(response: requests.Response, status: int, version: str, java: str, limit: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == f"application/vnd.atlas.{version}+json;charset=utf-8"
    assert response.headers["X-Java-Method"] == java
    assert response.headers["RateLimit-Limit"] == str(limit)
    assert 0 < int(response.headers["RateLimit-Remaining"]) < limit
    assert "X-Error-Code" not in response.headers


def assert_refusal(
    response: requests.Response, status: int, code: str, parameters: Sequence[object] | None = None
) -> None:
    body = response.json()
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Error-Code"] == code
    assert body.keys() == {"detail", "error", "errorCode", "parameters", "reason"}
    assert (body["error"], body["errorCode"]) == (status, code)
    assert parameters is None or body["parameters"] == parameters


def test_getting_a_project(api: Api) -> None:
    response = api("GET")
    assert_answer(response, 200, FIRST, "ApiAtlasGroupsResource::getGroup", 1200)
    assert response.json().keys() == GROUP_KEYS
    assert [link["rel"] for link in response.json()["links"]][:2] == ["self", "https://cloud.mongodb.com/containers"]


def test_getting_a_cluster(api: Api) -> None:
    response = api("GET", "/clusters/cluster-dev", version=CLUSTERS)
    assert_answer(response, 200, CLUSTERS, "ApiAtlasClusterDescriptionResource20240805::getCluster", 10000)
    assert response.json().keys() == CLUSTER_KEYS
    assert response.json()["stateName"] == "IDLE"
    assert response.json()["connectionStrings"]["standardSrv"] == "mongodb+srv://cluster-dev.abcde.mongodb.net"


def test_listing_clusters(api: Api) -> None:
    response = api("GET", "/clusters", version=CLUSTERS)
    assert_answer(response, 200, CLUSTERS, "ApiAtlasClusterDescriptionResource20240805::getAllClusters", 10000)
    body = response.json()
    assert body.keys() == {"links", "results", "totalCount"}
    assert [cluster["name"] for cluster in body["results"]] == ["cluster-dev", "cluster-test"]
    query = "?includeCount=true&includeDeletedWithRetainedBackups=false&pageNum=1&itemsPerPage=100"
    assert body["links"] == [{"href": response.url + query, "rel": "self"}]


def test_a_later_date_gets_the_newest_version_and_an_older_one_a_deprecated(api: Api) -> None:
    newest = api("GET", "/clusters", version="2025-03-12")
    assert newest.headers["Content-Type"] == f"application/vnd.atlas.{CLUSTERS}+json;charset=utf-8"
    assert "Deprecation" not in newest.headers
    older = api("GET", "/clusters/cluster-dev", version="2023-02-01")
    assert older.headers["X-Java-Method"] == "ApiAtlasClusterDescriptionV15Resource::getCluster"
    assert older.headers["Deprecation"] == "Mon, 5 Aug 2024 00:00:00 GMT"
    assert older.headers["Sunset"] == "Thu, 1 Jul 2027 00:00:00 GMT"


@pytest.mark.parametrize("path", ["/clusters/nowhere", "/flexClusters/nowhere", "/clusters/nowhere/status"])
def test_a_missing_cluster(api: Api, path: str) -> None:
    response = api("GET", path, version="2024-11-13")
    assert_refusal(response, 404, "CLUSTER_NOT_FOUND", ["nowhere", api.emulator.project_id])
    assert response.json()["detail"] == f"No cluster named nowhere exists in group {api.emulator.project_id}."
    assert response.json()["reason"] == "Not Found"
    assert "RateLimit-Remaining" in response.headers


def test_a_flex_cluster_lives_in_its_own_endpoint(api: Api) -> None:
    api.emulator.put_cluster("small", kind="flex")
    response = api("GET", "/flexClusters/small", version=FLEX)
    assert_answer(response, 200, FLEX, "ApiAtlasFlexClusterResource::getFlexCluster", 1200)
    assert response.json().keys() == FLEX_KEYS
    listed = api("GET", "/flexClusters", version=FLEX)
    assert_answer(listed, 200, FLEX, "ApiAtlasFlexClusterResource::getAllFlexClusters", 1200)
    assert [cluster["name"] for cluster in listed.json()["results"]] == ["small"]
    assert api("GET", "/clusters", version=CLUSTERS).json()["totalCount"] == 2
    refused = api("GET", "/clusters/small", version=CLUSTERS)
    assert_refusal(refused, 400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API", ["small"])
    assert refused.json()["detail"] == "Flex cluster small cannot be used in the Cluster API."
    other = api("GET", "/flexClusters/cluster-dev", version=FLEX)
    assert_refusal(other, 400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API")


def test_the_status_of_a_cluster(api: Api) -> None:
    response = api("GET", "/clusters/cluster-dev/status")
    assert response.status_code == 200
    assert response.json() == {"changeStatus": "APPLIED"}


def test_creating_a_user(api: Api, name: str) -> None:
    response = api.post_user(name)
    assert_answer(response, 201, FIRST, "ApiAtlasV2DatabaseUsersResource::addUser", 10000)
    home = f"{api.emulator.base_url}/api/atlas/v2/groups/{api.emulator.project_id}"
    assert response.json() == {
        "awsIAMType": "NONE",
        "databaseName": "admin",
        "groupId": api.emulator.project_id,
        "labels": [],
        "ldapAuthType": "NONE",
        "links": [{"href": f"{home}/databaseUsers/admin/{name}", "rel": "self"}],
        "oidcAuthType": "NONE",
        "roles": [{"databaseName": "shop", "roleName": "readWrite"}],
        "scopes": [],
        "username": name,
        "x509Type": "NONE",
    }


def test_getting_changing_and_deleting_a_user(api: Api, name: str) -> None:
    api.post_user(name)
    path = f"/databaseUsers/admin/{name}"
    got = api("GET", path)
    assert_answer(got, 200, FIRST, "ApiAtlasV2DatabaseUsersResource::getUserByName", 10000)
    assert got.json().keys() == USER_KEYS
    changed = api("PATCH", path, json={"roles": [{"roleName": "read", "databaseName": "shop"}]})
    assert_answer(changed, 200, FIRST, "ApiAtlasV2DatabaseUsersResource::patchUser", 10000)
    assert changed.json()["roles"] == [{"roleName": "read", "databaseName": "shop"}]
    deleted = api("DELETE", path)
    assert_answer(deleted, 204, FIRST, "ApiAtlasV2DatabaseUsersResource::deleteUser", 10000)
    assert deleted.content == b""


def test_listing_users(api: Api, name: str) -> None:
    api.post_user(name)
    response = api("GET", "/databaseUsers")
    assert_answer(response, 200, FIRST, "ApiAtlasV2DatabaseUsersResource::getUsers", 10000)
    assert response.json()["totalCount"] == 1
    assert response.json()["results"][0].keys() == USER_KEYS
    assert response.json()["links"][0]["href"].endswith("/databaseUsers?includeCount=true&pageNum=1&itemsPerPage=100")


def test_a_missing_user_has_one_code_for_get_and_patch_and_another_for_delete(api: Api) -> None:
    path = "/databaseUsers/admin/nobody"
    assert_refusal(api("GET", path), 404, "USERNAME_NOT_FOUND", ["nobody"])
    assert_refusal(api("PATCH", path, json={}), 404, "USERNAME_NOT_FOUND", ["nobody"])
    assert_refusal(api("DELETE", path), 404, "USER_NOT_FOUND", ["nobody"])


def test_a_user_is_found_on_its_own_database_only(api: Api, name: str) -> None:
    api.post_user(name)
    assert_refusal(api("GET", f"/databaseUsers/$external/{name}"), 404, "USERNAME_NOT_FOUND", [name])


@pytest.mark.parametrize("special", ["a/b", "a b", "a:b", "ä+b%2F?c"])
def test_a_name_is_one_encoded_segment_of_the_path(api: Api, special: str) -> None:
    assert api.post_user(special).status_code == 201
    path = f"/databaseUsers/admin/{quote(special, safe='')}"
    assert api("GET", path).json()["username"] == special
    assert api("GET", path).json()["links"][0]["href"].endswith(quote(special, safe=":"))
    assert api("DELETE", path).status_code == 204


def test_a_missing_project_is_known_before_rate_limits(api: Api) -> None:
    response = api("POST", "/databaseUsers", project="1" * 24, json={})
    assert_refusal(response, 404, "GROUP_NOT_FOUND", ["1" * 24])
    assert response.headers["X-Java-Method"] == "ApiAtlasV2DatabaseUsersResource::addUser"
    assert "RateLimit-Limit" not in response.headers
    assert_refusal(api("GET", project="prod"), 404, "INVALID_GROUP_ID", ["prod"])


@pytest.mark.parametrize("version", [None, "2022-01-01"])
def test_406_without_the_versioned_accept_header(api: Api, version: str | None) -> None:
    response = api("GET", "/databaseUsers", version=version)
    assert_refusal(response, 406, "INVALID_VERSION_DATE", [])
    assert response.json()["detail"] == "Invalid accept header or version date."
    assert response.json()["reason"] == "Not Acceptable"


def test_the_access_list(api: Api) -> None:
    api.emulator.put_project(api.emulator.project_id, access_list=["192.168.0.243", "10.0.0.0/8"])
    response = api("GET", "/accessList")
    assert_answer(response, 200, FIRST, "ApiAtlasNetworkAccessListResource::getAtlasWhitelist", 1200)
    one, many = response.json()["results"]
    assert one.keys() == {"cidrBlock", "comment", "groupId", "ipAddress", "links"}
    assert one["cidrBlock"] == "192.168.0.243/32"
    assert one["links"][0]["href"].endswith("/accessList/192.168.0.243%2F32")
    assert many["cidrBlock"] == "10.0.0.0/8"


def test_custom_roles_are_a_plain_array(api: Api) -> None:
    actions = [{"action": "FIND", "resources": [{"collection": "orders", "db": "shop"}]}]
    api.emulator.put_role("reader", actions=actions)
    response = api("GET", "/customDBRoles/roles")
    assert_answer(response, 200, FIRST, "ApiAtlasCustomDBRoleResource::getCustomDBRoles", 2000)
    assert response.json() == [{"actions": actions, "inheritedRoles": [], "roleName": "reader"}]


def test_limits_are_a_plain_array_too(api: Api, name: str) -> None:
    api.post_user(name)
    users = {limit["name"]: limit for limit in api("GET", "/limits").json()}[
        "atlas.project.security.databaseAccess.users"
    ]
    assert (users["currentUsage"], users["value"], users["maximumLimit"]) == (1, 100, 100)
    assert api("GET", f"/limits/{users['name']}").json() == users


def test_the_root_names_the_application(atlas: Emulator, api: Api) -> None:
    url = f"{atlas.base_url}/api/atlas/v2"
    response = api.session.get(url, headers={"Accept": f"application/vnd.atlas.{FIRST}+json"}, timeout=5)
    assert response.json()["appName"] == "MongoDB Atlas"
    groups = api.session.get(f"{url}/groups", headers={"Accept": f"application/vnd.atlas.{FIRST}+json"}, timeout=5)
    assert [group["id"] for group in groups.json()["results"]] == [atlas.project_id]


def test_lists_come_in_pages_that_link_to_each_other(api: Api) -> None:
    for number in range(5):
        api.post_user(f"page-{number}")
    body = api("GET", "/databaseUsers?pageNum=2&itemsPerPage=2").json()
    assert [user["username"] for user in body["results"]] == ["page-2", "page-3"]
    assert body["totalCount"] == 5
    links = {link["rel"]: re.findall(r"pageNum=(\d)", link["href"]) for link in body["links"]}
    assert links == {"self": ["2"], "previous": ["1"], "next": ["3"]}
    last = api("GET", "/databaseUsers?pageNum=3&itemsPerPage=2&includeCount=false").json()
    assert [user["username"] for user in last["results"]] == ["page-4"]
    assert "totalCount" not in last
    assert_refusal(api("GET", "/databaseUsers?itemsPerPage=501"), 400, "INVALID_QUERY_PARAMETER", ["itemsPerPage"])
