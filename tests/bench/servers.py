"""Servers that only the benchmark starts: the lean Atlas, atlasbroker 2.0.0, and a bare Flask app to compare with."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import requests

from tests.bench.lean_atlas import Log, Settings
from tests.bench.load import Target
from tests.dev.broker import Api
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import CHECKOUT, HOST, Server
from tests.dev.services import Mongod

FOLDER = CHECKOUT / ".bench"
OLD_PACKAGES = (
    *("atlasbroker==2.0.0", "openbrokerapi==2.0.0", "atlasapi==0.5.3", "pwgen==0.8.2.post0"),
    *("flask<1.1", "werkzeug<1", "jinja2<3", "markupsafe<2.1", "itsdangerous<2", "pymongo<3.13"),
)


class LeanAtlas(AtlasEmulator):
    """``tests.bench.lean_atlas``, which ``Stack`` takes in place of the emulated Atlas; it has no mongod."""

    def __init__(self) -> None:
        super().__init__(Mongod("never-started"), name="lean-atlas")

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "tests.bench.lean_atlas", "--port", str(self.port)]

    def answers(self) -> bool:
        return bool(self.read_log())

    def set(self, latency: float = 0.0, apply_seconds: float = 0.0, slow: Mapping[str, float] | None = None) -> None:
        """Set how long calls and changes take, see ``lean_atlas.Settings``."""
        self._control("PUT", asdict(Settings(latency, apply_seconds, dict(slow or {}))))

    def clear(self) -> None:
        """Forget the users and the log."""
        self._control("DELETE")

    def read_log(self) -> Log:
        return Log(**self._control("GET"))

    def _control(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = requests.request(method, f"{self.uri}/bench", json=body, timeout=10).json()
        return answer


class OldBroker(Server):
    """atlasbroker 2.0.0 in the threaded server of Flask, the only one it comes with."""

    def __init__(
        self, python: Path, state: Mongod, atlas_uri: str, project: str, database: str = "atlasbroker"
    ) -> None:
        super().__init__("atlasbroker-2.0.0")
        self._python, self._atlas_uri = python, atlas_uri
        self._secrets = {
            "atlas": {"user": "bench", "password": "bench", "group": project},
            "mongo": {"uri": state.uri, "db": database, "timeoutms": 5000, "collection": "instances"},
        }

    def command(self) -> Sequence[str | Path]:
        secrets = self.home / "secret.json"
        secrets.write_text(json.dumps(self._secrets))
        script = Path(__file__).with_name("old_broker.py")
        return [self._python, script, str(self.port), secrets, self._atlas_uri]

    def answers(self) -> bool:
        headers = {"X-Broker-API-Version": "2.13"}
        return requests.get(f"{self.uri}/v2/catalog", headers=headers, timeout=1).ok

    @property
    def target(self) -> Target:
        return Target(HOST, self.port, "", "")


OLD_ENVIRONMENT = FOLDER / "atlasbroker-2.0.0"


def is_old_broker_installed() -> bool:
    """Return whether the environment is made already."""
    return (OLD_ENVIRONMENT / "complete").exists()


def install_old_broker() -> Path:
    """Return the Python of an environment with atlasbroker 2.0.0, which is made at the first call.

    Raises:
        OSError: The packages cannot be installed here; the message is one line.
    """
    environment, python = OLD_ENVIRONMENT, OLD_ENVIRONMENT / "bin" / "python"
    if not is_old_broker_installed():
        commands: list[list[str | Path]] = [
            [sys.executable, "-m", "venv", "--clear", environment],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *OLD_PACKAGES],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                raise OSError(errors[0] if errors else f"{command[2]} ended with status {done.returncode}.")
        (environment / "complete").touch()
    return python


class BareFlask(Api):
    """A Flask app that reads one document for each request, on the same WSGI server with the same processes."""

    def __init__(self, state: Mongod) -> None:
        super().__init__({"BENCH_MONGO_URI": state.uri}, "bare-flask")

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "tests.bench.bare_flask", str(self.port)]

    @property
    def target(self) -> Target:
        return Target(HOST, self.port, "", "")
