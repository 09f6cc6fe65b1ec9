"""The blocks of code and the commands in the README and the documentation, and which of them cannot be run here."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from tests.dev.processes import CHECKOUT

PAGES = sorted(
    [CHECKOUT / "README.md", CHECKOUT / ".github" / "CONTRIBUTING.md", *(CHECKOUT / "docs").rglob("*.md")],
    key=lambda path: (path.name != "README.md", path),
)

ELSEWHERE = {
    "sh tests/dev/set-up.sh && .venv/bin/atlas-broker demo": "the workflow's job fresh-machine",
    "sh tests/dev/set-up.sh && .venv/bin/nox": ".ci/run",
    ".venv/bin/atlas-broker dev": "tests/e2e/test_dev_and_demo.py",
    'python -m tests.emulator --mongo "$MONGO_OF_CLUSTERS" --port 8081': "the emulator of each stack",
}
"""Blocks that set up a machine or that serve until they are ended, and what runs them."""
WITH_A_TEST_OF_ITS_OWN = {"docs/kubernetes.md": "tests/deploy/test_kubernetes_page.py"}
"""Pages whose commands and values a test of their own checks."""
FORM_ONLY = frozenset({"kubectl", "cf", "smctl", "docker", "cp"})
"""Programs that are not here, or that need what is not here. `tests/docs/test_forms.py` checks how they are called."""


FENCED = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
"""A fenced block, perhaps in an item of a list."""


class Block(NamedTuple):
    """A fenced block of code on a page."""

    page: str
    language: str
    text: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of each command; quotes may hold line breaks."""
        commands = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\\\n|[^'\"\n])+", self.text)
        return [words for command in commands if (words := shlex.split(command, comments=True))]

    @property
    def is_run(self) -> bool:
        """Whether the block is run on a stack: it is in no list of what cannot be."""
        listed = self.page in WITH_A_TEST_OF_ITS_OWN or self.text.strip() in ELSEWHERE
        return not listed and not any(words[0] in FORM_ONLY for words in self.lines)


def blocks(language: str | None = None) -> Iterator[Block]:
    """Yield the blocks of all pages in order, the README's first."""
    for path in PAGES:
        page = str(path.relative_to(CHECKOUT))
        for _, found, text in FENCED.findall(path.read_text()):
            if language in (None, found):
                yield Block(page, found, textwrap.dedent(text))


def commands(*programs: str, page: str = "") -> list[list[str]]:
    """Return the words of each command of these programs; pages with a test of their own are left out."""
    here = [block for block in blocks("sh") if block.page not in WITH_A_TEST_OF_ITS_OWN and block.page.startswith(page)]
    return [words for block in here for words in block.lines if words[0] in programs]


def inline_commands(*programs: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the page and the words of each command that stands within a sentence or a table."""
    for path in PAGES:
        text = FENCED.sub("", path.read_text())
        for code in re.findall(r"`([^`\n]+)`", text):
            if code.split(" ")[0] in programs and " " in code:
                yield str(path.relative_to(CHECKOUT)), code.split()
