"""A package index in a folder: for each pin a stub wheel with the real name, version and dependencies."""

import base64
import hashlib
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tests.deploy.files import REQUIREMENTS
from tests.deploy.locks import LOCKS, normalized, pins, requirements_of

UV = Path(sys.executable).with_name("uv")


class StubIndex:
    """`simple/` for an index address, `wheels/` for --find-links, and copies of the lock files with the stubs' hashes.

    Of each package that another one asks for with an extra there is a newer release, too.
    """

    def __init__(self, folder: Path) -> None:
        self.url = (folder / "simple").as_uri()
        self.wheels = folder / "wheels"
        self.requirements = folder / "requirements"
        self.wheels.mkdir(parents=True)
        self.requirements.mkdir()
        pinned = dict.fromkeys((pin.name, pin.version) for lock in LOCKS for pin in pins(lock))
        hashes = {each: self._publish(*each) for each in pinned}
        for name, version in pinned:
            if name in _asked_for_with_an_extra():
                release = ".".join(map(str, Version(version).release))
                self._publish(name, f"{release}.999")
        for lock in LOCKS:
            lines = [f"{pin.line} --hash=sha256:{hashes[pin.name, pin.version]}\n" for pin in pins(lock)]
            (self.requirements / f"{lock}.txt").write_text("".join(lines))
        for path in REQUIREMENTS.glob("*.in"):
            shutil.copy(path, self.requirements)
        self._list(folder / "simple")

    def _publish(self, name: str, version: str) -> str:
        """Return the wheel's hash."""
        stem = name.replace("-", "_")
        path = self.wheels / f"{stem}-{version}-py3-none-any.whl"
        files = dict(_content(name))
        info = f"{stem}-{version}.dist-info"
        files[f"{info}/METADATA"] = _metadata(name, version)
        files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = [f"{file},sha256={_digest(content)},{len(content)}\n" for file, content in files.items()]
        files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
        with zipfile.ZipFile(path, "w") as wheel:
            for file, content in files.items():
                entry = zipfile.ZipInfo(file)
                entry.external_attr = (0o100755 if "/scripts/" in file else 0o100644) << 16
                wheel.writestr(entry, content)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _list(self, simple: Path) -> None:
        for path in sorted(self.wheels.iterdir()):
            page = simple / normalized(path.name.split("-")[0]) / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            with page.open("a") as listing:
                listing.write(f'<a href="{path.as_uri()}">{path.name}</a>\n')


@cache
def _asked_for_with_an_extra() -> set[str]:
    asked = [Requirement(text) for lock in LOCKS for pin in pins(lock) for text in requirements_of(pin)]
    return {"celery", "pymongo"} | {normalized(requirement.name) for requirement in asked if requirement.extras}


def _content(name: str) -> Iterator[tuple[str, bytes]]:
    """What has to run, since it installs or builds the broker, is packed up from this environment; else one module."""
    if name == "uv" and UV.exists():
        yield f"uv-{metadata.version('uv')}.data/scripts/uv", UV.read_bytes()
    elif name in {pin.name for pin in pins("build")}:
        for file in metadata.distribution(name).files or []:
            module = ".dist-info" not in file.parts[0] and ".." not in file.parts and file.suffix != ".pyc"
            if module or file.name == "entry_points.txt":
                yield str(file), file.read_binary()
    else:
        yield f"{name.replace('-', '_')}_stub.py", b""


def _metadata(name: str, version: str) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    with suppress(metadata.PackageNotFoundError):
        for field in ("Requires-Dist", "Provides-Extra"):
            lines += [f"{field}: {value}" for value in metadata.metadata(name).get_all(field) or []]
    return "\n".join([*lines, ""]).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
