"""The emulated Atlas as a process of its own."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.dev.processes import HOST, Server
from tests.dev.services import Mongod


class AtlasEmulator(Server):
    def __init__(self, cluster: Mongod, name: str = "atlas") -> None:
        super().__init__(name)
        self.cluster = cluster
        self.clusters = ["dev-cluster"]
        self.project_id = secrets.token_hex(12)
        self.public_key = self.private_key = self.client_id = self.client_secret = "x"

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "tests.emulator", "--mongo", self.cluster.uri, "--port", str(self.port)]

    def answers(self) -> bool:
        return True
