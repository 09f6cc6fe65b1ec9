"""What Atlas refuses about database users, with its code."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.emulator.model import Json
from tests.emulator_tests.conftest import PASSWORD, Api, user
from tests.emulator_tests.test_wire import assert_refusal


def soon(**delta: float) -> str:
    return (datetime.now(UTC) + timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%SZ")


def role(name: str, database: str = "shop", **more: str) -> dict[str, str]:
    return {"roleName": name, "databaseName": database, **more}


REFUSED: dict[str, tuple[Json, str]] = {
    "an empty name": ({"username": ""}, "ATLAS_INVALID_USERNAME"),
    "too long a name": ({"username": "n" * 1025}, "ATLAS_INVALID_USERNAME"),
    "a name with control characters": ({"username": "a\nb"}, "INVALID_MONGODB_USERNAME"),
    "a short password": ({"password": "short"}, "WEAK_PASSWORD"),
    "a well-known password": ({"password": "password1"}, "COMMON_PASSWORD"),
    "no password": ({"password": None}, "MISSING_ATTRIBUTE"),
    "no roles": ({"roles": []}, "MISSING_ATTRIBUTE"),
    "no name and no roles": ({"roles": None, "username": None}, "MISSING_ATTRIBUTES"),
    "a role without a database": ({"roles": [{"roleName": "read"}]}, "MISSING_ATTRIBUTE"),
    "roles that are no list": ({"roles": "read"}, "INVALID_JSON_ATTRIBUTE"),
    "an unknown role": ({"roles": [role("writer", "admin")]}, "ATLAS_INVALID_ROLE"),
    "an unknown role on a database": ({"roles": [role("writer")]}, "UNSUPPORTED_ROLE"),
    "an admin role elsewhere": ({"roles": [role("atlasAdmin")]}, "ATLAS_INVALID_ROLE_DATABASE"),
    "a role that Atlas keeps": ({"roles": [role("root", "admin")]}, "ATLAS_RESTRICTED_ROLE"),
    "a role twice": ({"roles": [role("read"), role("read")]}, "DUPLICATE_DATABASE_ROLES"),
    "an impossible database": ({"roles": [role("read", "a.b")]}, "INVALID_DATABASE_NAME"),
    "a system collection": ({"roles": [role("read", collectionName="system.users")]}, "ATLAS_RESTRICTED_COLLECTION"),
    "the wrong database": ({"databaseName": "shop"}, "DATABASE_NAME_INVALID_ADMIN"),
    "X.509 on admin": ({"x509Type": "CUSTOMER"}, "DATABASE_NAME_INVALID_EXTERNAL"),
    "another project's id": ({"groupId": "1" * 24}, "GROUP_MISMATCH"),
    "an attribute that there is not": ({"colour": "red"}, "INVALID_ATTRIBUTE"),
    "a scope of no kind": ({"scopes": [{"name": "cluster-dev", "type": "SHARD"}]}, "INVALID_ENUM_VALUE"),
    "an empty label": ({"labels": [{"key": "k", "value": ""}]}, "VALIDATION_ERROR"),
    "too long a description": ({"description": "d" * 101}, "VALIDATION_ERROR"),
    "no date": ({"deleteAfterDate": "tomorrow"}, "INVALID_DATE_FORMAT"),
    "an expiry in the past": ({"deleteAfterDate": "2020-01-01T00:00:00Z"}, "EXPIRATION_DATE_IN_PAST"),
    "an expiry too far ahead": ({"deleteAfterDate": soon(days=8)}, "EXPIRATION_DATE_EXCEEDS_MAX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_post_is_refused_for(api: Api, name: str, case: str) -> None:
    changes, code = REFUSED[case]
    assert_refusal(api("POST", "/databaseUsers", json={**user(api.emulator.project_id, name), **changes}), 400, code)
    assert api.emulator.users() == []


@pytest.mark.parametrize(("body", "code"), [("{", "MALFORMED_JSON"), ("[]", "INVALID_JSON")])
def test_a_body_that_is_no_json_object_is_refused(api: Api, body: str, code: str) -> None:
    url = f"{api.emulator.base_url}/api/atlas/v2/groups/{api.emulator.project_id}/databaseUsers"
    headers = {"Accept": "application/vnd.atlas.2023-01-01+json", "Content-Type": "application/json"}
    assert_refusal(api.session.post(url, data=body, headers=headers, timeout=5), 400, code)


def test_a_second_user_of_the_same_name_is_refused(api: Api, name: str) -> None:
    api.post_user(name)
    assert_refusal(api.post_user(name), 409, "USER_ALREADY_EXISTS", [name])


def test_a_project_holds_so_many_users_and_no_more(api: Api, name: str) -> None:
    api.emulator.user_limit(1)
    api.post_user(name)
    assert_refusal(api.post_user(f"{name}-2"), 403, "GROUP_USERS_LIMIT_EXCEEDED", [1])


def test_a_custom_role_is_on_admin_and_alone(api: Api, name: str) -> None:
    api.emulator.put_role("reader", actions=[{"action": "FIND", "resources": [{"db": "shop", "collection": ""}]}])
    assert_refusal(api.post_user(name, roles=[role("reader")]), 400, "UNSUPPORTED_ROLE")
    both = [role("reader", "admin"), role("read")]
    assert_refusal(api.post_user(name, roles=both), 400, "ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT")
    assert api.post_user(name, roles=[role("reader", "admin")]).status_code == 201


def test_what_a_user_is_told_about_itself_is_kept(api: Api, name: str) -> None:
    given = {
        "labels": [{"key": "instance", "value": "i"}],
        "scopes": [{"name": "cluster-dev", "type": "CLUSTER"}],
        "description": "made by a test",
        "deleteAfterDate": soon(hours=1),
    }
    answer = api.post_user(name, **given).json()
    assert {key: answer[key] for key in given} == given
    assert PASSWORD not in str(answer)
    (seen,) = api.emulator.users()
    assert (seen["labels"], seen["applied"]) == (given["labels"], True)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "other"}, 409, "DATABASE_USERNAME_CANNOT_BE_CHANGED"),
        ({"databaseName": "$external"}, 409, "DATABASE_NAME_CANNOT_BE_CHANGED"),
        ({"x509Type": "MANAGED"}, 409, "AUTH_TYPE_CANNOT_BE_CHANGED"),
        ({"deleteAfterDate": soon(days=1)}, 400, "PERMANENT_ENTITY_CANNOT_BE_MADE_TEMPORARY"),
        ({"password": "short"}, 400, "WEAK_PASSWORD"),
    ],
)
def test_a_patch_cannot_change(api: Api, name: str, body: dict[str, str], status: int, code: str) -> None:
    api.post_user(name)
    assert_refusal(api("PATCH", f"/databaseUsers/admin/{name}", json=body), status, code)


def test_two_projects_on_one_mongod_cannot_share_a_name(api: Api, name: str) -> None:
    api.emulator.put_project("2" * 24, key=("second", "key"))
    api.emulator.put_cluster("cluster-two", project="2" * 24)
    api.emulator.put_key(api.emulator.public_key, api.emulator.private_key, [api.emulator.project_id, "2" * 24])
    api.post_user(name)
    body = {"username": name, "password": PASSWORD, "databaseName": "admin", "groupId": "2" * 24}
    response = api("POST", "/databaseUsers", project="2" * 24, json={**body, "roles": [role("read")]})
    assert_refusal(response, 500, "UNEXPECTED_ERROR")
