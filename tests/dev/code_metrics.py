"""Print figures about the shape of the code: ``python -m tests.dev.code_metrics``.

The first part reads the sources only. The second part runs one bind in this process, on a real MongoDB and the emulated
Atlas, and counts the calls of the project's own functions.
"""

import ast
import logging
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import requests
import structlog

from broker_api.broker import FrontEnd
from broker_api.config import Config
from broker_api.settings.settings import load
from broker_api.state.records import binding_key, instance_key
from tests.dev.processes import CHECKOUT
from tests.dev.stack import Stack
from tests.osb_client import PLAN_ID, SERVICE_ID
from workers.atlas.wire import _Adapter
from workers.clusters.change_status import SHORTEST_PAUSE_MS
from workers.context import compose
from workers.operations import compose_runner

PRODUCT = ("broker_api", "workers")
COMMANDS = (
    *("tests/dev/code_metrics.py", "tests/dev/command.py"),
    *("tests/dev/demo.py", "tests/dev/demo_tour.py", "tests/dev/new_cluster_demo.py"),
)
"""Commands of their own; with the benchmark they are neither tests nor what tests need."""
STORIES = ("scenarios.py", "cluster_scenarios.py", "slow.py")
"""Tests that run one by one, side by side, and with planted faults."""
RIDDLES = re.compile(r"\b(who|whom|nobody|somebody)\b", re.IGNORECASE)
DIALECT = re.compile(r"^(Give|Say|Tell)\b")
EXEMPTION = re.compile(r"#\s*(noqa|type: ignore)")

COMPREHENSIONS = ("<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
"""Python's own functions for loops; lambdas count."""
T = TypeVar("T")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Sources:
    """Every Python file of some folders, parsed."""

    lines: int = 0
    exemptions: int = 0
    functions: list[Function] = field(default_factory=list)
    docstrings: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)


def read(paths: Iterator[Path]) -> Sources:
    """Parse the files and collect what the figures need."""
    found = Sources()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found.lines += len(text.splitlines())
        found.exemptions += len(EXEMPTION.findall(text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                found.functions.append(node)
            if isinstance(node, Function | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node) or ""):
                found.docstrings.append(text)
            if isinstance(node, ast.Name):
                found.names[node.id] += 1
            if isinstance(node, ast.Attribute):
                found.names[node.attr] += 1
    return found


def static_figures() -> dict[str, str]:
    """Return the figures that the sources tell."""
    product = read(path for folder in PRODUCT for path in (CHECKOUT / folder).rglob("*.py"))
    # The whole definition counts: signature, docstring and body.
    lengths = sorted((each.end_lineno or 0) - each.lineno + 1 for each in product.functions)
    private = [f.name for f in product.functions if f.name.startswith("_") and not f.name.startswith("__")]
    once = [name for name in private if product.names[name] == 1]
    tests = [path for path in (CHECKOUT / "tests").rglob("*.py") if not path.match("*/tests/bench/*")]
    tests = [path for path in tests if str(path.relative_to(CHECKOUT)) not in COMMANDS]
    tested = read(path for path in tests if path.name.startswith("test_") or path.name in STORIES).lines
    return {
        "lines of the product": f"{product.lines}",
        "function length, median / p90": f"{statistics.median(lengths):g} / {lengths[len(lengths) * 9 // 10]}",
        "functions per 100 lines": f"{100 * len(lengths) / product.lines:.1f}",
        "private functions that are called once": f"{100 * len(once) / len(private):.0f} %",
        "noqa and type: ignore per 1,000 lines": f"{1000 * product.exemptions / product.lines:.1f}",
        "share of test code that is machinery": f"{100 * (1 - tested / read(iter(tests)).lines):.0f} %",
        "who, whom, nobody, somebody in docstrings": f"{sum(len(RIDDLES.findall(d)) for d in product.docstrings)}",
        "docstrings that begin with Give, Say or Tell": f"{sum(bool(DIALECT.match(d)) for d in product.docstrings)}",
    }


@dataclass
class Calls:
    """Calls of the project's own functions, counted while ``watch`` runs."""

    count: int = 0
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)
    deepest: int = 0
    to_the_wire: int = 0

    @property
    def figures(self) -> str:
        files = {file for file, _ in self.functions}
        return (
            f"{self.count} calls of {len(self.functions)} functions in {len(files)} files, {self.deepest} frames deep"
            + (f", {self.to_the_wire} to the wire" if self.to_the_wire else "")
        )

    def watch(self, act: Callable[[], T], until: str | None = None) -> T:
        """Run ``act``, count, and return its result; stop counting when a function named ``until`` is entered."""
        roots = tuple(str(CHECKOUT / folder) for folder in PRODUCT)

        def profile(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event != "call" or not code.co_filename.startswith(roots) or code.co_name in COMPREHENSIONS:
                return
            self.count += 1
            self.functions[code.co_filename, code.co_qualname] += 1
            self.deepest = max(self.deepest, _depth(frame, roots))
            if code is _Adapter.send.__code__:
                self.to_the_wire = max(self.to_the_wire, _depth(frame, roots))
            if code.co_name == until:
                sys.setprofile(None)

        sys.setprofile(profile)
        try:
            return act()
        finally:
            sys.setprofile(None)


def _depth(frame: FrameType | None, roots: tuple[str, ...]) -> int:
    depth = 0
    while frame is not None:
        depth += frame.f_code.co_filename.startswith(roots)
        frame = frame.f_back
    return depth


def dynamic_figures() -> dict[str, str]:
    """Return what one bind costs in calls of own functions: the request to its 202, the job to its first poll."""
    request, job = Calls(), Calls()
    with Stack(workers=0, flower=False) as stack, stack.client() as client:
        config = Config(None, None)
        app = FrontEnd.compose(load({**stack.api_settings}, "api", config), {}).app
        context = compose(load({**stack.worker_settings}, "worker", config))
        runner, project = compose_runner(context), next(iter(context.projects))
        web = app.test_client()
        headers = {"X-Broker-API-Version": "2.17"}
        plan = {"service_id": SERVICE_ID, "plan_id": PLAN_ID}

        def put(path: str, body: dict[str, Any]) -> str:
            answer = web.put(f"{path}?accepts_incomplete=true", json=body, headers=headers, auth=client.auth)
            assert answer.status_code == requests.codes.accepted, answer.text
            return str(answer.get_json()["operation"])

        instance = {**plan, "organization_guid": "o", "space_guid": "s", "parameters": {"cluster": "cluster-dev"}}
        runner.work(instance_key("i"), put("/v2/service_instances/i", instance))
        for binding in ("warm", "counted"):  # the first one fills caches
            time.sleep(SHORTEST_PAUSE_MS / 1000 + 0.1)
            while context.watcher.watches(project, "cluster-dev"):  # else its poll for the first bind serves both
                time.sleep(SHORTEST_PAUSE_MS / 1000)
            path = f"/v2/service_instances/i/service_bindings/{binding}"
            request, job = Calls(), Calls()
            operation = request.watch(partial(put, path, plan))
            job.watch(partial(runner.work, binding_key("i", binding), operation), until="cluster_status")
    return {"a bind request to its 202": request.figures, "a bind job to its first status poll": job.figures}


def main() -> None:
    """Print all figures, one a line."""
    began = time.monotonic()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name, value in {**static_figures(), **dynamic_figures()}.items():
        click.echo(f"{name:<48} {value}")
    click.echo(f"{'seconds':<48} {time.monotonic() - began:.1f}")


if __name__ == "__main__":
    main()
