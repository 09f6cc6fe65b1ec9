"""Every block of commands in the README and in docs/ that can be run here is run, in the order of its page."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import need
from tests.console import Console
from tests.dev.processes import CHECKOUT, script
from tests.dev.stack import Stack
from tests.docs.blocks import blocks
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Tenant, eventually

PAGES = list(dict.fromkeys(block.page for block in blocks("sh") if block.is_run))
OF_OPERATORS = re.compile(r"\bID$|\borders\b|\bshop\b", re.MULTILINE)
"""What blocks of pages for operators take for granted: an operation, the instance `orders`, and its binding `shop`."""


def curl() -> str:
    """Return the program; raise RuntimeError with what to install."""
    if found := shutil.which("curl"):
        return found
    raise RuntimeError("There is no curl here: install Debian's package curl.")


@pytest.fixture
def environment(stack: Stack, atlas: Emulator, tmp_path: Path) -> dict[str, str]:
    """The settings of a worker, the addresses that pages speak of, and a curl that fails when an answer is an error."""
    need(curl)
    atlas.user_limit(10_000)  # a documented repair makes the users of all bindings of other tests again
    (tmp_path / ".curlrc").write_text("fail-with-body\n")
    return {
        **os.environ,
        **stack.worker_settings,
        "BROKER": stack.api.uri.replace("://", f"://{stack.user}:{stack.password}@"),
        "ATLAS": atlas.base_url,
        "CURL_HOME": str(tmp_path),
        "PATH": f"{script('atlas-broker').parent}:{os.environ['PATH']}",
    }


@dataclass
class Orders:
    """The instance `orders` with its binding `shop`, made when a block needs them."""

    client: OsbClient
    operation: str = ""

    def make(self) -> None:
        """Make what is not there, perhaps since the block before has purged it."""
        tenant = Tenant(self.client, "orders")
        provisioned = self.client.provision("orders", {"cluster": CLUSTER})
        if provisioned.status == 202:
            tenant.succeed(provisioned)
        bound = self.client.bind("orders", "shop")
        if bound.status == 202:
            self.operation = bound.operation
            tenant.succeed(bound, "shop")

    def remove(self) -> None:
        if self.operation:
            self.make()
            Tenant(self.client, "orders").deprovision()


@pytest.fixture
def orders(client: OsbClient) -> Iterator[Orders]:
    made = Orders(client)
    yield made
    made.remove()


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, environment: dict[str, str], orders: Orders) -> None:
    for text in dict.fromkeys(block.text for block in blocks("sh") if block.page == page and block.is_run):
        if page.startswith("docs/") and OF_OPERATORS.search(text):
            orders.make()
        if "last_operation" in text:  # as its page says
            eventually(partial(ended, text, environment), "the operation has ended")
        else:
            run(re.sub(r"\bID$", orders.operation, text, flags=re.MULTILINE), environment)


def test_the_emulator_starts_from_python_as_its_page_says() -> None:
    (example,) = [block.text for block in blocks("python") if block.page == "docs/emulator.md"]
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \w+ emulator \S+\n", done.stdout), done.stderr


def printed(*words: str, environment: dict[str, str]) -> str:
    done = Console(environment).run(*words)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.stdout


def ended(text: str, environment: dict[str, str]) -> bool:
    """Poll once; fail if the operation has failed."""
    state = json.loads(run(text, environment))["state"]
    assert state in ("in progress", "succeeded")
    return bool(state == "succeeded")


def run(text: str, environment: dict[str, str]) -> str:
    """Run the commands of a block; return what they print. The broker's own commands need no process of their own."""
    if re.fullmatch(r"(atlas-broker [\w. -]+\n)+", text):
        return "".join(printed(*line.split()[1:], environment=environment) for line in text.splitlines())
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout
