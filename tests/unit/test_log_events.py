"""The closed list of log events: each call of a logger names one of them, and each of them is used."""

import ast
from collections.abc import Iterator
from pathlib import Path

from broker_api.log_events import EVENTS, document
from tests.dev.processes import CHECKOUT

METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
SIGNALS = "write_from_signal_handler"
"""The function that logs in a handler of a signal; its first argument is the event, too."""


def logged(source: str) -> Iterator[tuple[int, str | None]]:
    """Yield the line and the event of each call of a logger; None for an event that is no plain text."""
    tree = ast.parse(source)
    signal_writers = {SIGNALS} | {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == SIGNALS
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        is_logger = isinstance(function, ast.Attribute) and function.attr in METHODS and "log" in ast.unparse(function)
        if is_logger or (isinstance(function, ast.Name) and function.id in signal_writers):
            event = node.args[0] if node.args else None
            value = event.value if isinstance(event, ast.Constant) else None
            yield node.lineno, value if isinstance(value, str) else None


def test_each_line_of_the_log_has_an_event_of_the_list_and_each_event_is_used() -> None:
    files = [path for package in ("broker_api", "workers") for path in sorted(Path(CHECKOUT, package).rglob("*.py"))]
    found = {
        f"{path.relative_to(CHECKOUT)}:{line}": event for path in files for line, event in logged(path.read_text())
    }
    assert len(found) > 50
    unknown = {place: event for place, event in found.items() if event not in EVENTS}
    assert unknown == {}, "add new events to broker_api/log_events.py"
    assert set(EVENTS) - set(found.values()) == set()
    assert list(EVENTS) == sorted(EVENTS)


def test_a_misspelt_event_and_one_that_is_no_plain_text_are_seen() -> None:
    source = 'log.info("operation_finishd", a=1)\nlog.warning(name)\nself._log.error("x")\nmath.log(2)\nlog.bind(a=1)'
    assert list(logged(source)) == [(1, "operation_finishd"), (2, None), (3, "x")]


def test_the_page_of_events_is_that_of_the_list() -> None:
    page = CHECKOUT / "docs" / "log-events.md"
    assert page.read_text() == document(), "run python -m broker_api.log_events > docs/log-events.md"
