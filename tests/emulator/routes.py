"""Which endpoint answers a path: matched on the path as sent, since a user's name may hold an encoded slash."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from werkzeug import Request

from tests.emulator.changes import Deployment
from tests.emulator.digest import Credential
from tests.emulator.errors import ApiError
from tests.emulator.model import Atlas, Project

ROOT = "/api/atlas/v2"


@dataclass(frozen=True)
class Asked:
    """One authenticated call: what it names, and the state that it is about."""

    atlas: Atlas
    deployment: Deployment
    request: Request
    project: Project | None
    caller: Credential
    names: dict[str, str]

    @property
    def group(self) -> Project:
        if self.project is None:
            raise LookupError("the path names no group")
        return self.project

    @property
    def root(self) -> str:
        return self.request.host_url.rstrip("/") + ROOT


@dataclass(frozen=True)
class Route:
    """`versions` are the resource's, date to X-Java-Method, oldest first; the newest alone is not deprecated."""

    method: str
    template: str
    bucket: str
    versions: dict[str, str]
    answer: Callable[[Asked], object]
    success: int = 200

    def names(self, method: str, segments: list[str]) -> dict[str, str] | None:
        own = self.template.split("/")
        if method != self.method or len(own) != len(segments):
            return None
        pairs = list(zip(own, segments, strict=True))
        if any(not mine.startswith("{") and mine != theirs for mine, theirs in pairs):
            return None
        return {mine.strip("{}"): unquote(theirs) for mine, theirs in pairs if mine.startswith("{")}

    def version(self, accept: str) -> str:
        """The newest version that is not later than the date asked for. Raises ApiError (406)."""
        asked = re.search(r"application/vnd\.atlas\.(\d{4}-\d{2}-\d{2})\+json", accept)
        fitting = [date for date in self.versions if asked and date <= asked[1]]
        if not fitting:
            raise ApiError("INVALID_VERSION_DATE")
        return fitting[-1]

    def deprecation(self, version: str) -> dict[str, str]:
        if version == list(self.versions)[-1]:
            return {}
        return {"Deprecation": "Mon, 5 Aug 2024 00:00:00 GMT", "Sunset": "Thu, 1 Jul 2027 00:00:00 GMT"}


def match(routes: list[Route], method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    segments = path.removeprefix(ROOT).split("/")
    for route in routes if path.startswith(ROOT) else ():
        names = route.names(method, segments)
        if names is not None:
            return route, names
    return None
