"""The broker's own processes, started with the commands that an operator uses."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests

from tests.dev.processes import HOST, Server, script

QUEUES = "instances,bindings,maintenance"


class _WebServer(Server):
    """Ready when ``health`` answers 200."""

    health: str

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        super().__init__(name)
        self.settings = settings

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def answers(self) -> bool:
        return requests.get(self.uri + self.health, timeout=1).ok


class Api(_WebServer):
    health = "/health"

    def __init__(self, settings: Mapping[str, str], name: str = "api") -> None:
        super().__init__(name, settings)

    def command(self) -> Sequence[str | Path]:
        return [script("atlas-broker"), "api", "--host", HOST, "--port", str(self.port)]


class Flower(_WebServer):
    health = "/healthcheck"

    def __init__(self, settings: Mapping[str, str], name: str = "flower") -> None:
        super().__init__(name, settings)

    def command(self) -> Sequence[str | Path]:
        return [*_celery(), "flower", f"--address={HOST}", f"--port={self.port}"]


class Worker(Server):
    """Serves ``queues``; has no port that anybody connects to."""

    def __init__(self, settings: Mapping[str, str], name: str = "worker", queues: str = QUEUES) -> None:
        super().__init__(name)
        self.settings = settings
        self.queues = queues

    @property
    def uri(self) -> str:
        """Celery's name of it, as Flower shows it."""
        return f"{self.name}@{HOST}"

    def environment(self) -> Mapping[str, str]:
        return self.settings

    def command(self) -> Sequence[str | Path]:
        # Neighbours that are asked and listened to at start cost a second, and nothing here uses them.
        alone = ("--without-mingle", "--without-gossip")
        return [*_celery(), "worker", "-Q", self.queues, "-n", self.uri, "--loglevel", "INFO", *alone]

    def answers(self) -> bool:
        return f"{self.uri} ready" in self.log_text()


def _celery() -> Sequence[str | Path]:
    return [sys.executable, "-m", "celery", "-A", "workers"]
