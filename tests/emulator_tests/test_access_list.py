"""The IP access list: answers as recorded, an entry's status, and changes in the same moment, of which one is lost."""

from concurrent.futures import ThreadPoolExecutor

import requests

from tests.emulator_tests.conftest import FIRST, Api
from tests.emulator_tests.test_wire import assert_answer, assert_refusal

JAVA = "ApiAtlasNetworkAccessListResource::"
ENTRY = "/accessList/192.168.0.243%2F32"


def add(api: Api, *entries: dict[str, str]) -> requests.Response:
    url = f"{api.emulator.base_url}/api/atlas/v2/groups/{api.emulator.project_id}/accessList"
    headers = {"Accept": f"application/vnd.atlas.{FIRST}+json"}
    return api.session.post(url, json=entries, headers=headers, timeout=10)


def test_an_entry_is_added_listed_and_deleted(api: Api) -> None:
    api.emulator.put_project(api.emulator.project_id, access_list=[])
    added = add(api, {"ipAddress": "192.168.0.243", "comment": "test"})
    assert_answer(added, 201, FIRST, JAVA + "addAtlasWhitelist", 1200)
    assert added.json().keys() == {"links", "results", "totalCount"}
    (entry,) = added.json()["results"]
    assert entry.keys() == {"cidrBlock", "comment", "groupId", "ipAddress", "links"}
    assert (entry["cidrBlock"], entry["comment"], entry["ipAddress"]) == ("192.168.0.243/32", "test", "192.168.0.243")
    assert entry["links"][0]["href"].endswith(ENTRY)
    got = api("GET", "/accessList/192.168.0.243")
    assert_answer(got, 200, FIRST, JAVA + "getAtlasNetworkPermissionEntry", 1200)
    assert got.json() == entry
    (again,) = add(api, {"cidrBlock": "192.168.0.243/32", "comment": "other"}).json()["results"]
    assert again["comment"] == "other"
    deleted = api("DELETE", ENTRY)
    assert_answer(deleted, 204, FIRST, JAVA + "deleteAtlasWhitelist", 1200)
    missing = [ENTRY.removeprefix("/accessList/").replace("%2F", "/"), api.emulator.project_id]
    assert_refusal(api("DELETE", ENTRY), 404, "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND", missing)


def test_the_status_of_an_entry_is_in_capitals_and_pending_first(api: Api) -> None:
    api.emulator.access(reads=1)
    add(api, {"cidrBlock": "10.0.0.0/8"})
    assert [api("GET", "/accessList/10.0.0.0%2F8/status").json() for _ in range(2)] == [
        {"STATUS": "PENDING"},
        {"STATUS": "ACTIVE"},
    ]


def test_wrong_entries_are_refused(api: Api) -> None:
    assert_refusal(add(api, {"cidrBlock": "10.0.0.0/8", "comment": "c" * 81}), 400, "VALIDATION_ERROR")
    assert_refusal(add(api, {"cidrBlock": "10.0.0.1/8"}), 400, "INVALID_ATTRIBUTE")
    assert_refusal(add(api, {"comment": "none"}), 400, "MISSING_ATTRIBUTES")
    many = [{"ipAddress": f"10.0.0.{number}"} for number in range(201)]
    assert_refusal(add(api, *many), 403, "ATLAS_NETWORK_PERMISSIONS_LIMIT_EXCEEDED", [200])
    assert api("GET", "/accessList").json()["totalCount"] == 1


def test_one_of_two_changes_in_the_same_moment_is_lost(api: Api) -> None:
    api.emulator.access(gap=0.3)

    def added(number: int) -> int:
        blocks = [f"10.{number}.{half}.0/24" for half in (0, 1)]
        before = int(api("GET", "/accessList").json()["totalCount"])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda block: add(api, {"cidrBlock": block}), blocks))
        return int(api("GET", "/accessList").json()["totalCount"]) - before

    # A busy machine may send the two one after the other, but not five times.
    assert any(added(number) == 1 for number in range(5))
