"""Secrets in files: the variable ``NAME_FILE`` holds the path of a file with the secret setting ``NAME``."""

import hashlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from broker_api.errors import SettingError

SUFFIX = "_FILE"
MAX_FILE_BYTES = 65_536


def with_contents(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables, each secret with the content of its file, if it has one.

    Line breaks at the end of a file are left out.

    Args:
        environ: The environment variables.
        names: The variables of secrets.

    Raises:
        SettingError: A file cannot be used, or a secret is also given without a file.
    """
    found = dict(environ)
    for name in names:
        path = environ.get(name + SUFFIX, "").strip()
        if not path:
            continue
        if environ.get(name, "").strip():
            raise SettingError(f"{name}: must not be set together with {name}{SUFFIX}")
        found[name] = _read(name + SUFFIX, path)
    return found


def _read(variable: str, path: str) -> str:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise SettingError(f"{variable}: {path} must be a regular file")
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise SettingError(f"{variable}: {path} must be a readable file: {error.strerror}") from None
    except ValueError:
        raise SettingError(f"{variable}: {path} must be text in UTF-8") from None
    if len(content) > MAX_FILE_BYTES or not text.strip() or "\0" in text:
        raise SettingError(f"{variable}: {path} must be a text of 1 to {MAX_FILE_BYTES} bytes")
    return text


def fingerprint(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return a digest of the content of each file with secrets, or why it has none.

    Contents are compared, since Kubernetes replaces a file by another link.
    """
    paths = {name + SUFFIX: environ.get(name + SUFFIX, "").strip() for name in names}
    paths["BROKER_SECRETS"] = environ.get("BROKER_SECRETS", "")
    return {variable: _digest(path) for variable, path in paths.items() if path}


def _digest(path: str) -> str:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return "no file"
        with Path(path).open("rb") as file:
            return hashlib.sha256(file.read(MAX_FILE_BYTES + 1)).hexdigest()
    except (OSError, ValueError) as error:
        return type(error).__name__
