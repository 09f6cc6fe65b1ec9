"""Secrets in files: what a file may be, and how a change comes into force."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from broker_api.config import Config
from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.settings.secret_files import MAX_FILE_BYTES
from broker_api.settings.secret_watch import SecretWatch
from broker_api.settings.settings import SECRETS, Settings, load

KEY = Fernet.generate_key().decode()


def environment(directory: Path) -> dict[str, str]:
    """Return settings whose users and keys are in files, linked as Kubernetes does it."""
    put(directory, "users", "a:b\n")
    put(directory, "keys", f"{KEY}\r\n")
    return {
        "BROKER_USERS_FILE": str(directory / "users"),
        "BROKER_ENCRYPTION_KEYS_FILE": str(directory / "keys"),
        "BROKER_MONGO_URI": "mongodb://localhost",
    }


def put(directory: Path, name: str, content: str) -> None:
    """Replace a link to a file with the same modification time as all files before it."""
    version = directory / f"{name}-{len(list(directory.iterdir()))}"
    version.write_text(content)
    os.utime(version, (1, 1))
    (directory / "new").symlink_to(version)
    (directory / "new").rename(directory / name)


def test_every_secret_may_be_in_a_file() -> None:
    assert set(SECRETS) == {
        "MONGODB_ATLAS_PUBLIC_API_KEY",
        "MONGODB_ATLAS_PRIVATE_API_KEY",
        "MONGODB_ATLAS_CLIENT_ID",
        "MONGODB_ATLAS_CLIENT_SECRET",
        "BROKER_MONGO_URI",
        "BROKER_REDIS_URL",
        "BROKER_USERS",
        "BROKER_ENCRYPTION_KEYS",
        "BROKER_WORKER_KEYS",
    }


def test_a_secret_is_read_without_the_line_break_at_the_end_of_its_file(tmp_path: Path) -> None:
    atlas = {"MONGODB_ATLAS_PROJECT_ID": "p", "MONGODB_ATLAS_CLIENT_ID": "c"}
    put(tmp_path, "secret", "s3cret\n")
    made = load(environment(tmp_path) | atlas | {"MONGODB_ATLAS_CLIENT_SECRET_FILE": f"{tmp_path}/secret"}, "worker")
    assert (made.users, made.encryption_keys, made.projects[0].client_secret) == ({"a": "b"}, (KEY,), "s3cret")
    assert load({**environment(tmp_path), "BROKER_USERS_FILE": " ", "BROKER_USERS": "c:d"}, "api").users == {"c": "d"}


def long(path: Path) -> None:
    path.write_text("a:" + "b" * MAX_FILE_BYTES)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        long,
        lambda path: path.write_text(" \n"),
        lambda path: path.write_bytes(b"a:\xff"),
        directory,
        pipe,
    ],
    ids=["none", "long", "empty", "no text", "a directory", "a pipe"],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text("a:b")
    spoil(path)
    with pytest.raises(SettingError, match=r"^BROKER_USERS_FILE: .+ must be .+$"):
        load({**environment(tmp_path), "BROKER_USERS_FILE": str(path)}, "api")


def test_a_secret_with_a_file_and_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_USERS: must not be set together with BROKER_USERS_FILE$"):
        load({**environment(tmp_path), "BROKER_USERS": "a:b"}, "api")


class Watched:
    """A watch, with what it has given to the parts of the process."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.used: list[Settings] = []
        self.trouble: Exception | None = None
        self.watch = SecretWatch(environ, "api", load(environ, "api"), None, self.use)

    def use(self, new: Settings) -> None:
        if self.trouble:
            raise self.trouble
        self.used.append(new)

    def look(self, times: int = 3) -> list[str]:
        """Return what is logged."""
        with capture_logs() as lines:
            for _ in range(times):
                self.watch.look()
        return [f"{line['event']} {line.get('reason', line.get('settings'))}" for line in lines]


def test_a_changed_file_is_used_once_when_it_is_found_unchanged(tmp_path: Path) -> None:
    watched = Watched(environment(tmp_path))
    assert watched.look() == []
    put(tmp_path, "users", "a:half of a passw")
    assert watched.look(1) == []
    put(tmp_path, "users", "a:half of a password")
    assert watched.look(1) == []
    assert watched.look() == ["secrets_replaced ['users']"]
    assert [new.users for new in watched.used] == [{"a": "half of a password"}]
    put(tmp_path, "uri", "")
    assert watched.look() == []


