"""What is asked of Atlas: one operation of its interface, filled in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from requests.auth import AuthBase

    from workers.atlas.models import Json


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of Atlas's interface: `path` is the template, `version` the exact resource version it is asked in.

    `does` completes "Atlas refused to …", with the path's names.
    """

    method: str
    path: str
    version: str | None
    does: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation with everything that it needs on the wire."""

    operation: Operation
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Json | None = field(default=None, repr=False)
    form: dict[str, str] | None = None
    auth: AuthBase | None = field(default=None, repr=False)

    @property
    def does(self) -> str:
        """The operation in words; names stand in quotes with control characters escaped."""
        return self.operation.does.format(**{key: repr(value) for key, value in self.names.items()})

    @property
    def path(self) -> str:
        """Raises ValueError for a name that no path can carry."""
        return self.operation.path.format(**{key: _segment(value) for key, value in self.names.items()})


def _segment(name: str) -> str:
    """One path segment. `.` and `..` would be resolved on the way, and another resource be meant."""
    if name in {"", ".", ".."}:
        raise ValueError(f"{name!r} cannot be a name in Atlas")
    return quote(name, safe="")
