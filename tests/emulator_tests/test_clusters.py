"""Clusters in all their states, and projects beside each other."""

from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.emulator.model import Json
from tests.emulator_tests.conftest import CLUSTERS, FLEX, Api, Login


def get(api: Api, name: str = "cluster-dev") -> Json:
    return dict(api("GET", f"/clusters/{name}", version=CLUSTERS).json())


def test_a_cluster_being_created_has_no_connection_strings_until_it_is_idle(api: Api) -> None:
    api.emulator.put_cluster("new", state="CREATING", then={"state": "IDLE", "reads": 2})
    seen = [get(api, "new") for _ in range(3)]
    assert [cluster["stateName"] for cluster in seen] == ["CREATING", "CREATING", "IDLE"]
    assert [bool(cluster["connectionStrings"]) for cluster in seen] == [False, False, True]


def test_a_cluster_being_deleted_is_missing_in_the_end(api: Api) -> None:
    api.emulator.put_cluster("cluster-dev", state="DELETING", then={"state": None, "reads": 1})
    assert get(api)["stateName"] == "DELETING"
    assert get(api)["errorCode"] == "CLUSTER_NOT_FOUND"


def test_a_paused_cluster_is_idle_and_says_so(api: Api) -> None:
    api.emulator.put_cluster("cluster-dev", paused=True)
    assert (get(api)["stateName"], get(api)["paused"]) == ("IDLE", True)


def test_a_free_cluster_is_a_tenant(api: Api) -> None:
    api.emulator.put_cluster("free", kind="free")
    (region,) = get(api, "free")["replicationSpecs"][0]["regionConfigs"]
    assert region["providerName"] == "TENANT"


def test_connection_strings_can_be_set(api: Api) -> None:
    strings = {"standard": "mongodb://h1:1,h2:2/?ssl=true", "private": "mongodb://p1:1/"}
    api.emulator.put_cluster("cluster-dev", connection_strings=strings)
    assert get(api)["connectionStrings"] == strings


def test_a_deleted_cluster_is_missing(api: Api) -> None:
    api.emulator.delete_cluster("cluster-dev")
    assert get(api)["errorCode"] == "CLUSTER_NOT_FOUND"


def test_a_cluster_that_comes_later_gets_the_users_who_wait_for_it(api: Api, name: str, login: Login) -> None:
    api.post_user(name, scopes=[{"name": "later", "type": "CLUSTER"}])
    assert not login(name)
    api.emulator.put_cluster("later", kind="flex")
    assert api.status("later") == "APPLIED"
    assert login(name)
    assert api("GET", "/flexClusters/later", version=FLEX).ok


def test_a_scope_keeps_a_user_off_the_servers_of_other_clusters(api: Api, name: str, login: Login) -> None:
    scope = [{"name": "cluster-second", "type": "CLUSTER"}]
    with Mongod("mongod-second", auth=True) as second:
        api.emulator.put_cluster("cluster-second", mongo=second.uri)
        api.post_user(name, scopes=scope)
        assert not login(name)
        assert login(name, address=second.address)
        api("PATCH", f"/databaseUsers/admin/{name}", json={"scopes": [{**scope[0], "name": "cluster-dev"}]})
        assert login(name)
        assert not login(name, address=second.address)


def test_projects_have_their_own_clusters_and_users(atlas: Emulator, api: Api, name: str) -> None:
    other = "3" * 24
    atlas.put_project(other, name="other")
    atlas.put_cluster("cluster-other", project=other)
    atlas.put_key(atlas.public_key, atlas.private_key, [atlas.project_id, other])
    api.post_user(name)
    listed = api("GET", "/clusters", project=other, version=CLUSTERS).json()["results"]
    assert [cluster["name"] for cluster in listed] == ["cluster-other"]
    assert api("GET", "/databaseUsers", project=other).json()["totalCount"] == 0
    assert get(api, "cluster-other")["errorCode"] == "CLUSTER_NOT_FOUND"