def test_a_file_that_becomes_unusable_keeps_the_old_secret_and_is_logged_once(tmp_path: Path) -> None:
    watched = Watched(environment(tmp_path))
    watched.look()
    (tmp_path / "users").unlink()
    (line,) = watched.look(6)
    assert line.startswith("secrets_not_replaced BROKER_USERS_FILE: ")
    put(tmp_path, "users", "n0t-a-user")
    (line,) = watched.look(6)
    assert line.startswith("secrets_not_replaced BROKER_USERS: must be ")
    assert "n0t" not in line
    put(tmp_path, "users", "a:b")
    assert watched.look() == []
    assert watched.used == []


def test_new_secrets_are_tried_again_while_mongodb_does_not_answer(tmp_path: Path) -> None:
    watched = Watched(environment(tmp_path))
    watched.look()
    put(tmp_path, "keys", f"{Fernet.generate_key().decode()},{KEY}")
    watched.trouble = ErrStorageMongoConnection("test", "down")
    assert watched.look() == []
    watched.trouble = None
    assert watched.look(1) == ["secrets_replaced ['encryption_keys']"]


def test_a_changed_address_is_logged_as_needing_a_restart_and_a_secrets_file_is_watched_too(tmp_path: Path) -> None:
    put(tmp_path, "json", json.dumps({"mongo": {"uri": "mongodb://a"}, "users": {"a": "b"}}))
    environ = environment(tmp_path) | {"BROKER_SECRETS": str(tmp_path / "json")}
    del environ["BROKER_MONGO_URI"], environ["BROKER_USERS_FILE"]
    watched = Watched(environ)
    put(tmp_path, "json", json.dumps({"mongo": {"uri": "mongodb://b"}, "users": {"a": "c"}}))
    assert watched.look() == ["secrets_replaced ['users']", "restart_needed ['mongo_uri']"]


def test_other_projects_need_a_restart_and_hinder_no_other_change(tmp_path: Path) -> None:
    one, two = {"group": "1", "user": "u", "password": "p"}, {"group": "2", "user": "u", "password": "p"}
    put(tmp_path, "json", json.dumps({"atlas": [one]}))
    watched = Watched(environment(tmp_path) | {"BROKER_SECRETS": str(tmp_path / "json")})
    put(tmp_path, "json", json.dumps({"atlas": [one, two]}))
    assert watched.look() == ["restart_needed ['projects']"]
    assert watched.used == []
    put(tmp_path, "json", json.dumps({"atlas": [{**one, "password": "new"}, two]}))
    put(tmp_path, "users", "a:new")
    assert watched.look() == ["secrets_replaced ['users', 'projects']"]


def test_a_file_that_a_config_was_made_from_is_read_anew(tmp_path: Path) -> None:
    put(tmp_path, "json", json.dumps({"atlas": {"group": "1"}, "users": {"a": "b", "revoked": "c"}}))
    environ = environment(tmp_path) | {"BROKER_SECRETS": str(tmp_path / "json")}
    del environ["BROKER_USERS_FILE"]
    config = Config((Config.load_json(environ["BROKER_SECRETS"]) or {})["atlas"], None)
    assert load(environ, "api", config).users == {"a": "b", "revoked": "c"}
    put(tmp_path, "json", json.dumps({"atlas": {"group": "2"}, "users": {"a": "b"}}))
    made = load(environ, "api", config)
    assert (made.users, [each.project_id for each in made.projects]) == ({"a": "b"}, ["1"])
    assert load({**environ, "BROKER_SECRETS": ""}, "api", config).users == {"a": "b", "revoked": "c"}


def test_a_project_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = [{"group": "1", "user": user, "password": "p"} for user in ("old", "new")]
    put(tmp_path, "json", json.dumps({"atlas": twice}))
    with pytest.raises(SettingError, match="BROKER_SECRETS: the section atlas must have each group once"):
        load(environment(tmp_path) | {"BROKER_SECRETS": str(tmp_path / "json")}, "api")
