"""``atlas-broker check``: a line for everything that the broker needs, and what to do where it is bad."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from broker_api.jobs.queue import QUEUES
from broker_api.settings.settings import load
from broker_api.state.announcements import Announcements
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.store import Store
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import free_port, run_to_end, script
from tests.dev.services import Mongod, Redis
from tests.emulator.client import Emulator
from tests.tenant import eventually
from workers.context import compose
from workers.maintenance.check import check, findings
from workers.probes import trouble_with_credentials, try_credentials

PROJECT = Emulator.project_id
Settings = dict[str, str]


@pytest.fixture(scope="module")
def own(cluster_mongod: Mongod) -> Iterator[AtlasEmulator]:
    with AtlasEmulator(cluster_mongod, name="atlas-to-check") as emulator:
        yield emulator


@pytest.fixture
def atlas(own: AtlasEmulator) -> Emulator:
    own.control.clear()
    return own.control


@pytest.fixture
def settings(atlas: Emulator, state_mongod: Mongod, redis_server: Redis) -> Settings:
    """What a worker gets, while another one lives."""
    with_a_worker("check", state_mongod)
    return {
        "BROKER_MONGO_URI": state_mongod.uri,
        "BROKER_MONGO_DB": "check",
        "BROKER_MONGO_TIMEOUT_MS": "10000",
        "BROKER_REDIS_URL": redis_server.uri,
        "BROKER_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "MONGODB_ATLAS_BASE_URL": atlas.base_url,
        "MONGODB_ATLAS_PROJECT_ID": PROJECT,
        "MONGODB_ATLAS_PUBLIC_API_KEY": atlas.public_key,
        "MONGODB_ATLAS_PRIVATE_API_KEY": atlas.private_key,
    }


def with_a_worker(database: str, server: Mongod) -> None:
    """Let a worker live that consumes every queue, for the next hour."""
    with server.client() as client:
        store = Store(client, database, "instances")
        about = {"name": "worker@here", "host": "here", "pid": 7}
        Announcements(Housekeeping(store), about).announce(set(QUEUES.values()), {})
        later = {"$set": {"seen": datetime.now(UTC) + timedelta(hours=1)}}
        store.housekeeping.update_many({"pid": 7}, later)


def of(mark: str, settings: Settings) -> list[str]:
    """The sentences with this mark."""
    return [sentence for found, sentence in findings(settings) if found == mark]


def only(sentences: list[str]) -> str:
    assert len(sentences) == 1, sentences
    return sentences[0]


def run(settings: Settings) -> subprocess.CompletedProcess[str]:
    command = [str(script("atlas-broker")), "check"]
    return run_to_end(command, settings)


def test_all_good_is_exit_status_0_with_a_line_for_each_thing(settings: Settings) -> None:
    done = run(settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert all(line.startswith("good  ") for line in done.stdout.splitlines())
    for what in (
        "settings: all there",
        "MongoDB: replica set rs0",
        "encryption keys: open all 0 stored secrets",
        "Redis: answers",
        "live, each queue is consumed",
        f"project {PROJECT}: the API key opens it, its name is emulated",
        f"project {PROJECT}: the API key may change database users",
        f"project {PROJECT}: cluster cluster-dev (dedicated, IDLE) can be used",
        f"project {PROJECT}: its IP access list lets this host reach the clusters",
        f"project {PROJECT}: 0 of at most 100 database users",
    ):
        assert what in done.stdout


def test_everything_broken_is_exit_status_1_without_a_traceback(settings: Settings) -> None:
    away = f"127.0.0.1:{free_port()}"
    broken = {
        "BROKER_MONGO_URI": f"mongodb://somebody:hidden-secret@{away}/",
        "BROKER_MONGO_TIMEOUT_MS": "1000",
        "BROKER_REDIS_URL": f"redis://:hidden-secret@{away}/0",
        "MONGODB_ATLAS_BASE_URL": f"http://{away}",
    }
    done = CliRunner().invoke(check, env=settings | broken)
    assert isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code == 1
    assert "hidden-secret" not in done.output
    marks = [line[:4] for line in done.stdout.splitlines()]
    assert marks == ["good", "bad ", "warn", "bad ", "bad "], done.stdout


def test_json_has_the_same_findings_and_the_same_exit_status(settings: Settings) -> None:
    wrong = settings | {"MONGODB_ATLAS_PRIVATE_API_KEY": "wrong"}
    ended = CliRunner().invoke(check, ["--json"], env=wrong)
    assert ended.exit_code == 1
    assert json.loads(ended.stdout) == [{"result": mark, "finding": sentence} for mark, sentence in findings(wrong)]


@pytest.mark.parametrize("variable", ["BROKER_MONGO_URI", "BROKER_ENCRYPTION_KEYS", "MONGODB_ATLAS_PRIVATE_API_KEY"])
def test_a_missing_setting_is_named(settings: Settings, variable: str) -> None:
    del settings[variable]
    assert variable in only(of("bad", settings))


def test_a_config_that_cannot_be_loaded_is_named_without_its_text(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_config.py").write_text("raise ValueError('hidden-secret')")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = only(of("bad", settings | {"BROKER_CONFIG": "broken_config:config"}))
    assert "BROKER_CONFIG" in sentence
    assert "hidden-secret" not in sentence


def test_a_uri_that_is_none(settings: Settings) -> None:
    assert of("bad", settings | {"BROKER_MONGO_URI": "mongodb://"})[0].startswith("settings: BROKER_MONGO_URI")


def test_mongodb_with_a_wrong_password(settings: Settings, cluster_mongod: Mongod) -> None:
    uri = f"mongodb://nobody:hidden-secret@{cluster_mongod.address}/"
    sentence = of("bad", settings | {"BROKER_MONGO_URI": uri})[0]
    why = "it refuses the user name or password (OperationFailure, code 18)"
    assert sentence.startswith(f"MongoDB: cannot be used: {why}")


def test_an_option_of_the_uri_that_is_not_used_is_named_without_its_value(
    settings: Settings, state_mongod: Mongod
) -> None:
    uri = f"{state_mongod.uri}&readPreference=secondary&w=hidden-secret&appname=kept&retryWrites=true"
    assert only(of("warn", settings | {"BROKER_MONGO_URI": uri})) == (
        "settings: BROKER_MONGO_URI: not used are readPreference, w; the broker decides that itself"
    )


def test_state_and_queue_without_tls_are_named(settings: Settings) -> None:
    away = {"BROKER_MONGO_URI": "mongodb://mongo.invalid/", "BROKER_REDIS_URL": "redis://redis.invalid"}
    warned = of("warn", settings | away | {"BROKER_MONGO_TIMEOUT_MS": "100"})
    for variable in away:
        assert any(line.startswith(f"settings: {variable}: no TLS") for line in warned)


def test_an_option_that_is_refused(settings: Settings, state_mongod: Mongod) -> None:
    uri = f"mongodb://{state_mongod.address}/?directConnection=true"
    assert "without directConnection=true" in only(of("bad", settings | {"BROKER_MONGO_URI": uri}))


def test_mongodb_that_is_no_replica_set(settings: Settings, cluster_mongod: Mongod) -> None:
    with_a_worker("check", cluster_mongod)
    assert "is no replica set" in only(of("warn", settings | {"BROKER_MONGO_URI": cluster_mongod.uri}))


def test_mongodb_that_may_not_be_written_to(settings: Settings, cluster_mongod: Mongod) -> None:
    with cluster_mongod.client() as root:
        root.admin.command("createUser", "reader", pwd="reader", roles=["readAnyDatabase"])
    try:
        uri = f"mongodb://reader:reader@{cluster_mongod.address}/"
        sentence = of("bad", settings | {"BROKER_MONGO_URI": uri})[0]
    finally:
        with cluster_mongod.client() as root:
            root.admin.command("dropUser", "reader")
    why = "its user is not authorised to do this (OperationFailure, code 13)"
    assert sentence == f"MongoDB: cannot be written to: {why}; give its user readWrite on check"


def test_an_encryption_key_that_was_taken_away(settings: Settings, state_mongod: Mongod) -> None:
    old, new = settings["BROKER_ENCRYPTION_KEYS"], Fernet.generate_key().decode()
    database = f"check-{new_database()}"
    settings["BROKER_MONGO_DB"] = database
    with state_mongod.client() as client:
        sealed = Fernet(old).encrypt(json.dumps({"password": "p"}).encode()).decode()
        client[database]["instances"].insert_one({"_id": "binding/i/b", "sealed_credentials": sealed})
    lost = only(of("bad", settings | {"BROKER_ENCRYPTION_KEYS": new}))
    assert lost.startswith("encryption keys: 1 of 1 stored secrets do not open; put the key")
    kept = settings | {"BROKER_ENCRYPTION_KEYS": f"{new},{old}"}
    assert "open all 1 stored secrets, 1 of them by an older key, which must stay" in " ".join(of("good", kept))


def test_keys_that_are_not_those_of_the_other_processes(settings: Settings, state_mongod: Mongod) -> None:
    settings["BROKER_MONGO_DB"] = f"check-{new_database()}"
    with state_mongod.client() as client:
        store = Store(client, settings["BROKER_MONGO_DB"], "instances")
        assert KeyCheck(Housekeeping(store), Vault((Fernet.generate_key().decode(),))).problem() is None
    assert only(of("bad", settings)).startswith("encryption keys: are not those of the other processes")


def test_documents_that_cannot_be_read_are_named(settings: Settings, state_mongod: Mongod) -> None:
    settings["BROKER_MONGO_DB"] = f"check-{new_database()}"
    with_a_worker(settings["BROKER_MONGO_DB"], state_mongod)
    operation = {"id": "provision-1", "kind": "provision", "state": "succeeded"}
    newer = {"_id": "instance/newer", "instance_id": "newer", "phase": "hibernating", "operation": operation}
    with state_mongod.client() as client:
        documents = client[settings["BROKER_MONGO_DB"]]["instances"]
        documents.insert_many(
            [newer, {"_id": "instance/broken", "operation": 7}, newer | {"_id": "well", "phase": "ready"}]
        )
        documents.insert_one({"instance_id": "old", "database": "d", "cluster": "c", "parameters": {}})
        old, sentence = of("warn", settings)
        client.drop_database(settings["BROKER_MONGO_DB"])
    assert old == "stored documents: 1 of atlasbroker 2.0.0 are not completed; run atlas-broker migrate"
    assert sentence.startswith("stored documents: 2 cannot be read, or only by another release: ")
    assert "instance/newer" in sentence
    assert "instance/broken" in sentence


def new_database() -> str:
    return Fernet.generate_key().decode()[:8].replace("-", "").replace("_", "")


# --- Atlas


def test_a_wrong_key(settings: Settings) -> None:
    sentence = only(of("bad", settings | {"MONGODB_ATLAS_PRIVATE_API_KEY": "wrong"}))
    assert sentence.startswith(f"project {PROJECT}: Atlas refused")
    assert "Check the API key" in sentence


def test_a_project_that_does_not_exist(settings: Settings) -> None:
    wrong = settings | {"MONGODB_ATLAS_PROJECT_ID": "0" * 24}
    sentence = only(of("bad", wrong))
    assert "GROUP_NOT_FOUND). Check the id of the project" in sentence
    context = compose(load(wrong, "worker"))
    with context.store.collection.database.client, capture_logs() as logged:
        try_credentials(context)
        eventually(lambda: any(each["event"] == "credentials_refused" for each in logged), "the worker logs it")
        told = trouble_with_credentials(context.projects.values())
        context.stopping.set()
    assert told == "Atlas has not yet accepted the credentials of 1 of 1 projects"


def test_an_address_that_the_api_access_list_does_not_have(settings: Settings, atlas: Emulator) -> None:
    atlas.allow_addresses(["203.0.113.7"])
    sentence = only(of("bad", settings))
    assert "IP_ADDRESS_NOT_ON_ACCESS_LIST" in sentence
    assert "API access list" in sentence


def test_a_key_of_another_project(settings: Settings, atlas: Emulator) -> None:
    atlas.put_key("elsewhere", "elsewhere-secret", [])
    key = {"MONGODB_ATLAS_PUBLIC_API_KEY": "elsewhere", "MONGODB_ATLAS_PRIVATE_API_KEY": "elsewhere-secret"}
    assert "NOT_IN_GROUP" in only(of("bad", settings | key))


def test_a_key_that_may_only_read(settings: Settings, atlas: Emulator) -> None:
    atlas.put_key("reader", "reader-secret", [PROJECT], read_only=True)
    key = {"MONGODB_ATLAS_PUBLIC_API_KEY": "reader", "MONGODB_ATLAS_PRIVATE_API_KEY": "reader-secret"}
    assert only(of("bad", settings | key)) == (
        f"project {PROJECT}: the API key may not change database users (it has GROUP_READ_ONLY); "
        "give it Project Database Access Admin"
    )


@pytest.mark.parametrize("read_only", [False, True])
def test_a_service_account_whose_roles_are_not_told_is_tried(
    settings: Settings, atlas: Emulator, *, read_only: bool
) -> None:
    atlas.put_account("mdb_sa_id_c", "mdb_sa_sk_c", [PROJECT], read_only=read_only)
    account = {"MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_c", "MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_c"}
    may = f"project {PROJECT}: the service account may {'not ' if read_only else ''}change database users"
    assert any(sentence.startswith(may) for sentence in of("bad" if read_only else "good", settings | account))
    assert not atlas.users()


def test_a_key_whose_roles_atlas_does_not_tell_is_tried(settings: Settings, atlas: Emulator) -> None:
    atlas.fail("GET", "/api/atlas/v2$", times=None, status=404, html=True)
    may = f"project {PROJECT}: the API key may change database users"
    assert any(sentence.startswith(may) for sentence in of("good", settings))


def owner_config(directory: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> Settings:
    """Return the setting of a config whose plan has more than the default one."""
    name = f"config_{line.encode().hex()[:16]}"
    plan = "config.broker['plans'][0]"
    text = f"from broker_api.config import Config\nconfig = Config(None, None)\nplan = {plan}\n{line}\n"
    (directory / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(directory)
    return {"BROKER_CONFIG": f"{name}:config"}


LACKING = [
    "may not change the IP access list (it has GROUP_DATABASE_ACCESS_ADMIN); give it Project Network Access Manager",
    "may not create certificates of database users (it has GROUP_DATABASE_ACCESS_ADMIN); give it Project Owner",
]


@pytest.mark.parametrize("account", [False, True])
def test_the_roles_that_plans_need_are_missing_or_there(
    settings: Settings, atlas: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, account: bool
) -> None:
    line = "plan.update(access_list=['203.0.113.7'], authentication=['x509'])"
    settings |= owner_config(tmp_path, monkeypatch, line)
    put, kind = (atlas.put_account, "service account") if account else (atlas.put_key, "API key")
    names = ("CLIENT_ID", "CLIENT_SECRET") if account else ("PUBLIC_API_KEY", "PRIVATE_API_KEY")
    settings |= {f"MONGODB_ATLAS_{name}": f"roles-{name}" for name in names}
    public, private = (f"roles-{name}" for name in names)
    put(public, private, [PROJECT], roles=["GROUP_DATABASE_ACCESS_ADMIN"])
    lacking = [each.replace(" (it has GROUP_DATABASE_ACCESS_ADMIN)", "") if account else each for each in LACKING]
    assert of("bad", settings) == [f"project {PROJECT}: the {kind} {sentence}" for sentence in lacking]
    put(public, private, [PROJECT])
    assert not of("bad", settings)
    good = "\n".join(of("good", settings))
    for does in ("change database users", "change the IP access list", "create certificates of database users"):
        assert f"the {kind} may {does}" in good


def test_the_roles_that_new_clusters_need(settings: Settings, atlas: Emulator) -> None:
    settings |= {"BROKER_PLANS": "dedicated,flex", "MONGODB_ATLAS_PUBLIC_API_KEY": "creator"}
    names = ["GROUP_CLUSTER_CREATOR", "GROUP_DATABASE_ACCESS_ADMIN"]
    atlas.put_key("creator", settings["MONGODB_ATLAS_PRIVATE_API_KEY"], [PROJECT], roles=names)
    has = f"(it has {', '.join(names)})"
    assert of("bad", settings) == [
        f"project {PROJECT}: the API key may not change clusters {has}; give it Project Cluster Manager",
        f"project {PROJECT}: the API key may not terminate clusters {has}; give it Project Owner",
    ]
    for cluster in ("cluster-dev", "cluster-test"):  # plans that make clusters need none
        atlas.delete_cluster(cluster)
    account = {"MONGODB_ATLAS_CLIENT_ID": atlas.client_id, "MONGODB_ATLAS_CLIENT_SECRET": atlas.client_secret}
    assert not of("bad", settings | account)
    assert any(each.endswith("may terminate clusters") for each in of("good", settings | account))


def test_a_check_uses_the_workers_token_and_mints_none_of_its_own(settings: Settings, atlas: Emulator) -> None:
    atlas.put_account("mdb_sa_id_d", "mdb_sa_sk_d", [PROJECT])
    account = {"MONGODB_ATLAS_CLIENT_ID": "mdb_sa_id_d", "MONGODB_ATLAS_CLIENT_SECRET": "mdb_sa_sk_d"}
    for _ in range(3):
        assert not of("bad", settings | account)
    assert atlas.live_tokens() == 1


def test_clusters_that_cannot_be_used_are_listed_with_the_reason(settings: Settings, atlas: Emulator) -> None:
    atlas.put_cluster("cluster-test", paused=True)
    atlas.put_cluster("going", state="DELETING")
    atlas.put_cluster("coming", state="CREATING")
    atlas.put_cluster("tiny", kind="free")
    atlas.put_cluster("bendy", kind="flex")
    paused, going, coming = of("warn", settings)
    assert paused.endswith("cannot be used. The cluster cluster-test is paused; resume it first.")
    assert going.endswith("cluster going (dedicated, DELETING) cannot be used. The cluster going is being deleted.")
    assert coming.endswith("cluster coming (dedicated, CREATING) cannot be used yet; instances on it wait")
    good = "\n".join(of("good", settings))
    assert "cluster tiny (free, IDLE) can be used" in good
    assert "cluster bendy (flex, IDLE) can be used" in good
    assert not of("bad", settings)


def test_a_project_without_a_cluster_that_can_be_used(settings: Settings, atlas: Emulator) -> None:
    atlas.put_cluster("cluster-test", paused=True)
    atlas.delete_cluster("cluster-dev")
    assert only(of("bad", settings)) == f"project {PROJECT}: no cluster can be used; create or resume one"


def test_an_access_list_that_does_not_contain_this_host(settings: Settings, atlas: Emulator) -> None:
    atlas.put_project(PROJECT, access_list=["203.0.113.0/24"])
    assert "does not contain this host's address 127.0.0.1" in only(of("warn", settings))
    atlas.put_project(PROJECT, access_list=["127.0.0.0/8"])
    assert not of("warn", settings)


@pytest.mark.parametrize(("limit", "mark"), [(100, "good"), (10, "warn"), (8, "bad")])
def test_database_users_against_the_limit(settings: Settings, atlas: Emulator, limit: int, mark: str) -> None:
    from tests.integration.test_atlas_client import client, key, new_user  # noqa: PLC0415  their way to make users

    for _ in range(8):
        client(atlas, key(atlas)).create_user(new_user())
    atlas.user_limit(limit)
    assert any(f"8 of at most {limit} database users" in sentence for sentence in of(mark, settings))


def test_a_plan_that_pins_what_is_not_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pinning_config.py").write_text(
        "from broker_api.config import Config\n"
        "config = Config(None, None)\n"
        f"config.broker['plans'][0].update(project='{PROJECT}', cluster='nowhere')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sentence = only(of("bad", settings | {"BROKER_CONFIG": "pinning_config:config"}))
    assert sentence.startswith(f"project {PROJECT}: there is no cluster nowhere, which the plan")
