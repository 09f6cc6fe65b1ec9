import json
import os
import re
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from celery.concurrency.thread import TaskPool
from click.testing import CliRunner

from broker_api.broker import Broker
from broker_api.catalog.catalog import Catalog
from broker_api.cli import cli
from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.settings.redis_settings import RedisSettings
from broker_api.settings.settings import Part, Settings, load
from tests.dev.processes import CHECKOUT, run_to_end, script
from tests.docs.settings_page import page
from tests.unit import broken_config

KEY = urlsafe_b64encode(bytes(range(32))).decode()  # the same in each process that collects these tests
WORKS = {
    "BROKER_MONGO_URI": "mongodb://localhost",
    "BROKER_USERS": "platform:secret",
    "BROKER_ENCRYPTION_KEYS": KEY,
    "MONGODB_ATLAS_PUBLIC_API_KEY": "public",
    "MONGODB_ATLAS_PRIVATE_API_KEY": "private",
    "MONGODB_ATLAS_PROJECT_ID": "project",
}

NO_KEY: dict[str, str | None] = {"MONGODB_ATLAS_PUBLIC_API_KEY": None, "MONGODB_ATLAS_PRIVATE_API_KEY": None}

DESIGN = [
    "MONGODB_ATLAS_PUBLIC_API_KEY",
    "MONGODB_ATLAS_PRIVATE_API_KEY",
    "MONGODB_ATLAS_CLIENT_ID",
    "MONGODB_ATLAS_CLIENT_SECRET",
    "MONGODB_ATLAS_PROJECT_ID",
    "MONGODB_ATLAS_BASE_URL",
    "BROKER_MONGO_URI",
    "BROKER_MONGO_DB",
    "BROKER_MONGO_COLLECTION",
    "BROKER_MONGO_TIMEOUT_MS",
    "BROKER_REDIS_URL",
    "BROKER_USERS",
    "BROKER_ENCRYPTION_KEYS",
    "BROKER_WORKER_KEYS",
    "BROKER_SECRETS",
    "BROKER_CONFIG",
    "BROKER_API_PROCESSES",
    "BROKER_SYNC_WAIT_SECONDS",
    "BROKER_SETTLE_SECONDS",
    "BROKER_VERIFY_LOGIN",
    "BROKER_PLANS",
    "BROKER_LOG_LEVEL",
    "BROKER_METRICS_PORT",
    "BROKER_FLOWER_URL",
]
"""Every variable that the design has."""


def loaded(changes: Mapping[str, str | None] | None = None, part: Part = "worker") -> Settings:
    """With settings that work, but for these; None takes one away."""
    environ = {name: value for name, value in {**WORKS, **(changes or {})}.items() if value is not None}
    return load(environ, part)


def refusal(changes: Mapping[str, str | None], part: Part = "worker") -> str:
    with pytest.raises(SettingError) as error:
        loaded(changes, part)
    return str(error.value)


# --- what each setting is ---------------------------------------------------------------------------------------


def test_what_is_not_set_has_the_defaults_of_the_design() -> None:
    made = loaded()
    assert made.redis == RedisSettings.parse("redis://127.0.0.1:6379/0")
    assert made.base_url == "https://cloud.mongodb.com"
    assert (made.sync_wait, made.settle, made.verify_login) == (50, 5, False)
    assert made.processes == min(4, len(os.sched_getaffinity(0)))
    assert (made.mongo_db, made.mongo_collection, made.mongo_timeout_ms) == ("atlas_broker", "instances", 5000)


@pytest.mark.parametrize(
    ("variable", "value", "field", "meaning"),
    [
        ("BROKER_MONGO_URI", "mongodb+srv://h.test", "mongo_uri", "mongodb+srv://h.test"),
        ("BROKER_MONGO_DB", "d", "mongo_db", "d"),
        ("BROKER_MONGO_COLLECTION", "c", "mongo_collection", "c"),
        ("BROKER_MONGO_TIMEOUT_MS", "250", "mongo_timeout_ms", 250),
        ("BROKER_REDIS_URL", "rediss://h", "redis", RedisSettings.parse("rediss://h")),
        ("BROKER_REDIS_URL", "sentinel://h", "redis", RedisSettings.parse("sentinel://h")),
        ("BROKER_USERS", "a:b, c:d:e", "users", {"a": "b", "c": "d:e"}),
        ("BROKER_ENCRYPTION_KEYS", f"{KEY}, {KEY}", "encryption_keys", (KEY, KEY)),
        ("MONGODB_ATLAS_BASE_URL", "https://h/", "base_url", "https://h"),
        ("BROKER_FLOWER_URL", "http://flower.test:5555/jobs/", "flower_url", "http://flower.test:5555/jobs"),
        ("BROKER_API_PROCESSES", "3", "processes", 3),
        ("BROKER_SYNC_WAIT_SECONDS", "0", "sync_wait", 0),
        ("BROKER_SETTLE_SECONDS", "0.5", "settle", 0.5),
        ("BROKER_VERIFY_LOGIN", "True", "verify_login", True),
        ("BROKER_VERIFY_LOGIN", "0", "verify_login", False),
        ("BROKER_PLANS", "flex, existing", "plans", ("flex", "existing")),
        ("BROKER_METRICS_PORT", "9464", "metrics_port", 9464),
    ],
)
def test_a_variable_means(variable: str, value: str, field: str, meaning: object) -> None:
    assert getattr(loaded({variable: value}), field) == meaning


