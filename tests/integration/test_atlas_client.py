"""The client against the emulated Atlas: what is made can be read back, what goes wrong is told as it is."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.tenant import eventually
from tests.unit.atlas_stand_in import Recorder
from workers.atlas.client import (
    Answer,
    ApiKey,
    AtlasClient,
    AtlasError,
    AtlasRole,
    DatabaseUser,
    MemoryTokens,
    NoAnswer,
    Process,
    Refused,
    ServiceAccount,
    UnreadableAnswer,
)
from workers.atlas.errors import ClusterNotFound, Unauthorized, UserAlreadyExists, UserLimitReached, UserNotFound

USERS = "/groups/{groupId}/databaseUsers"
ONE_USER = USERS + "/{databaseName}/{username}"
PASSWORD = "a-password-of-these-tests"


@pytest.fixture(scope="module")
def own_emulator(cluster_mongod: Mongod) -> Iterator[Emulator]:
    with Emulator.start(cluster_mongod.uri) as emulator:
        yield emulator


@pytest.fixture
def emulator(own_emulator: Emulator) -> Emulator:
    own_emulator.clear()
    return own_emulator


@pytest.fixture
def observed() -> list[Answer]:
    return []


@pytest.fixture
def atlas(emulator: Emulator, observed: list[Answer]) -> AtlasClient:
    return client(emulator, key(emulator), observed)


def key(emulator: Emulator) -> ApiKey:
    return ApiKey(emulator.public_key, emulator.private_key)


def account(emulator: Emulator, tokens: MemoryTokens | None = None) -> ServiceAccount:
    return ServiceAccount(emulator.client_id, emulator.client_secret, tokens or MemoryTokens())


def client(
    emulator: Emulator,
    auth: ApiKey | ServiceAccount,
    observed: list[Answer] | None = None,
    *,
    project: str | None = None,
    timeout: tuple[float, float, float] = (1.0, 5.0, 20.0),
) -> AtlasClient:
    guard = None if observed is None else Recorder(observed)
    return AtlasClient(emulator.base_url, project or emulator.project_id, auth, timeout=timeout, guard=guard)


def new_user(**more: object) -> DatabaseUser:
    user = {
        "username": f"user-{secrets.token_hex(6)}",
        "roles": (AtlasRole("readWrite", "shop"),),
        "password": PASSWORD,
    }
    return DatabaseUser(**(user | more))  # type: ignore[arg-type]  # the fields by name


def refusal(ask: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        ask()
    return caught.value


# --- users ---


def test_a_user_that_was_made_is_read_back_without_its_password(atlas: AtlasClient) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    user = new_user(scopes=("cluster-dev",), labels={"instance": "i-1"}, description="made by a test", delete_after=end)
    atlas.create_user(user)
    read = atlas.user(user.username)
    assert (read.roles, read.scopes, read.labels) == (user.roles, user.scopes, user.labels)
    assert (read.description, read.delete_after, read.password) == ("made by a test", end, None)


def test_an_update_changes_password_and_roles_and_leaves_the_rest(atlas: AtlasClient, cluster_mongod: Mongod) -> None:
    user = new_user(labels={"instance": "i-1"})
    atlas.create_user(user)
    atlas.update_user(user.username, password="another-password-1", roles=(AtlasRole("read", "shop"),))
    read = atlas.user(user.username)
    assert (read.roles, read.labels) == ((AtlasRole("read", "shop"),), {"instance": "i-1"})
    assert logs_in(cluster_mongod, user.username, "another-password-1")
    assert not logs_in(cluster_mongod, user.username, PASSWORD)


def logs_in(mongod: Mongod, username: str, password: str) -> bool:
    address = f"mongodb://{mongod.address}"
    with MongoClient[dict[str, object]](address, username=username, password=password) as connection:
        try:
            connection.admin.command("ping")
        except OperationFailure:
            return False
        return True


def test_a_deleted_user_is_gone_for_get_patch_and_delete_alike(atlas: AtlasClient) -> None:
    user = new_user()
    atlas.create_user(user)
    atlas.delete_user(user.username)
    codes = {
        error.code
        for error in (
            refusal(lambda: atlas.user(user.username)),
            refusal(lambda: atlas.update_user(user.username, password=PASSWORD)),
            refusal(lambda: atlas.delete_user(user.username)),
        )
        if isinstance(error, UserNotFound)
    }
    assert codes == {"USERNAME_NOT_FOUND", "USER_NOT_FOUND"}


def test_a_user_made_twice_exists(atlas: AtlasClient) -> None:
    user = new_user()
    atlas.create_user(user)
    error = refusal(lambda: atlas.create_user(user))
    assert isinstance(error, UserAlreadyExists)
    assert not error.retryable


def test_a_post_that_timed_out_after_it_acted_is_found_again_by_its_label(
    emulator: Emulator, atlas: AtlasClient
) -> None:
    hasty = client(emulator, key(emulator), timeout=(5, 1, 20))
    user = new_user(labels={"operation": "op-1"})
    emulator.hang("POST", "databaseUsers", seconds=5, when="after")
    while emulator.rules()[0]["times"]:  # a busy machine may answer the request for the challenge too late
        with pytest.raises(NoAnswer) as caught:
            hasty.create_user(user)
    assert caught.value.sent
    eventually(emulator.users, "the user is made")
    assert isinstance(refusal(lambda: atlas.create_user(user)), UserAlreadyExists)
    assert atlas.user(user.username).labels == {"operation": "op-1"}
    atlas.update_user(user.username, password="another-password-1")


@pytest.mark.parametrize("name", ["a/b", "a b", "a:b", "a%2Fb", "gr\u00fcn", "a+b&c=d?e#f", "...", "~a'(b)*!"])
def test_names_that_need_encoding_are_the_same_user_in_every_call(atlas: AtlasClient, name: str) -> None:
    user = new_user(username=f"{name}{secrets.token_hex(4)}")
    atlas.create_user(user)
    assert atlas.user(user.username).username == user.username
    atlas.update_user(user.username, roles=(AtlasRole("read", "shop"),))
    atlas.delete_user(user.username)
    assert isinstance(refusal(lambda: atlas.user(user.username)), UserNotFound)


def test_a_full_project_is_told_by_its_name(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.user_limit(1)
    atlas.create_user(new_user())
    error = refusal(lambda: atlas.create_user(new_user()))
    assert isinstance(error, UserLimitReached)
    assert not isinstance(error, Unauthorized)
    assert not error.retryable


def test_the_limit_of_users_and_the_users_themselves_are_counted(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.user_limit(7)
    for _ in range(3):
        atlas.create_user(new_user())
    assert atlas.user_limit() == 7
    assert len(list(atlas.users())) == 3


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"roles": (AtlasRole("nonsense", "shop"),)}, "UNSUPPORTED_ROLE"),
        ({"roles": (AtlasRole("auditor", "shop"),)}, "UNSUPPORTED_ROLE"),
        (
            {"roles": (AtlasRole("auditor", "admin"), AtlasRole("read", "shop"))},
            "ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT",
        ),
        ({"delete_after": datetime.now(UTC) + timedelta(days=8)}, "EXPIRATION_DATE_EXCEEDS_MAX"),
        ({"delete_after": datetime.now(UTC) - timedelta(days=1)}, "EXPIRATION_DATE_IN_PAST"),
        ({"password": "short"}, "WEAK_PASSWORD"),
    ],
)
def test_a_bad_user_is_refused_for_good(
    emulator: Emulator, atlas: AtlasClient, changes: dict[str, object], code: str
) -> None:
    emulator.put_role("auditor")
    error = refusal(lambda: atlas.create_user(new_user(**changes)))
    assert error.code == code
    assert not error.retryable


def test_a_custom_role_alone_on_admin_is_taken(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.put_role("auditor")
    atlas.create_user(new_user(roles=(AtlasRole("auditor", "admin"),)))


# --- clusters ---


def test_the_status_reads_pending_until_the_change_has_arrived(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.apply_by_hand()
    atlas.create_user(new_user())
    assert atlas.cluster_status("cluster-dev") == "PENDING"
    emulator.apply_now()
    assert atlas.cluster_status("cluster-dev") == "APPLIED"


def test_clusters_of_every_kind_are_listed_and_read(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.put_cluster("flex-1", kind="flex")
    emulator.put_cluster("free-1", kind="free")
    emulator.put_cluster("paused-1", paused=True)
    emulator.put_cluster("leaving-1", state="DELETING")
    kinds = {cluster.name: cluster.kind for cluster in atlas.clusters()}
    assert kinds["flex-1"] == "flex"
    assert kinds["free-1"] == "free"
    assert kinds["cluster-dev"] == "dedicated"
    for name, kind in kinds.items():
        assert atlas.cluster(name).kind == kind
    assert atlas.cluster("paused-1").paused
    assert atlas.cluster("leaving-1").state == "DELETING"
    assert atlas.cluster_status("flex-1") == "APPLIED"


def test_processes_and_their_databases_are_listed_page_by_page(
    emulator: Emulator, atlas: AtlasClient, cluster_mongod: Mongod
) -> None:
    names = [f"listed-{number:04}" for number in range(700)]
    process = {"hostname": "h.example", "port": 27018, "typeName": "SHARD_PRIMARY", "replicaSetName": "rs"}
    emulator.put_cluster("listed", processes=[{**process, "userAlias": "alias.example", "databases": names}])
    found = [each for each in atlas.processes() if each.host == "h.example"]
    assert found == [Process("h.example", 27018, "alias.example", "rs", "SHARD_PRIMARY")]
    assert sorted(atlas.databases("h.example", 27018)) == names
    with cluster_mongod.client() as root:
        root["really-there"]["things"].insert_one({})
        host, port = root.address or ("", 0)
    assert "really-there" in atlas.databases(host, port)
    emulator.hide_databases(["really-there"])
    assert "really-there" not in atlas.databases(host, port)
    assert refusal(lambda: atlas.databases("nowhere.example", 27017)).status == 404
    emulator.put_cluster("small", kind="free", connection_strings={"standard": "mongodb://small.example:27017/"})
    assert refusal(lambda: atlas.databases("small.example", 27017)).status == 400


def test_a_missing_cluster_is_missing_and_no_user_is_gone_for_it(atlas: AtlasClient) -> None:
    for ask in (atlas.cluster, atlas.cluster_status):
        error = refusal(partial(ask, "no-such-cluster"))
        assert isinstance(error, ClusterNotFound)
        assert not isinstance(error, UserNotFound)
        assert "no-such-cluster" in str(error)


def test_a_missing_project_is_neither_gone_nor_a_missing_cluster(emulator: Emulator) -> None:
    emulator.put_key("other", "other-private", ["000000000000000000000000"])
    atlas = client(emulator, ApiKey("other", "other-private"), project="000000000000000000000000")
    error = refusal(lambda: atlas.delete_user("user-1"))
    assert error.code == "GROUP_NOT_FOUND"
    assert not isinstance(error, UserNotFound)
    assert not isinstance(error, ClusterNotFound)


def test_project_and_access_list_are_read(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.put_project(emulator.project_id, access_list=["10.1.2.3", "192.168.0.0/16"])
    assert atlas.project()["id"] == emulator.project_id
    assert [entry.cidr for entry in atlas.access_list()] == ["10.1.2.3/32", "192.168.0.0/16"]


# --- keys ---


def test_many_calls_cost_few_challenges(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.digest_nonces(uses=10)
    for _ in range(60):
        atlas.cluster_status("cluster-dev")
    challenged = [call for call in emulator.calls() if call["challenge"]]
    assert len(challenged) / 60 <= 0.3


def test_expired_nonces_are_not_noticed(emulator: Emulator, atlas: AtlasClient, observed: list[Answer]) -> None:
    for _ in range(3):
        atlas.create_user(new_user())
        emulator.expire_nonces()
    assert [(answer.status, answer.requests) for answer in observed] == [(201, 2)] * 3


def test_a_bad_key_is_unauthorized(emulator: Emulator) -> None:
    error = refusal(lambda: client(emulator, ApiKey(emulator.public_key, "wrong")).delete_user("user-1"))
    assert isinstance(error, Unauthorized)
    assert error.retryable
    assert not isinstance(error, UserNotFound)


def test_a_key_that_may_only_read_cannot_make_users(emulator: Emulator) -> None:
    emulator.put_key("reader", "reader-private", [emulator.project_id], read_only=True)
    atlas = client(emulator, ApiKey("reader", "reader-private"))
    atlas.project()
    assert isinstance(refusal(lambda: atlas.create_user(new_user())), Unauthorized)


def test_a_key_of_another_project_is_unauthorized(emulator: Emulator) -> None:
    emulator.put_key("other", "other-private", [])
    error = refusal(lambda: client(emulator, ApiKey("other", "other-private")).delete_user("user-1"))
    assert isinstance(error, Unauthorized)
    assert not isinstance(error, UserNotFound)


def test_an_address_outside_the_access_list_is_named(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.allow_addresses(["10.0.0.1"])
    error = refusal(lambda: atlas.user("user-1"))
    assert isinstance(error, Unauthorized)
    assert "127.0.0.1" in str(error)


# --- service accounts ---


def test_threads_of_several_clients_share_one_token(emulator: Emulator) -> None:
    tokens = MemoryTokens()
    clients = [client(emulator, account(emulator, tokens)) for _ in range(4)]
    failures: list[AtlasError] = []

    def work(one: AtlasClient) -> None:
        try:
            for _ in range(5):
                one.cluster_status("cluster-dev")
        except AtlasError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in clients for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert emulator.live_tokens() == 1


def test_a_revoked_token_is_replaced_once_and_the_call_repeated(emulator: Emulator) -> None:
    observed: list[Answer] = []
    atlas = client(emulator, account(emulator), observed)
    atlas.create_user(new_user())
    emulator.revoke_tokens()
    atlas.create_user(new_user())
    assert [(answer.path, answer.status, answer.requests) for answer in observed if "oauth" in answer.path] == [
        ("/api/oauth/token", 200, 1)
    ] * 2
    assert (observed[-1].status, observed[-1].requests) == (201, 2)


def test_a_token_that_lives_for_two_seconds_only_is_renewed_in_time(emulator: Emulator) -> None:
    emulator.tokens(seconds=2)
    observed: list[Answer] = []
    atlas = client(emulator, account(emulator), observed)
    began = time.monotonic()

    def mints_after_a_call() -> int:
        atlas.cluster_status("cluster-dev")
        return len([answer for answer in observed if "oauth" in answer.path])

    for _ in range(12):
        mints_after_a_call()
        time.sleep(0.1)
    eventually(lambda: mints_after_a_call() >= 2, "another token is minted")
    assert {answer.status for answer in observed} == {200}
    assert mints_after_a_call() <= 2 + (time.monotonic() - began) / 1.6, "one each 1.6 s at most, and one for a stall"


def test_a_wrong_secret_a_limited_endpoint_and_too_many_tokens_are_told_apart(emulator: Emulator) -> None:
    wrong = ServiceAccount(emulator.client_id, "wrong", MemoryTokens())
    assert refusal(client(emulator, wrong).project).code == "invalid_client"
    emulator.tokens(mint_limit=0)
    assert refusal(client(emulator, account(emulator)).project).status == 429
    emulator.tokens(mint_limit=50, live_limit=0)
    assert refusal(client(emulator, account(emulator)).project).code == "access_denied"


# --- trouble ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_closed_connection_is_no_answer_and_the_next_call_works(
    emulator: Emulator, atlas: AtlasClient, when: str
) -> None:
    user = new_user()
    emulator.rule(method="POST", path="databaseUsers", drop=when)
    with pytest.raises(NoAnswer) as caught:
        atlas.create_user(user)
    assert caught.value.sent
    assert [each.username for each in atlas.users()] == ([user.username] if when == "after" else [])


def test_html_of_a_503_is_nonsense(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.fail("GET", "/status", status=503, html=True, headers={"Retry-After": "3"})
    with pytest.raises(UnreadableAnswer) as caught:
        atlas.cluster_status("cluster-dev")
    assert (caught.value.status, caught.value.retry_after) == (503, 3)
    assert atlas.cluster_status("cluster-dev") == "APPLIED"


def test_an_empty_bucket_tells_when_to_come_back(
    emulator: Emulator, atlas: AtlasClient, observed: list[Answer]
) -> None:
    emulator.rate("users", capacity=2, refill=1)
    errors = [refusal(lambda: atlas.user("user-1")) for _ in range(3)]
    assert errors[-1].status == 429
    assert errors[-1].retryable
    assert (errors[-1].retry_after or 0) >= 1
    assert [(answer.limit, answer.remaining) for answer in observed[:2]] == [(2, 1), (2, 0)]


def test_an_upgrade_of_atlas_is_worth_waiting_for(emulator: Emulator, atlas: AtlasClient) -> None:
    emulator.fail("POST", "databaseUsers", status=405, error_code="WRITES_NOT_ALLOWED_DURING_APP_UPGRADES")
    user = new_user()
    assert refusal(lambda: atlas.create_user(user)).retryable
    atlas.create_user(user)
