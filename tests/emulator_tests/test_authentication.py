"""Digest keys and service accounts: who is let in, and what the others are told."""

import re
from collections.abc import Iterator

import pytest
import requests
from requests.auth import AuthBase, HTTPDigestAuth

from tests.emulator.client import Emulator
from tests.emulator_tests.conftest import Api
from tests.emulator_tests.test_wire import assert_refusal


class Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers["Authorization"] = f"Bearer {self.token}"
        return r


def mint(atlas: Emulator, secret: str | None = None, grant: str = "client_credentials") -> requests.Response:
    return requests.post(
        f"{atlas.base_url}/api/oauth/token",
        auth=(atlas.client_id, secret or atlas.client_secret),
        data={"grant_type": grant},
        timeout=5,
    )


@pytest.fixture
def bearer(atlas: Emulator) -> Iterator[Api]:
    api = Api(atlas, Bearer(mint(atlas).json()["access_token"]))
    with api.session:
        yield api


@pytest.mark.parametrize("auth", [None, HTTPDigestAuth("nobody", "x"), HTTPDigestAuth(Emulator.public_key, "wrong")])
def test_missing_and_wrong_keys_look_the_same(atlas: Emulator, auth: AuthBase | None) -> None:
    response = requests.get(f"{atlas.base_url}/api/atlas/v2/groups/{atlas.project_id}", auth=auth, timeout=5)
    assert response.status_code == 401
    assert response.headers["Content-Type"] == "application/json"
    assert not {"X-Error-Code", "X-Java-Method", "RateLimit-Limit"} & response.headers.keys()
    challenge = r'Digest realm="MMS Public API", domain="", nonce="[\w+/]{32}", algorithm=MD5, qop="auth", stale=false'
    assert re.fullmatch(challenge, response.headers["Www-Authenticate"])
    assert response.json() == {
        "error": 401,
        "reason": "Unauthorized",
        "detail": "You are not authorized for this resource.",
        "errorCode": "UNEXPECTED_ERROR",
    }
    assert response.text.startswith("{\n")


def test_a_nonce_serves_many_calls_over_one_connection(api: Api) -> None:
    ports = {api("GET").raw.connection for _ in range(10)}
    assert len(ports) == 1
    calls = api.emulator.calls()
    assert [call["challenge"] for call in calls] == [True] + [False] * 10
    assert {call["authentication"] for call in calls[1:]} == {"digest"}


def test_a_used_up_or_expired_nonce_costs_one_more_challenge(api: Api) -> None:
    api.emulator.digest_nonces(uses=2)
    for _ in range(4):
        assert api("GET").ok
    assert sum(call["challenge"] for call in api.emulator.calls()) == 2
    api.emulator.expire_nonces()
    assert api("GET").ok
    assert sum(call["challenge"] for call in api.emulator.calls()) == 3


def test_a_key_of_another_project_is_refused_without_a_challenge(api: Api, atlas: Emulator) -> None:
    atlas.put_project("4" * 24)
    response = api("GET", project="4" * 24)
    assert_refusal(response, 401, "NOT_IN_GROUP")
    assert "Www-Authenticate" not in response.headers


def test_a_key_that_only_reads_changes_nothing(api: Api, atlas: Emulator, name: str) -> None:
    atlas.put_key(atlas.public_key, atlas.private_key, [atlas.project_id], read_only=True)
    assert api("GET", "/databaseUsers").ok
    assert_refusal(api.post_user(name), 401, "USER_UNAUTHORIZED")
    assert atlas.users() == []


def test_an_address_that_is_not_listed_is_refused(api: Api) -> None:
    api.emulator.allow_addresses(["10.0.0.1"])
    assert_refusal(api("GET"), 403, "IP_ADDRESS_NOT_ON_ACCESS_LIST", ["127.0.0.1"])
    api.emulator.allow_addresses(["127.0.0.1"])
    assert api("GET").ok


def test_a_service_account_gets_a_token_that_works(atlas: Emulator, bearer: Api, name: str) -> None:
    body = mint(atlas).json()
    assert body.keys() == {"access_token", "expires_in", "token_type"}
    assert (body["expires_in"], body["token_type"]) == (3600, "Bearer")
    assert bearer.post_user(name).status_code == 201
    assert atlas.calls("POST")[-1]["authentication"] == "bearer"


def test_a_wrong_secret_mints_nothing(atlas: Emulator) -> None:
    response = mint(atlas, secret="wrong")
    assert response.status_code == 401
    assert response.json() == {"error": "invalid_client", "error_description": "Invalid credentials provided."}
    assert mint(atlas, grant="password").json()["error"] == "unsupported_grant_type"


def test_revoked_tokens_are_refused(atlas: Emulator, bearer: Api) -> None:
    assert bearer("GET").ok
    atlas.revoke_tokens()
    assert bearer("GET").status_code == 401
    assert bearer("GET").json()["errorCode"] == "UNEXPECTED_ERROR"


def test_a_token_can_be_revoked_by_its_owner(atlas: Emulator, bearer: Api) -> None:
    assert isinstance(bearer.session.auth, Bearer)
    answer = requests.post(
        f"{atlas.base_url}/api/oauth/revoke",
        auth=(atlas.client_id, atlas.client_secret),
        data={"token": bearer.session.auth.token, "token_type_hint": "access_token"},
        timeout=5,
    )
    assert (answer.status_code, answer.content) == (200, b"")
    assert bearer("GET").status_code == 401


def test_an_expired_token_is_refused(atlas: Emulator) -> None:
    atlas.tokens(seconds=0)
    api = Api(atlas, Bearer(mint(atlas).json()["access_token"]))
    with api.session:
        assert api("GET").status_code == 401


def test_a_service_account_has_so_many_live_tokens_and_no_more(atlas: Emulator) -> None:
    atlas.tokens(live_limit=2)
    assert [mint(atlas).status_code for _ in range(3)] == [200, 200, 403]
    assert mint(atlas).json()["error"] == "access_denied"
    assert atlas.live_tokens() == 2


def test_minting_is_limited(atlas: Emulator) -> None:
    atlas.tokens(mint_limit=1)
    assert mint(atlas).ok
    refused = mint(atlas)
    assert_refusal(refused, 429, "RATE_LIMITED", ["/api/oauth/token", 1, 1])
    assert refused.json()["detail"] == "Resource /api/oauth/token is limited to 1 requests every 1 minutes."
