"""The lock files of `docker/requirements/`, read."""

import re
from functools import cache
from importlib import metadata
from typing import NamedTuple

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from tests.deploy.files import REQUIREMENTS

LOCKS = ["api", "worker", "dev", "build", "uv", "audit"]
LINE = re.compile(r"(?P<name>[a-z0-9._-]+)==(?P<version>[^ ;\\]+)( ; (?P<marker>[^\\]+))? \\")


class Pin(NamedTuple):
    name: str
    version: str
    marker: str = ""

    @property
    def line(self) -> str:
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    def applies(self, environment: dict[str, str] | None = None) -> bool:
        return not self.marker or Marker(self.marker).evaluate(environment)


def normalized(name: str) -> str:
    return str(canonicalize_name(name))


@cache
def lines(lock: str) -> list[str]:
    return (REQUIREMENTS / f"{lock}.txt").read_text().splitlines()


@cache
def pins(lock: str) -> list[Pin]:
    found = filter(None, map(LINE.fullmatch, lines(lock)))
    return [Pin(normalized(line["name"]), line["version"], line["marker"] or "") for line in found]


def requirements_of(pin: Pin) -> list[str]:
    """What the pinned release asks for. Those that this environment's Python does not need ask for nothing."""
    try:
        return metadata.requires(pin.name) or []
    except metadata.PackageNotFoundError:
        return []
