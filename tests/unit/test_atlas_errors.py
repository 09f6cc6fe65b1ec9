"""What may be concluded from each of Atlas's refusals, one line of the list of known ones each."""

import pickle

import pytest

from tests.unit.atlas_stand_in import StandIn, refuse
from workers.atlas.client import AtlasRole, DatabaseUser
from workers.atlas.errors import (
    AtlasError,
    ClusterNotFound,
    NoAnswer,
    Refused,
    Unauthorized,
    UnreadableAnswer,
    UserAlreadyExists,
    UserLimitReached,
    UserNotFound,
)

PERMANENT = {
    "a user that already exists": (409, "USER_ALREADY_EXISTS"),
    "a missing cluster": (404, "CLUSTER_NOT_FOUND"),
    "a dedicated cluster in the flex API": (400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API"),
    "a missing project": (404, "GROUP_NOT_FOUND"),
    "a malformed project id": (404, "INVALID_GROUP_ID"),
    "a project full of users": (403, "GROUP_USERS_LIMIT_EXCEEDED"),
    "a project full of custom roles": (403, "CUSTOM_ROLES_LIMIT_EXCEEDED"),
    "a project full of collection roles": (403, "COLLECTION_ROLES_LIMIT_EXCEEDED"),
    "a weak password": (400, "WEAK_PASSWORD"),
    "a common password": (400, "COMMON_PASSWORD"),
    "a bad user name": (400, "ATLAS_INVALID_USERNAME"),
    "a user name that MongoDB refuses": (400, "INVALID_MONGODB_USERNAME"),
    "a blocked user name": (400, "BLOCKED_USERNAME"),
    "an unknown role": (400, "UNSUPPORTED_ROLE"),
    "a bad role": (400, "ATLAS_INVALID_ROLE"),
    "a role on the wrong database": (400, "ATLAS_INVALID_ROLE_DATABASE"),
    "a restricted role": (400, "ATLAS_RESTRICTED_ROLE"),
    "a role given twice": (400, "DUPLICATE_DATABASE_ROLES"),
    "a custom role beside another": (400, "ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT"),
    "a wrong authentication database": (400, "DATABASE_NAME_INVALID_ADMIN"),
    "a change of the user's name": (409, "DATABASE_USERNAME_CANNOT_BE_CHANGED"),
    "a change of the user's database": (409, "DATABASE_NAME_CANNOT_BE_CHANGED"),
    "a change of the user's kind": (409, "AUTH_TYPE_CANNOT_BE_CHANGED"),
    "an end more than a week ahead": (400, "EXPIRATION_DATE_EXCEEDS_MAX"),
    "an end in the past": (400, "EXPIRATION_DATE_IN_PAST"),
    "a user that has expired": (400, "ALREADY_EXPIRED"),
    "an end for a lasting user": (400, "PERMANENT_ENTITY_CANNOT_BE_MADE_TEMPORARY"),
    "another project in the body": (400, "GROUP_MISMATCH"),
    "a missing attribute": (400, "MISSING_ATTRIBUTE"),
    "an invalid attribute": (400, "INVALID_ATTRIBUTE"),
    "a body that is no JSON": (400, "INVALID_JSON"),
    "a malformed body": (400, "MALFORMED_JSON"),
    "a value outside its list": (400, "INVALID_ENUM_VALUE"),
    "a validation error": (400, "VALIDATION_ERROR"),
    "no payment": (402, "NO_PAYMENT_INFORMATION_FOUND"),
    "a suspended account": (402, "ACCOUNT_SUSPENDED"),
    "a missing custom role": (404, "ATLAS_CUSTOM_ROLE_NOT_FOUND"),
    "a version that does not exist": (406, "INVALID_VERSION_DATE"),
    "a version that is no more": (410, "VERSION_GONE"),
    "another 405": (405, "METHOD_NOT_ALLOWED"),
    "another 409": (409, "CANNOT_UPDATE_PAUSED_CLUSTER"),
    "a cluster that cannot do it": (403, "UNSUPPORTED_FOR_CURRENT_CONFIG"),
}
TRANSIENT = {
    "a full token bucket": (429, "RATE_LIMITED_TOKEN_BUCKET"),
    "the older rate limit": (429, "RATE_LIMITED"),
    "a limit that could not be checked": (400, "DEFAULT_CONFIG_LIMIT_EXCEPTION"),
    "a concurrent change": (409, "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION"),
    "Atlas being upgraded": (405, "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES"),
    "server trouble": (500, "UNEXPECTED_ERROR"),
    "a bad gateway": (502, "UNEXPECTED_ERROR"),
    "an unavailable service": (503, "SERVICE_UNAVAILABLE"),
    "a gateway's time-out": (504, "UNEXPECTED_ERROR"),
}
UNAUTHORIZED = {
    "a bad key": (401, "UNEXPECTED_ERROR"),
    "a key of another project": (401, "NOT_IN_GROUP"),
    "a key without the role": (401, "USER_UNAUTHORIZED"),
    "a key without the role, said with 403": (403, "USER_UNAUTHORIZED"),
    "a key that cannot access the project": (403, "USER_CANNOT_ACCESS_GROUP"),
    "an address outside the access list": (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST"),
    "an address outside the access list, said in the old way": (403, "IP_ADDRESS_NOT_ON_WHITELIST"),
    "an organization that wants an access list": (403, "ORG_REQUIRES_ACCESS_LIST"),
    "a service account that Atlas does not know": (401, "invalid_client"),
    "a service account with a hundred live tokens": (403, "access_denied"),
}
ALL = PERMANENT | TRANSIENT | UNAUTHORIZED


def refused(case: tuple[int, str]) -> Refused:
    with StandIn(lambda _: refuse(*case)) as atlas, pytest.raises(Refused) as caught:
        atlas.client().user("b-1")
    return caught.value


@pytest.mark.parametrize("case", PERMANENT.values(), ids=PERMANENT)
def test_repeating_does_not_help_against(case: tuple[int, str]) -> None:
    error = refused(case)
    assert (error.status, error.code) == case
    assert not error.retryable
    assert not isinstance(error, Unauthorized)


@pytest.mark.parametrize("case", TRANSIENT.values(), ids=TRANSIENT)
def test_repeating_may_help_against(case: tuple[int, str]) -> None:
    error = refused(case)
    assert error.retryable
    assert not isinstance(error, Unauthorized)


@pytest.mark.parametrize("case", UNAUTHORIZED.values(), ids=UNAUTHORIZED)
def test_an_operator_can_repair(case: tuple[int, str]) -> None:
    error = refused(case)
    assert isinstance(error, Unauthorized)
    assert error.retryable
    assert "Check the API key" in str(error)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_a_user_is_not_gone_because_of(case: tuple[int, str]) -> None:
    assert not isinstance(refused(case), UserNotFound)


@pytest.mark.parametrize("code", ["USER_NOT_FOUND", "USERNAME_NOT_FOUND"])
def test_a_user_is_gone_by_both_codes_that_get_and_delete_use(code: str) -> None:
    error = refused((404, code))
    assert isinstance(error, UserNotFound)
    assert not error.retryable


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500])
def test_the_code_of_a_missing_user_means_nothing_without_404(status: int) -> None:
    assert not isinstance(refused((status, "USER_NOT_FOUND")), UserNotFound)


