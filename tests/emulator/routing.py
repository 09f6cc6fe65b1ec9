"""How the endpoints of the Admin API are found: path, rate limit, X-Java-Method of each version."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from werkzeug import Request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from tests.emulator import bodies
from tests.emulator.atlas import Atlas
from tests.emulator.errors import refuse_if
from tests.emulator.model import Change, Credential, Json, Project

ROOT = "/api/atlas/v2"
GROUP = "/groups/{groupId}"


@dataclass
class Asked:
    """One authenticated call: what it names, the state that it is about, and what it has changed of users."""

    atlas: Atlas
    request: Request
    group: Project
    caller: Credential
    names: dict[str, str]
    changes: list[Change]

    @property
    def root(self) -> str:
        return self.request.host_url.rstrip("/") + ROOT

    def advance(self) -> None:
        """Count this call as a read of the project's clusters."""
        self.changes += self.atlas.advance(self.group)

    def page(self, results: list[Json], extra: str = "") -> Json:
        """Return the page that the query asks for; `extra` is what the links repeat of other query parameters."""
        args = {"pageNum": "1", "itemsPerPage": "100", "includeCount": "true", **self.request.args}
        for name, most in (("pageNum", 1_000_000), ("itemsPerPage", 500)):
            wrong = not args[name].isdecimal() or not 1 <= int(args[name]) <= most
            refuse_if(wrong, "INVALID_QUERY_PARAMETER", name)
        number, size, counted = int(args["pageNum"]), int(args["itemsPerPage"]), args["includeCount"] == "true"
        start, end = (number - 1) * size, number * size
        pages = {"self": number, "previous": number - 1, "next": number + 1 if end < len(results) else 0}
        query = f"{self.request.base_url}?includeCount={str(counted).lower()}{extra}"
        links = [bodies.link(f"{query}&pageNum={n}&itemsPerPage={size}", rel) for rel, n in pages.items() if n]
        total = {"totalCount": len(results)} if counted else {}
        return {"links": links, "results": results[start:end], **total}


Answer = Callable[[Asked], object]


@dataclass(frozen=True, eq=False)
class Route:
    """`versions` are the resource's, date to X-Java-Method, oldest first; the newest alone is not deprecated.

    `role` is what the caller must have in the project. `answer` is called with the lock held if it is `locked`.
    """

    template: str
    bucket: str
    versions: dict[str, str]
    answer: Answer
    success: int
    locked: bool
    role: str

    def version(self, accept: str, headers: dict[str, str]) -> str:
        """Return the newest version that is not later than the date asked for, and say so in the headers.

        Raise ApiError (406) when there is none.
        """
        newest = list(self.versions)[-1]
        headers["X-Java-Method"] = self.versions[newest]
        asked = re.search(r"application/vnd\.atlas\.(\d{4}-\d{2}-\d{2})\+json", accept)
        fitting = [date for date in self.versions if asked and date <= asked[1]]
        refuse_if(not fitting, "INVALID_VERSION_DATE")
        headers["X-Java-Method"] = self.versions[fitting[-1]]
        if fitting[-1] != newest:
            headers |= {"Deprecation": "Mon, 5 Aug 2024 00:00:00 GMT", "Sunset": "Thu, 1 Jul 2027 00:00:00 GMT"}
        return fitting[-1]


_ROUTES = Map(merge_slashes=False)


def route(
    call: str,
    bucket: str,
    java: str | dict[str, str],
    *,
    success: int = 200,
    locked: bool = True,
    role: str = "",
) -> Callable[[Answer], Answer]:
    """Add `GET /path/{name}` with its rate limit and X-Java-Method, for the first version or for each.

    A GET needs no role but to be in the project; all else, if none is given, its owner's.
    """
    method, _, template = call.partition(" ")
    role = role or ("" if method == "GET" else "GROUP_OWNER")
    versions = {"2023-01-01": java} if isinstance(java, str) else java

    def add(answer: Answer) -> Answer:
        path = ROOT + template.replace("{", "<string(minlength=0):").replace("}", ">")
        endpoint = Route(template, bucket, versions, answer, success, locked, role)
        _ROUTES.add(Rule(path, methods=[method], endpoint=endpoint))
        return answer

    return add


def find(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the endpoint and the names in the path as sent, since a user's name may hold an encoded slash."""
    try:
        found, names = _ROUTES.bind("").match(path, method)
    except HTTPException:
        return None, {}
    return found, {name: unquote(value) for name, value in names.items()}
