"""What answers cost: last_operation and the catalog, and how answers grow with the number of stored instances."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from statistics import median
from typing import Any

from tests.bench import load
from tests.bench.lab import Lab, MeasuredStack, target_of
from tests.bench.report import Curve, Result, Row, compared, distribution, percentile
from tests.bench.servers import BareFlask

CONNECTIONS = 32
BARE = "bare Flask"
FIRST_SIZE = 1000
BATCH = 5_000
BINDINGS_PER_INSTANCE = 9

Document = dict[str, Any]


def last_operation(lab: Lab) -> Result:
    """Measure last_operation and the catalog beside a bare Flask app with one read of MongoDB."""
    seconds = 1.5 if lab.short else 8.0
    stack = lab.broker()
    with BareFlask(lab.state) as bare:
        kinds = {
            BARE: (bare.target, "/one"),
            "last_operation": (target_of(stack), load.POLL_PATH),
            "catalog": (target_of(stack), "/v2/catalog"),
        }
        for target, path in kinds.values():
            lab.load(load.reads, target, path, CONNECTIONS, 1.0)
        found: dict[str, list[list[float]]] = {name: [] for name in kinds}
        for _ in range(lab.rounds):
            for name, (target, path) in kinds.items():
                found[name].append(lab.load(load.reads, target, path, CONNECTIONS, seconds))
    rows = []
    for name in ("last_operation", "catalog"):
        ours, others = found[name], found[BARE]
        rates = [[len(times) / seconds for times in each] for each in (ours, others)]
        rows.append(compared(f"{name} per second", BARE, *rates))
        for percent in (50, 99):
            mine, theirs = ([percentile(times, percent) * 1000 for times in each] for each in (ours, others))
            rows.append(compared(f"{name} p{percent}, ms", BARE, mine, theirs))
    lines = {name: distribution(time for times in each for time in times) for name, each in found.items()}
    curve = Curve("answers", f"milliseconds, {CONNECTIONS} connections", "% of the requests", lines)
    return Result(f"Answers, {CONNECTIONS} connections", rows, curves=[curve])


def growth(lab: Lab) -> Result:
    """Measure /metrics, a poll and an accepted bind at more and more documents, beside a broker with 1,000."""
    sizes = [FIRST_SIZE, 10_000] if lab.short else [FIRST_SIZE, 10_000, 50_000, 200_000, 1_000_000]
    requests = 60 if lab.short else 300
    rows: list[Row] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    with _filled(lab) as small, _filled(lab) as large:
        for stored, size in pairwise([FIRST_SIZE, *sizes]):
            fill(large, size - stored)
            targets = target_of(large), target_of(small)
            lab.load(load.in_turns, targets, requests // 3)
            rounds = [lab.load(load.in_turns, targets, requests) for _ in range(lab.rounds)]
            for kind in rounds[0]:
                mine, theirs = ([median(each[kind][side]) * 1000 for each in rounds] for side in (0, 1))
                row = compared(f"{kind}, ms, {size:,} documents", f"{FIRST_SIZE:,} documents", mine, theirs)
                rows.append(row)
                lines.setdefault(kind, []).append((size, median(row.values["ratio"])))
    rows.sort(key=lambda row: row.label.partition(",")[0])
    curve = Curve(
        "documents", "documents in MongoDB", f"time, that at {FIRST_SIZE:,} documents is 1", lines, log_x=True
    )
    return Result("Growth with stored documents", rows, curves=[curve])


@contextmanager
def _filled(lab: Lab) -> Iterator[MeasuredStack]:
    """Run a broker with 1,000 documents. Its worker has ended, so that it takes no job of another broker."""
    with lab.new_broker() as stack:
        stack.workers[0].stop()
        fill(stack, FIRST_SIZE)
        yield stack


def fill(stack: MeasuredStack, count: int) -> None:
    """Store copies of the instance and of its binding, as if they were others that are ready."""
    with stack.state.client() as client:
        documents = client[stack.database]["instances"]
        ended = documents.find({"operation.open": False})
        templates = {"binding_id" in document: document for document in ended}
        made = (_copy(templates, number) for number in range(count))
        while batch := list(islice(made, BATCH)):
            documents.insert_many(batch, ordered=False)


def _copy(templates: dict[bool, Document], number: int) -> Document:
    """Return an instance or, nine times out of ten, a binding."""
    stamp = f"{time.time_ns():x}"
    binding, instance = number % (BINDINGS_PER_INSTANCE + 1) > 0, f"copy-{stamp}-{number // 10}"
    copy = {**templates[binding], "instance_id": instance, "database": f"instance-{instance}"}
    if not binding:
        return copy | {"_id": f"instance/{instance}"}
    name = f"copy-{stamp}-{number}"
    return copy | {"_id": f"binding/{instance}/{name}", "binding_id": name, "username": name}
