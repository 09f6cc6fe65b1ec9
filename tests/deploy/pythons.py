"""The Pythons that are supported, and those of them that are on PATH."""

import os
import subprocess
from functools import cache
from pathlib import Path

SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]


@cache
def pythons() -> dict[str, Path]:
    """Return the interpreter by minor version; one that lacks the venv module is none."""
    return {minor: path for minor in SUPPORTED if (path := _fitting(f"python{minor}"))}


def _fitting(name: str) -> Path | None:
    for folder in os.get_exec_path():
        if os.access(path := Path(folder, name), os.X_OK):
            question = "import ensurepip, sys, venv; print(sys._base_executable)"
            asked = subprocess.run([path, "-c", question], capture_output=True, text=True, check=False)
            if asked.returncode == 0:
                return Path(asked.stdout.strip())
    return None
