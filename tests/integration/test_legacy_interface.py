"""The Python interface of the broker that this one replaces: scripts that used it go on working."""

import inspect
import json
import os
import re
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests
from cryptography.fernet import Fernet

from broker_api import errors
from broker_api.broker import Broker
from broker_api.config import Config
from broker_api.settings.settings import load
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import CHECKOUT, HOST, Server, descendants, free_port, take_port
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Tenant, eventually, works

USER, PASSWORD = "platform", "legacy-p4ss:word"
LEGACY_PORT = 5000


def example(word: str) -> str:
    """The Python block of docs/config-api.md that has this word in it."""
    blocks = re.findall(r"```python\n(.*?)```", (CHECKOUT / "docs" / "config-api.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


@pytest.fixture
def secrets(tmp_path: Path, state_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator) -> Path:
    """A secret.json of the legacy form, with the further sections that this broker has. It needs no environment."""
    content = {
        "mongo": {"uri": state_mongod.uri, "db": f"legacy-{uuid4().hex}", "timeoutms": 5000, "collection": "instances"},
        "atlas": {"user": emulator.public_key, "password": emulator.private_key, "group": emulator.project_id},
        "users": {USER: PASSWORD},
        "encryption_keys": [Fernet.generate_key().decode()],
        # A database of its own in the Redis that others use, too.
        "redis": {"url": redis_server.uri.removesuffix("/0") + "/9"},
    }
    file = tmp_path / "secret.json"
    file.write_text(json.dumps(content))
    return file


class Script(Server):
    """A process of a user of the Python interface, or of a command, in the directory of its secret.json."""

    def __init__(self, home: Path, command: Sequence[str | Path], port: int, settings: Mapping[str, str]) -> None:
        super().__init__("script")
        self.directory, self.arguments, self.port, self.settings = home, command, port, settings

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return ["env", "-C", self.directory, *self.arguments]

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def answers(self) -> bool:
        return requests.get(self.uri + "/health", timeout=1).ok

    def client(self) -> OsbClient:
        return OsbClient(self.uri, USER, PASSWORD)


def python(secrets: Path, text: str, port: int, atlas: AtlasEmulator) -> Script:
    """The script is in a file, as users have it; all it is told by the environment is where the emulated Atlas is."""
    file = secrets.with_name("my_broker.py")
    file.write_text(text)
    return Script(secrets.parent, [sys.executable, file], port, {"MONGODB_ATLAS_BASE_URL": atlas.uri})


def leader(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


# --- Broker(config).run() ---------------------------------------------------------------------------------------


def test_run_without_arguments_listens_where_atlasbroker_did() -> None:
    parameters = inspect.signature(Broker.run).parameters
    assert (parameters["host"].default, parameters["port"].default) == ("0.0.0.0", LEGACY_PORT)


@pytest.fixture
def custom(secrets: Path, emulator: AtlasEmulator) -> Iterator[Script]:
    """The script of docs/config-api.md, word for word, on port 5000, or another one where that is taken."""
    text, port = example("class CustomConfig"), LEGACY_PORT
    if not take_port(LEGACY_PORT):
        port = free_port()
        text = text.replace("run()", f"run(port={port})")
    with python(secrets, text, port, emulator) as running:
        yield running


def test_the_custom_config_of_the_readme_is_a_complete_broker_until_it_is_told_to_end(
    custom: Script, atlas: Emulator
) -> None:
    atlas.apply_after(polls=1)
    with custom.client() as client:
        tenant = Tenant(client).provision(ns="team-a")
        credentials = tenant.bind("b-1")
        assert (credentials["username"], credentials["database"]) == ("b-1-rw", "team-a")
        assert urlsplit(credentials["uri"]).path == "/team-a"
        assert works(credentials)
        tenant.unbind("b-1")
        assert not works(credentials)
        without = Tenant(client)
        ended = without.end(client.provision(without.instance_id, {"cluster": CLUSTER}))
        assert ended.json["state"] == "failed"
        assert "'ns' is missing" in ended.description
        assert atlas.users() == []
        os.kill(worker_of(custom), signal.SIGKILL)
        Tenant(client).provision(ns="team-b")  # by the worker that takes its place
    ends_and_leaves_no_process_behind(custom, signal.SIGTERM)


def worker_of(running: Script) -> int:
    """The process that says that it is ready to work, which is the first that the script makes."""
    eventually(lambda: " ready." in running.log_text(), "its worker is ready")
    return min(descendants(leader(running)))


def ends_and_leaves_no_process_behind(running: Script, number: signal.Signals) -> None:
    eventually(lambda: " ready." in running.log_text(), "its worker is ready")
    processes = [leader(running), *descendants(leader(running))]
    assert len(processes) >= 3  # the script, the server, the worker
    os.kill(leader(running), number)
    eventually(lambda: running.returncode is not None, "it ends")
    eventually(lambda: not [pid for pid in processes if alive(pid)], "nothing is left")
    assert "Traceback" not in running.log_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_run_ends_with_the_signal_and_leaves_no_process_behind(
    secrets: Path, emulator: AtlasEmulator, number: signal.Signals, *, long_form: bool
) -> None:
    if number is signal.SIGINT and not long_form:
        pytest.skip("with --long: it is handled like SIGTERM")
    port = free_port()
    text = f"""
        from broker_api.broker import Broker
        from broker_api.config import Config
        secrets = Config.load_json("secret.json")
        Broker(Config(secrets["atlas"], secrets["mongo"])).run("{HOST}", {port})
    """
    with python(secrets, textwrap.dedent(text), port, emulator) as running:
        ends_and_leaves_no_process_behind(running, number)


def test_a_worker_that_cannot_start_says_why(secrets: Path, emulator: AtlasEmulator) -> None:
    text, port = example("class CustomConfig"), free_port()
    script = python(secrets, text.replace("run()", f"run(port={port})"), port, emulator)
    with socket.create_server((HOST, 0)) as occupied:
        taken = occupied.getsockname()[1]
        script.settings = {**script.settings, "BROKER_METRICS_PORT": str(taken)}
        with script as running:
            told = f"atlas-broker: BROKER_METRICS_PORT: port {taken} cannot be opened"
            eventually(lambda: told in running.log_text(), "the worker says why it ends")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_script_with_a_wrong_setting_gets_an_error_of_one_line(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(secrets.read_text())
    content.pop("users")
    secrets.write_text(json.dumps(content))
    monkeypatch.chdir(secrets.parent)
    with pytest.raises(errors.SettingError, match=r"^BROKER_USERS: .+$"):
        exec(example("class CustomConfig"), {"__name__": "__main__"})


# --- the same configuration for processes of their own ----------------------------------------------------------


class OfOneFile(Stack):
    """A stack whose secrets file tells everything but where the emulated Atlas is."""

    @property
    def api_settings(self) -> dict[str, str]:
        return {"MONGODB_ATLAS_BASE_URL": self.emulator.uri, **self.settings}

    @property
    def worker_settings(self) -> dict[str, str]:
        return self.api_settings


def test_the_secrets_file_alone_configures_api_and_worker(
    secrets: Path, state_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator, atlas: Emulator
) -> None:
    atlas.apply_after(polls=1)
    stack = OfOneFile(
        flower=False,
        settings={"BROKER_SECRETS": str(secrets)},
        state=state_mongod,
        cluster=emulator.cluster,
        redis=redis_server,
        emulator=emulator,
    )
    with in_this_process(stack), OsbClient(stack.api.uri, USER, PASSWORD) as client:
        assert works(Tenant(client).provision().bind())


def test_the_environment_wins_over_the_secrets_file(secrets: Path) -> None:
    environment = {"BROKER_SECRETS": str(secrets), "BROKER_USERS": "other:one", "BROKER_MONGO_DB": "elsewhere"}
    settings = load(environment, "api")
    assert (settings.users, settings.mongo_db) == ({"other": "one"}, "elsewhere")
    assert settings.mongo_collection == "instances"


# --- Config and the exceptions ----------------------------------------------------------------------------------


def test_load_json_of_a_file_that_is_not_there_gives_none(tmp_path: Path) -> None:
    assert Config.load_json(str(tmp_path / "nowhere.json")) is None


def test_load_json_gives_the_sections_of_the_file(secrets: Path) -> None:
    assert Config.load_json(str(secrets)) == json.loads(secrets.read_text())


def test_constructing_a_config_calls_nothing(atlas: Emulator) -> None:
    atlas.forget_calls()
    config = Config(
        {"user": "u", "password": "p", "group": "g"},
        {"uri": "mongodb://192.0.2.1", "db": "d", "timeoutms": 100, "collection": "c"},
    )
    assert atlas.calls() == []
    assert config.broker["plans"][0]["id"] == Config.UUID_PLANS_EXISTING_CLUSTER


def test_the_names_that_subclasses_of_atlasbroker_use_are_there() -> None:
    assert Config.UUID_SERVICES_CLUSTER == "2a04f349-4aab-4fcb-af6d-8e1749a77c13"
    assert Config.UUID_PLANS_EXISTING_CLUSTER == "8db474d1-3cc0-4f4d-b864-24e3bd49b874"
    assert (Config.PARAMETER_CLUSTER, Config.PARAMETER_DATABASE) == ("cluster", "database")
    assert Config({}, {}).isGenerateBindingCredentialsPredictible() is False
    assert list(inspect.signature(Config.__init__).parameters)[1:] == [
        "atlas_credentials",
        "mongo_credentials",
        "clusters",
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.ErrClusterNotFound("c"), "The cluster c is not available on Atlas."),
        (errors.ErrClusterConfig("c"), "The cluster configuration for c is not available."),
        (
            errors.ErrStorageMongoConnection("Find instance"),
            "The storage is not able to communicate with MongoDB [Find instance]",
        ),
        (errors.ErrStorageTypeUnsupported(int), "Type [<class 'int'>] unsupported"),
        (errors.ErrStorageRemoveInstance("i"), "Failed to remove the instance i"),
        (errors.ErrStorageRemoveBinding("b"), "Failed to remove the binding b"),
        (errors.ErrStorageStore(), "Failed to store the instance or binding."),
        (errors.ErrStorageFindInstance("i"), "Failed to find the instance i."),
        (errors.ErrPlanUnsupported("p"), "Plan [p] not supported."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_nine_exceptions_say_what_they_are_about(error: Exception, message: str) -> None:
    assert str(error) == message
