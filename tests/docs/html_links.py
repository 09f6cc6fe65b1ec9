"""`python -m tests.docs.html_links FOLDER`: links within built pages lead somewhere, nothing foreign is loaded."""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {**dict.fromkeys(("script", "img", "iframe", "source", "embed"), "src"), "object": "data", "link": "href"}
"""What a browser loads by itself: the attribute of each element."""
NOT_LOADED = frozenset({"search", "index", "next", "prev", "canonical", "genindex", "py-modindex"})
"""The values of `rel` of a `link` that a browser does not follow by itself."""


class Page(HTMLParser):
    """What one page links to, what it loads, and the ids that others may link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADED.get(tag, "") in given and given.get("rel") not in NOT_LOADED:
            self.loads.append(given[LOADED[tag]])


def problems(folder: Path) -> Iterator[str]:
    """Yield a sentence for each link that leads nowhere, and for each address that is loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        here = path.relative_to(folder.resolve())
        yield from (f"{here} loads {each}" for each in page.loads if urlsplit(each).netloc)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc):
                    yield f"{here} links to {link}, which is no address"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{here} links to {link}, which does not exist"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{here} links to {link}, whose anchor does not exist"
    for style in folder.rglob("*.css"):
        foreign = re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^)'\"]+)", style.read_text())
        yield from (f"{style.relative_to(folder)} loads {each}" for each in foreign)


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    sys.exit(bool(found))
