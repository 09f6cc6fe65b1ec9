"""Trouble on demand, rate limits and the call log."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.emulator.client import Emulator
from tests.emulator_tests.conftest import Api
from tests.emulator_tests.test_wire import assert_refusal
from tests.tenant import eventually

USERS = r"/databaseUsers$"


def test_a_call_fails_as_often_as_told_and_does_nothing_then(api: Api, name: str) -> None:
    api.emulator.fail("POST", USERS, times=2, status=503, html=True)
    assert [api.post_user(name).status_code for _ in range(3)] == [503, 503, 201]
    assert len(api.emulator.users()) == 1
    assert [rule["times"] for rule in api.emulator.rules()] == [0]


def test_html_and_atlas_errors_can_be_answered(api: Api) -> None:
    api.emulator.fail("GET", USERS, status=502, html=True)
    html = api("GET", "/databaseUsers")
    assert (html.status_code, html.headers["Content-Type"]) == (502, "text/html")
    api.emulator.fail("GET", USERS, status=405, error_code="WRITES_NOT_ALLOWED_DURING_APP_UPGRADES")
    assert_refusal(api("GET", "/databaseUsers"), 405, "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES")
    api.emulator.fail("GET", USERS, status=500)
    assert_refusal(api("GET", "/databaseUsers"), 500, "UNEXPECTED_ERROR")
    api.emulator.fail("GET", USERS, status=200, answer={"results": []})
    assert api("GET", "/databaseUsers").json() == {"results": []}


def test_an_error_may_come_although_the_call_acted(api: Api, name: str) -> None:
    api.emulator.fail("POST", USERS, act=True)
    assert api.post_user(name).status_code == 500
    assert [user["username"] for user in api.emulator.users()] == [name]


def test_a_429_comes_with_or_without_retry_after(api: Api) -> None:
    api.emulator.limit_rate("GET", USERS, retry_after=3)
    assert api("GET", "/databaseUsers").headers["Retry-After"] == "3"
    api.emulator.limit_rate("GET", USERS)
    assert "Retry-After" not in api("GET", "/databaseUsers").headers


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_the_connection_is_closed_before_or_after_the_call_acts(api: Api, name: str, when: str, made: int) -> None:
    api.emulator.drop("POST", USERS, when="after" if when == "after" else "before")
    assert api("GET").ok  # the nonce and the connection are there already
    with pytest.raises(requests.ConnectionError):
        api.post_user(name)
    assert len(api.emulator.users()) == made
    assert api.emulator.calls("POST")[-1]["status"] is None
    assert api("GET").ok


def _post_that_hangs(api: Api, name: str) -> None:
    assert api("GET").ok  # the nonce and the connection are there already
    with pytest.raises(requests.ReadTimeout):
        api("POST", "/databaseUsers", json={**_body(api, name)}, timeout=0.4)
    eventually(api.emulator.users, "the request that hung has acted")


def test_a_call_hangs_before_it_acts(api: Api, name: str) -> None:
    api.emulator.hang("POST", USERS, seconds=1, when="before")
    began = time.monotonic()
    _post_that_hangs(api, name)
    assert time.monotonic() - began >= 1


def test_a_call_hangs_after_it_has_acted(api: Api, name: str) -> None:
    """It has acted long before the hang ends."""
    api.emulator.hang("POST", USERS, seconds=60, when="after")
    _post_that_hangs(api, name)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_call_that_hangs_can_be_let_go(api: Api, name: str, when: str) -> None:
    number = api.emulator.hang("POST", USERS, seconds=60, when="after" if when == "after" else "before")
    with ThreadPoolExecutor() as threads:
        posted = threads.submit(api.post_user, name)
        eventually(lambda: [call for call in api.emulator.calls("POST") if call["fault"] == number])
        assert not posted.done()
        api.emulator.let_go(number)
        assert posted.result(30).status_code == 201


def test_a_rule_may_look_into_the_body(api: Api, name: str) -> None:
    api.emulator.fail("POST", USERS, body=f'"{name}"', times=None)
    assert api.post_user(name).status_code == 500
    assert api.post_user(f"{name}-2").status_code == 201


def test_rules_can_be_forgotten(api: Api) -> None:
    number = api.emulator.fail("GET", "", times=None)
    assert api("GET").status_code == 500
    api.emulator.heal(number)
    assert api("GET").ok


def test_calm_ends_what_was_set_and_leaves_what_there_is(api: Api, name: str) -> None:
    atlas = api.emulator
    atlas.apply_by_hand()
    assert api.post_user(name).status_code == 201
    atlas.fail("GET", "/databaseUsers", times=None)
    atlas.latency(5)
    atlas.rate("users", capacity=1, refill=1, seconds=60, left=0)
    atlas.calm()
    began = time.monotonic()
    assert [api("GET", f"/databaseUsers/admin/{name}").status_code for _ in range(2)] == [200, 200]
    assert time.monotonic() - began < 5  # less than the latency of one call
    assert (atlas.rules(), api.status()) == ([], "APPLIED")


def test_the_token_endpoint_can_fail_too(atlas: Emulator) -> None:
    atlas.fail("POST", "/oauth/token", status=503)
    assert requests.post(f"{atlas.base_url}/api/oauth/token", timeout=5).status_code == 503


def test_latency_is_added_to_every_call(api: Api) -> None:
    api.emulator.latency(0.2)
    begin = time.monotonic()
    assert api("GET").ok
    assert time.monotonic() - begin >= 0.2


def test_an_empty_bucket_says_how_long_to_wait_and_fills_again(api: Api) -> None:
    api.emulator.rate("users", capacity=3, refill=1)
    remaining = [api("GET", "/databaseUsers").headers["RateLimit-Remaining"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    refused = api("GET", "/databaseUsers")
    path = f"api/atlas/v2/groups/{api.emulator.project_id}/databaseUsers"
    wait = int(refused.headers["Retry-After"])
    assert_refusal(refused, 429, "RATE_LIMITED_TOKEN_BUCKET", [path, wait, 3, 1, 60])
    assert 30 < wait <= 60
    assert api("GET").ok  # another set of endpoints, another bucket
    api.emulator.rate("users", capacity=3, refill=60, left=0)
    assert api("GET", "/databaseUsers").headers["Retry-After"] == "1"
    time.sleep(1)
    assert api("GET", "/databaseUsers").ok


def test_the_call_log_tells_calls_and_challenges_apart(api: Api, name: str) -> None:
    api.post_user(name)
    api("GET", f"/databaseUsers/admin/{name}?pretty=true")
    first, post, get = api.emulator.calls()
    assert (first["challenge"], first["authentication"], first["status"]) == (True, "none", 401)
    assert (post["method"], post["status"], post["caller"]) == ("POST", 201, api.emulator.public_key)
    assert post["accept"] == "application/vnd.atlas.2023-01-01+json"
    assert post["user_agent"].startswith("python-requests/")
    assert get["template"] == "/groups/{groupId}/databaseUsers/{databaseName}/{username}"
    assert get["query"] == "pretty=true"
    assert post["start"] <= post["end"] <= get["end"]
    assert api.emulator.counts() == {
        "POST /groups/{groupId}/databaseUsers": 1,
        "GET /groups/{groupId}/databaseUsers/{databaseName}/{username}": 1,
    }
    api.emulator.forget_calls()
    assert api.emulator.calls() == []


def test_a_wrong_steering_call_says_so(atlas: Emulator) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        atlas.rule(nonsense=1)
    with pytest.raises(ValueError, match="no setting"):
        atlas.tokens(lifetime=1)


def _body(api: Api, name: str) -> dict[str, object]:
    roles = [{"roleName": "read", "databaseName": "shop"}]
    project = api.emulator.project_id
    return {"username": name, "password": "long enough", "databaseName": "admin", "groupId": project, "roles": roles}