def test_a_key_or_a_service_account_opens_the_project() -> None:
    (project,) = loaded().projects
    assert (project.project_id, project.public_key, project.private_key) == ("project", "public", "private")
    account = {"MONGODB_ATLAS_CLIENT_ID": "id", "MONGODB_ATLAS_CLIENT_SECRET": "secret"}
    (project,) = loaded({**account, **NO_KEY}).projects
    assert (project.client_id, project.client_secret, project.has_credentials) == ("id", "secret", True)


def test_the_api_needs_nothing_of_atlas_and_takes_the_project_id_when_it_is_there() -> None:
    nothing: dict[str, str | None] = {name: None for name in WORKS if name.startswith("MONGODB_")}
    assert loaded(nothing, "api").projects == ()
    (project,) = loaded({**nothing, "MONGODB_ATLAS_PROJECT_ID": "project"}, "api").projects
    assert (project.project_id, project.has_credentials) == ("project", False)


def test_flower_needs_users_and_redis_only() -> None:
    assert load({"BROKER_USERS": "a:b"}, "flower").users == {"a": "b"}


def test_no_secret_is_in_what_settings_look_like_in_a_log() -> None:
    shown = repr(
        loaded({"BROKER_MONGO_URI": "mongodb://u:mongo-password@h", "BROKER_REDIS_URL": "redis://:redis-password@h"})
    )
    for secret in ("private", KEY, "platform:", "mongo-password", "redis-password", "'secret'"):
        assert secret not in shown


# --- what is refused --------------------------------------------------------------------------------------------

WRONG: list[tuple[str, str | None]] = [
    ("BROKER_MONGO_URI", None),
    ("BROKER_MONGO_URI", "wr0ng"),
    ("BROKER_MONGO_TIMEOUT_MS", "wr0ng"),
    ("BROKER_MONGO_TIMEOUT_MS", "99"),
    ("BROKER_MONGO_TIMEOUT_MS", "600001"),
    ("BROKER_MONGO_TIMEOUT_MS", "1e20"),
    ("BROKER_MONGO_DB", "wr0ng\udcff"),
    ("BROKER_REDIS_URL", "amqp://wr0ng"),
    ("BROKER_ENCRYPTION_KEYS", None),
    ("BROKER_ENCRYPTION_KEYS", " , "),
    ("BROKER_ENCRYPTION_KEYS", "wr0ng"),
    ("BROKER_ENCRYPTION_KEYS", f"{KEY},wr0ng"),
    ("BROKER_API_PROCESSES", "0"),
    ("BROKER_API_PROCESSES", "1.5"),
    ("BROKER_API_PROCESSES", "65"),
    ("BROKER_SYNC_WAIT_SECONDS", "wr0ng"),
    ("BROKER_SYNC_WAIT_SECONDS", "-1"),
    ("BROKER_SYNC_WAIT_SECONDS", "nan"),
    ("BROKER_SYNC_WAIT_SECONDS", "1e20"),
    ("BROKER_SYNC_WAIT_SECONDS", "3600.1"),
    ("BROKER_SETTLE_SECONDS", "3601"),
    ("BROKER_SETTLE_SECONDS", "-0.1"),
    ("BROKER_SETTLE_SECONDS", "inf"),
    ("BROKER_VERIFY_LOGIN", "wr0ng"),
    ("BROKER_PLANS", "existing,wr0ng"),
    ("BROKER_METRICS_PORT", "65536"),
    ("BROKER_METRICS_PORT", "http"),
    ("BROKER_CONFIG", "wr0ng"),
    ("BROKER_CONFIG", "no.such.module:wr0ng"),
    ("BROKER_CONFIG", "json:wr0ng"),
    ("BROKER_CONFIG", "json:dumps"),
    ("BROKER_CONFIG", "sys:path"),
    ("BROKER_CONFIG", "broker_api.config:Config"),
    ("BROKER_CONFIG", "platform:node"),
    ("BROKER_CONFIG", "sys:exit"),
    ("BROKER_CONFIG", "this.wr0ng:config"),
    ("BROKER_SECRETS", "/wr0ng/secret.json"),
    ("BROKER_SECRETS", "/dev/null"),
    ("MONGODB_ATLAS_BASE_URL", "wr0ng"),
    ("MONGODB_ATLAS_PROJECT_ID", None),
    ("MONGODB_ATLAS_PUBLIC_API_KEY", None),
    ("MONGODB_ATLAS_PRIVATE_API_KEY", None),
]
BY_API: list[tuple[str, str | None]] = [("BROKER_USERS", None)] + [
    ("BROKER_USERS", value) for value in ("wr0ng", "wr0ng:", ":wr0ng", "a:b,,", "a:b,wr0ng", "a:b,a:wr0ng")
]


