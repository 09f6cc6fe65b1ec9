"""The emulated Atlas as a server like the others: it can be killed, paused and restarted too."""

import sys
from collections.abc import Sequence
from pathlib import Path

import requests

from tests.dev.forkserver import PythonServer
from tests.dev.processes import HOST
from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.emulator.world import CLUSTERS


class AtlasEmulator(PythonServer):
    """Its clusters are all the one server ``cluster``; ``control`` steers it. A restart forgets what it held."""

    clusters = CLUSTERS
    project_id = Emulator.project_id
    public_key, private_key = Emulator.public_key, Emulator.private_key
    client_id, client_secret = Emulator.client_id, Emulator.client_secret

    def __init__(
        self, cluster: Mongod, *, apply_seconds: float = 0, cluster_seconds: float = 0, name: str = "atlas"
    ) -> None:
        super().__init__(name)
        self.cluster = cluster
        self.apply_seconds, self.cluster_seconds = apply_seconds, cluster_seconds
        self.control = Emulator(self.uri)

    def command(self) -> Sequence[str | Path]:
        emulator = [sys.executable, "-m", "tests.emulator", "--mongo", self.cluster.uri]
        authority = self.cluster.authority
        files = ["--ca-certificate", authority.file, "--ca-key", authority.key_file]
        times = ["--apply-seconds", str(self.apply_seconds), "--cluster-seconds", str(self.cluster_seconds)]
        return [*emulator, "--host", HOST, "--port", str(self.port), *map(str, files), *times]

    def answers(self) -> bool:
        """Without the versioned header it refuses, as Atlas does: that is an answer."""
        return bool(requests.get(f"{self.uri}/api/atlas/v2", timeout=1).status_code)
