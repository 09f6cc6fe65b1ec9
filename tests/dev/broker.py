"""The broker's own processes, which run the commands that an operator uses."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from tests.dev.forkserver import PythonServer
from tests.dev.processes import HOST, script

QUEUES = "instances,bindings,maintenance"
CELERY = (sys.executable, "-m", "celery", "-A", "workers")


class Api(PythonServer):
    health = "/health"

    def __init__(self, settings: Mapping[str, str], name: str = "api") -> None:
        super().__init__(name, settings)

    def command(self) -> Sequence[str | Path]:
        return [script("atlas-broker"), "api", "--host", HOST, "--port", str(self.port)]

    def answers(self) -> bool:
        return requests.get(self.uri + self.health, timeout=1).ok


class Flower(Api):
    health = "/healthcheck"

    def __init__(self, settings: Mapping[str, str]) -> None:
        super().__init__(settings, "flower")

    def command(self) -> Sequence[str | Path]:
        return [*CELERY, "flower", f"--address={HOST}", f"--port={self.port}"]


class Worker(PythonServer):
    """Serves all queues; on its port are its metrics and probes."""

    def __init__(self, settings: Mapping[str, str], name: str = "worker") -> None:
        super().__init__(name, settings)
        self.settings = {"BROKER_METRICS_PORT": str(self.port), **settings}

    @property
    def uri(self) -> str:
        """Celery's name of it, as Flower shows it."""
        return f"{self.name}@{HOST}"

    def metrics(self) -> str:
        return self.probe("/metrics").text

    def probe(self, path: str, seconds: float = 5) -> requests.Response:
        return requests.get(f"http://{HOST}:{self.port}{path}", timeout=seconds)

    def command(self) -> Sequence[str | Path]:
        # Neighbours that are asked and listened to at start cost a second, and nothing here uses them.
        alone = ("--without-mingle", "--without-gossip")
        return [*CELERY, "worker", "-Q", QUEUES, "-n", self.uri, *alone]

    def answers(self) -> bool:
        return f"{self.uri} ready" in self.log_text()