@pytest.mark.parametrize(
    ("part", "variable", "value"),
    [("worker", *pair) for pair in WRONG] + [("api", *pair) for pair in BY_API],
)
def test_a_missing_or_wrong_one_is_refused_by_name_with_what_it_should_be(
    part: Part, variable: str, value: str | None
) -> None:
    told = refusal({variable: value}, part)
    assert variable in told.partition(": ")[0]
    assert re.search(r": .*(must be|there is no)", told), told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("part", "variable", "value"),
    [("worker", *pair) for pair in WRONG if pair[0] not in ("BROKER_CONFIG", "BROKER_SECRETS")]
    + [("api", *pair) for pair in BY_API],
)
def test_what_is_refused_is_not_repeated_since_it_may_be_a_secret(part: Part, variable: str, value: str | None) -> None:
    assert "wr0ng" not in refusal({variable: value}, part)


def test_a_project_without_credentials_is_refused_by_workers_with_what_would_do() -> None:
    told = refusal(NO_KEY)
    assert "MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY" in told
    assert "MONGODB_ATLAS_CLIENT_ID and MONGODB_ATLAS_CLIENT_SECRET" in told


# --- secret.json ------------------------------------------------------------------------------------------------


def in_file(directory: Path, content: Any, **environ: str) -> Settings:  # noqa: ANN401 - any JSON value
    file = directory / "secret.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load({"BROKER_SECRETS": str(file), **environ}, "worker")


FILE: dict[str, Any] = {
    "mongo": {"uri": "mongodb://file", "db": "d", "timeoutms": 700, "collection": "c"},
    "atlas": {"user": "u", "password": "p", "group": "g"},
    "users": {"a": "b:c,d"},
    "encryption_keys": [KEY],
    "redis": {"url": "redis://file"},
}


def test_a_secrets_file_of_the_legacy_form_with_the_further_sections_is_enough(tmp_path: Path) -> None:
    made = in_file(tmp_path, FILE)
    assert (made.mongo_uri, made.mongo_db, made.mongo_collection, made.mongo_timeout_ms) == (
        "mongodb://file",
        "d",
        "c",
        700,
    )
    assert (made.users, made.encryption_keys, made.redis) == (
        {"a": "b:c,d"},
        (KEY,),
        RedisSettings.parse("redis://file"),
    )
    assert made.projects[0].project_id == "g"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    made = in_file(tmp_path, FILE, **WORKS, BROKER_MONGO_DB="elsewhere")
    assert (made.mongo_uri, made.mongo_db, made.mongo_collection) == ("mongodb://localhost", "elsewhere", "c")
    assert (made.users, made.projects[0].private_key) == ({"platform": "secret"}, "private")


def test_a_file_may_list_several_projects_and_the_environment_adds_one_in_front(tmp_path: Path) -> None:
    several = [{"user": "u", "password": "p", "group": group} for group in ("g-1", "g-2")]
    listed = in_file(tmp_path, {**FILE, "atlas": several})
    assert [project.project_id for project in listed.projects] == ["g-1", "g-2"]
    added = in_file(tmp_path, {**FILE, "atlas": several}, **WORKS)
    assert [project.project_id for project in added.projects] == ["project", "g-1", "g-2"]


def test_the_file_completes_a_config_that_was_made_without_it(tmp_path: Path) -> None:
    file = {
        "mongo": {"uri": "mongodb://file"},
        "users": {"a": "b"},
        "encryption_keys": [KEY],
        "atlas": [{"group": "g"}],
    }
    path = tmp_path / "secret.json"
    path.write_text(json.dumps(file))
    own = Config(None, {"uri": "mongodb://own"})
    found = load({"BROKER_SECRETS": str(path)}, "api", own)
    assert (found.mongo_uri, found.users, found.config) == ("mongodb://own", {"a": "b"}, own)
    assert [project.project_id for project in found.projects] == ["g"]


