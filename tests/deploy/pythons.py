"""Each supported Python on PATH, and the one that runs the tests."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]

_ASK = """
import ensurepip, json, platform, sys, venv
print(json.dumps([platform.python_version(), sys._base_executable, sys.implementation.name]))
"""


@cache
def pythons() -> dict[str, Path]:
    """Interpreter by full version."""
    names = ["python3", *(f"python{minor}" for minor in SUPPORTED)]
    folders = map(Path, os.get_exec_path())
    candidates = [Path(sys.executable), *(folder / name for folder in folders for name in names)]
    found: dict[str, Path] = {}
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            continue
        asked = subprocess.run([candidate, "-c", _ASK], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            version, path, implementation = json.loads(asked.stdout)
            if implementation == "cpython" and version.rpartition(".")[0] in SUPPORTED:
                found.setdefault(version, Path(path))
    return found
