"""When a change of a user reaches the cluster: what its status reads, and who can log in."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.emulator.model import Json, wire_time
from tests.emulator_tests.conftest import CLUSTERS, PASSWORD, Api, Login
from tests.tenant import eventually


def test_at_once_a_user_works_when_post_is_answered_and_not_after_delete(api: Api, name: str, login: Login) -> None:
    api.post_user(name)
    assert api.status() == "APPLIED"
    assert login(name)
    assert not login(name, "another password")
    api("DELETE", f"/databaseUsers/admin/{name}")
    assert not login(name)


def test_after_polls_the_login_is_refused_until_the_status_reads_applied(api: Api, name: str, login: Login) -> None:
    api.emulator.apply_after(polls=2)
    api.post_user(name)
    assert [api.status(), api.status()] == ["PENDING", "PENDING"]
    assert not login(name)
    assert api.status() == "APPLIED"
    assert login(name)


def test_after_seconds_the_login_works_without_any_poll(api: Api, name: str, login: Login) -> None:
    api.emulator.apply_after(seconds=60)
    api.post_user(f"{name}-later")
    assert api.status() == "PENDING"
    assert not login(f"{name}-later")
    api.emulator.apply_now()
    api.emulator.apply_after(seconds=0.5)
    api.post_user(name)
    eventually(lambda: login(name))
    eventually(lambda: api.status() == "APPLIED")


def test_a_deleted_user_logs_in_until_the_change_is_applied(api: Api, name: str, login: Login) -> None:
    api.post_user(name)
    api.emulator.apply_by_hand()
    api("DELETE", f"/databaseUsers/admin/{name}")
    assert api("GET", f"/databaseUsers/admin/{name}").status_code == 404
    assert login(name)
    assert api.emulator.users() == [{"username": name, "deleted": True, "applied": False}]
    api.emulator.apply_now()
    assert not login(name)
    assert api.emulator.users() == []


def test_a_new_password_works_when_it_is_applied(api: Api, name: str, login: Login) -> None:
    api.post_user(name)
    api.emulator.apply_after(polls=1)
    api("PATCH", f"/databaseUsers/admin/{name}", json={"password": "a-new-password"})
    assert login(name)
    assert [api.status(), api.status()] == ["PENDING", "APPLIED"]
    assert login(name, "a-new-password")
    assert not login(name)


def test_a_stale_applied_comes_before_pending(api: Api, name: str, login: Login) -> None:
    api.emulator.apply_after(stale_polls=2, polls=1)
    api.post_user(name)
    assert [api.status(), api.status()] == ["APPLIED", "APPLIED"]
    assert not login(name)
    assert [api.status(), api.status()] == ["PENDING", "APPLIED"]
    assert login(name)


def test_a_stale_applied_may_last_seconds(api: Api, name: str) -> None:
    api.emulator.apply_after(stale_seconds=60)
    api.post_user(name)
    assert api.status() == "APPLIED"
    api.emulator.apply_after(stale_seconds=0.5, seconds=60)
    api.post_user(f"{name}-2")
    eventually(lambda: api.status() == "PENDING")
    assert [user["applied"] for user in api.emulator.users()] == [False, False]
    api.emulator.apply_now()
    api.emulator.apply_after(stale_seconds=0.3, seconds=0.3)
    api.post_user(f"{name}-3")
    eventually(lambda: all(user["applied"] for user in api.emulator.users()))
    assert api.status() == "APPLIED"


def test_the_status_is_each_clusters_own(api: Api, name: str) -> None:
    api.emulator.apply_by_hand()
    api.post_user(name, scopes=[{"name": "cluster-test", "type": "CLUSTER"}])
    assert (api.status("cluster-dev"), api.status("cluster-test")) == ("APPLIED", "PENDING")


def test_a_later_change_keeps_the_status_pending(api: Api, name: str, login: Login) -> None:
    api.emulator.apply_after(polls=1)
    api.post_user(name)
    assert api.status() == "PENDING"
    api.post_user(f"{name}-2")
    assert api.status() == "PENDING"
    assert login(name)
    assert not login(f"{name}-2")
    assert api.status() == "APPLIED"


def test_a_user_is_gone_when_its_date_has_passed(api: Api, name: str, login: Login) -> None:
    def date(**ahead: float) -> str:
        return wire_time(datetime.now(UTC) + timedelta(**ahead))

    api.post_user(name, deleteAfterDate=date(hours=1))
    assert login(name)
    path = f"/databaseUsers/admin/{name}"
    eventually(lambda: api("PATCH", path, json={"deleteAfterDate": date(seconds=2)}).ok, "the date is not over yet")
    eventually(lambda: not login(name))
    assert api("GET", path).status_code == 404


@pytest.mark.parametrize("kind", ["database", "collection", "custom", "admin"])
def test_roles_are_real(api: Api, name: str, cluster_mongod: Mongod, kind: str) -> None:
    api.emulator.put_role("writer", actions=[{"action": "INSERT", "resources": [{"db": "shop", "collection": "a"}]}])
    role = {
        "database": {"roleName": "readWrite", "databaseName": "shop"},
        "collection": {"roleName": "readWrite", "databaseName": "shop", "collectionName": "a"},
        "custom": {"roleName": "writer", "databaseName": "admin"},
        "admin": {"roleName": "atlasAdmin", "databaseName": "admin"},
    }[kind]
    assert api.post_user(name, roles=[role]).status_code == 201
    allowed = {"database": {"shop.b"}, "collection": set(), "custom": set(), "admin": {"shop.b", "other.c"}}[kind]
    with MongoClient[Json](f"mongodb://{cluster_mongod.address}", username=name, password=PASSWORD) as client:
        client["shop"]["a"].insert_one({})
        for place in ("shop.b", "other.c"):
            assert _may_write(client, place) == (place in allowed)


def _may_write(client: MongoClient[Json], place: str) -> bool:
    database, collection = place.split(".")
    try:
        client[database][collection].insert_one({})
    except OperationFailure:
        return False
    return True


def test_the_standard_connection_string_leads_to_the_real_server(api: Api, name: str) -> None:
    api.post_user(name)
    strings = api("GET", "/clusters/cluster-dev", version=CLUSTERS).json()["connectionStrings"]
    with MongoClient[Json](strings["standard"], username=name, password=PASSWORD) as client:
        assert client["shop"]["a"].count_documents({}) >= 0


def test_a_hundred_users_made_at_once_are_all_there_and_all_work(api: Api, atlas: Emulator, login: Login) -> None:
    atlas.apply_after(seconds=0.3)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: api.post_user(f"many-{number}").status_code, range(100)))
    assert answers == [201] * 100
    assert api("GET", "/databaseUsers").json()["totalCount"] == 100
    eventually(lambda: api.status() == "APPLIED")
    assert login("many-99")
    # Users without scopes go to every cluster; the status was that of one.
    eventually(lambda: all(user["applied"] for user in atlas.users()))


def test_the_mongod_being_away_keeps_the_status_pending(atlas: Emulator, api: Api, name: str) -> None:
    atlas.put_cluster("cut-off", mongo="mongodb://127.0.0.1:1/?authSource=admin&serverSelectionTimeoutMS=100")
    api.post_user(name, scopes=[{"name": "cut-off", "type": "CLUSTER"}])
    assert api.status("cut-off") == "PENDING"