def test_a_project_of_the_environment_keeps_what_the_file_knows_of_it(tmp_path: Path) -> None:
    keys = [{"group": name, "user": f"user-{name}", "password": f"password-{name}"} for name in ("one", "two")]
    path = tmp_path / "secret.json"
    path.write_text(json.dumps({"atlas": keys, "mongo": {"uri": "mongodb://file"}, "encryption_keys": [KEY]}))
    found = load({"BROKER_SECRETS": str(path), "MONGODB_ATLAS_PROJECT_ID": "two"}, "worker")
    assert [(each.project_id, each.public_key) for each in found.projects] == [("two", "user-two"), ("one", "user-one")]


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "7", "\x00"])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_SECRETS: "):
        in_file(tmp_path, content)


@pytest.mark.parametrize("section", list(FILE))
@pytest.mark.parametrize("content", [7, "text"])
def test_a_section_of_another_form_is_refused_by_name(tmp_path: Path, section: str, content: object) -> None:
    with pytest.raises(SettingError, match=rf"^BROKER_SECRETS: the section {section} must be "):
        in_file(tmp_path, {**FILE, section: content})


@pytest.mark.parametrize(
    "users",
    [{"a": None}, {"a": ""}, {"a": " "}, {"": "b"}, {"a": 7}, {"a": True}, {"a": ["b"]}, {"a:b": "c"}, {"a": "\ud800"}],
)
def test_a_user_of_the_file_without_a_name_or_a_password_lets_nobody_in(tmp_path: Path, users: object) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_USERS: must be "):
        in_file(tmp_path, {**FILE, "users": users})


@pytest.mark.parametrize(
    ("variable", "section", "key"),
    [
        ("BROKER_MONGO_URI", "mongo", "uri"),
        ("BROKER_MONGO_DB", "mongo", "db"),
        ("BROKER_MONGO_COLLECTION", "mongo", "collection"),
        ("BROKER_MONGO_TIMEOUT_MS", "mongo", "timeoutms"),
        ("BROKER_REDIS_URL", "redis", "url"),
        ("MONGODB_ATLAS_PRIVATE_API_KEY", "atlas", "password"),
    ],
)
@pytest.mark.parametrize("content", [{"x": 1}, {}, ["wr0ng"], True, False, "\ud800"])
def test_what_is_no_text_in_the_file_is_refused_by_its_variables_name(
    tmp_path: Path, variable: str, section: str, key: str, content: object
) -> None:
    with pytest.raises(SettingError, match=rf"^{variable}: must be text"):
        in_file(tmp_path, {**FILE, section: {**FILE[section], key: content}})


def test_a_number_of_the_file_is_held_to_its_bounds_also_when_it_is_zero(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_MONGO_TIMEOUT_MS: must be a number from 100 to 600000$"):
        in_file(tmp_path, {**FILE, "mongo": {**FILE["mongo"], "timeoutms": 0}})


def test_a_file_that_is_nested_without_end_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_SECRETS: "):
        in_file(tmp_path, '{"atlas": ' + "[" * 100_000)


# --- the processes ----------------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[str, ...]] = {
    "api": (str(script("atlas-broker")), "api", "--port", "0"),
    "worker": (sys.executable, "-m", "celery", "-A", "workers", "worker"),
    "flower": (sys.executable, "-m", "celery", "-A", "workers", "flower"),
}


def run(name: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return run_to_end(COMMANDS[name], environ)


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("api", "BROKER_CONFIG", "tests.unit.broken_config:leaves"),
        ("worker", "BROKER_LOG_LEVEL", "wr0ng"),
        ("flower", "BROKER_USERS", "wr0ng"),
    ],
)
def test_a_process_with_a_wrong_setting_ends_with_one_line_and_no_traceback(
    name: str, variable: str, value: str
) -> None:
    ended = run(name, {**WORKS, variable: value})
    assert ended.returncode not in (0, None)
    told = (ended.stdout + ended.stderr).strip()
    assert re.fullmatch(rf"atlas-broker: {variable}: [^\n]+", told), told
    assert "wr0ng" not in told


def test_a_worker_for_a_queue_that_does_not_exist_ends_with_one_line() -> None:
    ended = run_to_end([*COMMANDS["worker"], "-Q", "instances,bindngs"], WORKS)
    told = "atlas-broker: worker -Q: must be one or more of instances, bindings, maintenance, separated by commas"
    assert (ended.returncode, (ended.stdout + ended.stderr).strip()) == (1, told)