def test_a_missing_cluster_is_told_apart_from_a_missing_user() -> None:
    assert isinstance(refused((404, "CLUSTER_NOT_FOUND")), ClusterNotFound)
    assert not isinstance(refused((404, "USER_NOT_FOUND")), ClusterNotFound)
    assert not isinstance(refused((404, "GROUP_NOT_FOUND")), ClusterNotFound)


def test_a_taken_name_and_a_full_project_have_names_of_their_own() -> None:
    assert isinstance(refused((409, "USER_ALREADY_EXISTS")), UserAlreadyExists)
    assert isinstance(refused((403, "GROUP_USERS_LIMIT_EXCEEDED")), UserLimitReached)


def test_the_sentence_names_the_user_the_project_and_atlass_own_words() -> None:
    detail = "No user with username b-1 exists."
    with (
        StandIn(lambda _: refuse(404, "USERNAME_NOT_FOUND", detail, ["b-1"])) as atlas,
        pytest.raises(Refused) as caught,
    ):
        atlas.client().user("b-1")
    assert str(caught.value) == (
        "Atlas refused to read database user 'b-1' in project '6a793f60c0eb9e7a17714c68': "
        "No user with username b-1 exists (404 USERNAME_NOT_FOUND)."
    )
    assert caught.value.parameters == ("b-1",)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Atlas does not answer.", "Atlas does not answer (for the cluster shop)."),
        ("Atlas refused to read user 'shops': No.", "Atlas refused to read user 'shops': No (for the cluster shop)."),
        ("Atlas refused to read cluster 'shop': No.", "Atlas refused to read cluster 'shop': No."),
        ("Atlas's answer makes no sense: no name", "Atlas's answer makes no sense: no name (for the cluster shop)."),
    ],
)
def test_a_sentence_for_users_names_the_cluster_once(message: str, sentence: str) -> None:
    assert Refused(message).sentence("the cluster shop") == sentence


@pytest.mark.parametrize("parameters", [None, [], "x", {"a": 1}, [1, None, {"b": 2}]])
def test_parameters_of_any_kind_or_none_are_taken(parameters: object) -> None:
    with (
        StandIn(lambda _: refuse(400, "INVALID_ATTRIBUTE", "Bad.", parameters)) as atlas,
        pytest.raises(Refused) as caught,
    ):
        atlas.client().user("b-1")
    assert caught.value.parameters == tuple(parameters if isinstance(parameters, list) else ())


def test_a_password_that_atlas_repeats_is_not_repeated_by_the_error() -> None:
    user = DatabaseUser("b-1", (AtlasRole("read", "shop"),), password="open-sesame-1")
    echo = refuse(400, "INVALID_ATTRIBUTE", "Invalid attribute open-sesame-1 specified.", ["open-sesame-1"])
    with StandIn(lambda _: echo) as atlas, pytest.raises(Refused) as caught:
        atlas.client().create_user(user)
    told = f"{caught.value} {caught.value.detail} {caught.value.parameters} {vars(caught.value)}"
    assert "open-sesame-1" not in told
    assert "***" in told


def test_a_name_or_a_detail_cannot_break_a_log_line() -> None:
    with (
        StandIn(lambda _: refuse(400, "INVALID_ATTRIBUTE", "One\nERROR two")) as atlas,
        pytest.raises(Refused) as caught,
    ):
        atlas.client().user("b\nERROR")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        NoAnswer("Nothing.", sent=False, retry_after=3),
        Refused("No.", status=403, code="NOT_IN_GROUP", detail="d", parameters=("p",), retry_after=0),
        UnreadableAnswer("What?", status=503),
    ],
)
def test_an_error_survives_the_way_between_processes(error: AtlasError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_nothing_is_waited_for_less_than_a_second() -> None:
    assert NoAnswer("Nothing.", retry_after=0).retry_after == 1.0
    assert NoAnswer("Nothing.").retry_after is None
