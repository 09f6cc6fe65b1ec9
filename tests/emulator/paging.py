"""Lists in pages, as Atlas gives them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.emulator.bodies import link
from tests.emulator.errors import ApiError
from tests.emulator.model import Json
from tests.emulator.routes import Asked

MAX_ITEMS = 500

Item = TypeVar("Item")


def page(asked: Asked, items: Sequence[Item], body: Callable[[Item], Json], extra: str = "") -> Json:
    """The page that the query asks for; `extra` is what the links repeat of other query parameters."""
    number = _number(asked, "pageNum", 1, 1_000_000)
    size = _number(asked, "itemsPerPage", 100, MAX_ITEMS)
    counted = asked.request.args.get("includeCount", "true") == "true"
    start = (number - 1) * size
    rest = {"totalCount": len(items)} if counted else {}
    first, last = number == 1, start + size >= len(items)
    wanted = {"self": number, **({} if first else {"previous": number - 1}), **({} if last else {"next": number + 1})}
    query = f"includeCount={str(counted).lower()}{extra}"
    links = [link(f"{asked.request.base_url}?{query}&pageNum={n}&itemsPerPage={size}", r) for r, n in wanted.items()]
    return {"links": links, "results": [body(item) for item in items[start : start + size]], **rest}


def _number(asked: Asked, name: str, default: int, most: int) -> int:
    given = asked.request.args.get(name, str(default))
    if not given.isdecimal() or not 1 <= int(given) <= most:
        raise ApiError("INVALID_QUERY_PARAMETER", name)
    return int(given)