@pytest.mark.parametrize("option", ["--autoscale=10,3", "--without-heartbeat"])
def test_an_option_of_celery_that_a_worker_does_not_bear_ends_it_with_one_line(option: str) -> None:
    ended = run_to_end([*COMMANDS["worker"], option], WORKS)
    told = (ended.stdout + ended.stderr).strip()
    assert ended.returncode == 1
    assert re.fullmatch(rf"atlas-broker: worker {option.partition('=')[0]}: must [^\n]+", told), told


def test_only_a_pool_of_processes_may_grow() -> None:
    """Celery gives the option --pool as a name, or as the class of the configured pool."""
    from workers.app import _check_pool  # noqa: PLC0415 - other tests see that the API does without

    refused = []
    for pool in ("processes", TaskPool, "threads", "solo"):
        try:
            _check_pool({"pool": pool, "autoscale": "4,2"})
        except SettingError:
            refused.append(pool)
    assert refused == [TaskPool, "threads", "solo"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BROKER_USERS", ""),
        ("BROKER_CONFIG", "tests.unit.broken_config:config"),
        ("BROKER_MONGO_URI", "wr0ng"),
        ("BROKER_MONGO_URI", "mongodb://"),
        ("BROKER_MONGO_DB", "a b"),
        ("BROKER_REDIS_URL", "redis://h:wr0ng/0"),
        ("MONGODB_ATLAS_BASE_URL", "http://"),
        ("BROKER_FLOWER_URL", "javascript:wr0ng"),
        ("BROKER_FLOWER_URL", "https://name:wr0ng@flower.test"),
    ],
)
def test_a_broker_with_a_wrong_setting_is_refused_with_one_line(variable: str, value: str) -> None:
    with pytest.raises(SettingError) as refused:
        Broker(environ={**WORKS, variable: value})
    assert re.fullmatch(rf"{variable}: [^\n]+", str(refused.value))
    assert "wr0ng" not in str(refused.value)


def test_a_config_that_contains_itself_is_one_line_too() -> None:
    with pytest.raises(SettingError, match=r"^Config\.broker: must hold JSON values only[^\n]+$"):
        Broker(environ={**WORKS, "BROKER_CONFIG": "tests.unit.broken_config:endless"})
    with pytest.raises(SettingError, match=r"^Config\.broker: must hold JSON values only[^\n]+$"):
        Catalog(broken_config.endless())


@pytest.mark.parametrize("port", ["99999", "-1", "x"])
def test_a_port_that_is_none_is_refused_without_a_traceback(port: str) -> None:
    ended = CliRunner().invoke(cli, ["api", "--port", port])
    assert ended.exit_code == 2
    assert "Invalid value for '--port'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_gunicorn_does_not_start_again_and_again_what_cannot_start() -> None:
    ended = run_to_end(
        [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", "broker_api.wsgi:app"],
        {**WORKS, "BROKER_MONGO_URI": "mongodb://admin:wr0ng/x@host/db"},
    )
    assert ended.returncode == 3
    assert ended.stderr.count("atlas-broker: BROKER_MONGO_URI: ") == 1
    assert "wr0ng" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


# --- the documentation ------------------------------------------------------------------------------------------


def test_the_page_of_the_settings_is_made_from_their_models_and_has_each() -> None:
    text = (CHECKOUT / "docs" / "settings.md").read_text()
    assert text == page(), "make it anew: python -m tests.docs.settings_page > docs/settings.md"
    assert sorted(re.findall(r"^### `(\w+)`$", text, re.MULTILINE)) == sorted(DESIGN)


def test_there_are_no_settings_that_the_design_does_not_have() -> None:
    code = [path.read_text() for package in ("broker_api", "workers") for path in Path(CHECKOUT, package).rglob("*.py")]
    read = set(re.findall(r"\b(?:BROKER|MONGODB_ATLAS)_[A-Z_]+[A-Z]\b", "".join(code)))
    celerys = {"BROKER_URL"}  # named in a warning only
    assert read - {"BROKER_API", "BROKER_PLACE"} - celerys == set(DESIGN)  # names of constants


@pytest.mark.parametrize("wrong", ["theirs", "", None, ["own"]])
def test_a_config_that_says_otherwise_which_databases_instances_may_have_is_refused(wrong: object) -> None:
    config = Config({}, {})
    config.DATABASES = wrong  # type: ignore[assignment]  # operators may not use mypy
    with pytest.raises(SettingError, match=r"^Config\.DATABASES: must be own or any$"):
        load(WORKS, "api", config)
    config.DATABASES = "any"
    assert load(WORKS, "api", config).config is config
