"""An operator's ``Config``, for ``BROKER_CONFIG``: provisions wait at a gate, if they name one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_api.config import Config, InstanceView


class GatedConfig(Config):
    def generate_instance_dbname(self, instance: InstanceView) -> str:
        """Wait until the pipe, which is the parameter ``gate``, is opened for writing."""
        if gate := instance.parameters.get("gate"):
            Path(gate).open().close()
        return super().generate_instance_dbname(instance)


def config() -> Config:
    return GatedConfig(None, None)


@contextmanager
def closed_gate(folder: Path) -> Iterator[str]:
    """A gate for provisions, which opens at the end."""
    gate = folder / "gate"
    os.mkfifo(gate)
    try:
        yield str(gate)
    finally:
        os.open(gate, os.O_RDWR)  # until this process ends: provisions may come to the gate later
