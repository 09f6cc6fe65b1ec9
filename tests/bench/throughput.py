"""How many binds a second: in a closed loop, at once, by one client, and with more workers."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import NamedTuple

from tests.bench import load
from tests.bench.lab import OLD, Lab, MeasuredStack, beside_old, cpu_used, target_of
from tests.bench.load import Loop, Target
from tests.bench.report import Curve, Result, Row, distribution, percentile

LATENCY_SECONDS = 0.1
SLOW_LATENCY_SECONDS = 0.5
CLIENTS = 32


def closed_loop(lab: Lab) -> Result:
    """Measure binds with their unbinds, and the time until the first answer."""
    seconds = 3.0 if lab.short else 12.0
    stack, began = lab.broker(), datetime.now(UTC)
    lab.atlas.set(LATENCY_SECONDS)
    target = target_of(stack)
    lab.load(load.closed_loop, target, CLIENTS, 1.0)  # imports, connections and caches are warm then
    servers = (stack.api, *stack.workers, lab.state, lab.redis, lab.atlas, *([lab.old] if lab.old else []))
    used: list[dict[str, float]] = []

    def measure(target: Target) -> Loop:
        with cpu_used(*servers) as cpu:
            loop = lab.load(load.closed_loop, target, CLIENTS, seconds)
        used.append({**cpu, "clients": loop.client_cpu / loop.seconds})
        return loop

    ours, old = lab.alternate(target, measure)
    stages = _stages(stack, began)
    rows = [beside_old("bind + unbind per second", [loop.rate for loop in ours], [loop.rate for loop in old])]
    rows += [
        _percentile_row(f"PUT to its first answer, p{percent}, ms", "accepts", percent, ours, old)
        for percent in (50, 95, 99)
    ]
    rows.append(_percentile_row("whole bind, p50, ms", "binds", 50, ours, old))
    turns = {"ours": used[::2], OLD: used[1::2]} if old else {"ours": used}
    rows += [
        Row(f"cores used, {name}", {column: [cpu[name] for cpu in each] for column, each in turns.items()})
        for name in used[0]
    ]
    rows += [Row(label, {"ours": [milliseconds]}) for label, milliseconds in stages.items()]
    lines = {"ours": distribution(t for loop in ours for t in loop.accepts)}
    lines |= {OLD: distribution(t for loop in old for t in loop.accepts)} if old else {}
    curve = Curve("first-answer", "milliseconds until the first answer of a bind", "% of the requests", lines)
    return Result(f"Closed loop: {CLIENTS} clients, Atlas answers after 100 ms, one worker", rows, curves=[curve])


def _stages(stack: MeasuredStack, since: datetime) -> dict[str, float]:
    """Return the medians, in ms, of the two parts of the unbinds since then; their bindings are kept, as gone."""
    with stack.state.client() as client:
        query = {"operation.kind": "unbind", "operation.state": "succeeded", "operation.changed": {"$gt": since}}
        ended = [found["operation"] for found in client[stack.database]["instances"].find(query)]
    parts = {"accepted": "changed", "changed": "finished"}
    return {
        f"unbind, {start} to {end}, p50, ms": median((each[end] - each[start]).total_seconds() * 1000 for each in ended)
        for start, end in parts.items()
    }


def _percentile_row(label: str, kind: str, percent: int, ours: Sequence[Loop], old: Sequence[Loop]) -> Row:
    mine, theirs = ([percentile(getattr(loop, kind), percent) * 1000 for loop in loops] for loops in (ours, old))
    return beside_old(label, mine, theirs)


def clients(lab: Lab) -> Result:
    """Measure the closed loop with more and more clients."""
    seconds, counts = (1.5, (1, 32)) if lab.short else (8.0, (1, 4, 8, 16, 32, 64, 128))
    rows: list[Row] = []
    stack = lab.broker()
    lab.atlas.set(LATENCY_SECONDS)
    for count in counts:
        ours = lab.load(load.closed_loop, target_of(stack), count, seconds)
        old = [lab.load(load.closed_loop, lab.old.target, count, seconds).rate] if lab.old else []
        rows.append(beside_old(f"{count} clients", [ours.rate], old))
    lines = {
        name: [(float(count), row.values[name][0]) for count, row in zip(counts, rows, strict=True)]
        for name in ("ours", OLD)
        if rows[0].values[name]
    }
    curve = Curve("clients", "clients", "bind + unbind per second", lines)
    return Result("Bind + unbind per second by clients, Atlas answers after 100 ms, one worker", rows, curves=[curve])


def burst(lab: Lab) -> Result:
    """Measure many binds at once with one worker and with two."""
    binds = 60 if lab.short else 200
    rows: list[Row] = []
    stack = lab.broker(workers=2)
    measure = partial(_burst, lab, stack, LATENCY_SECONDS)
    measure(target_of(stack), binds // 4)
    for workers in (2, 1):
        ours, old = lab.alternate(target_of(stack), partial(measure, binds=binds))
        rates = [each.rate for each in ours], [each.rate for each in old]
        cpu = ([1000 * each.cores / each.rate for each in runs] for runs in (ours, old))
        rows[:0] = [
            beside_old(f"binds per second, workers: {workers}", *rates),
            beside_old(f"ms of CPU for a bind, workers: {workers}", *cpu),
        ]
        stack.workers[1].stop()
    return Result(f"{binds} binds at once, Atlas answers after 100 ms", rows)


class Burst(NamedTuple):
    """Binds per second, and how many cores all servers used meanwhile."""

    rate: float
    cores: float


def _burst(lab: Lab, stack: MeasuredStack, latency: float, target: Target, binds: int) -> Burst:
    """Send binds at once to ours or to the old broker.

    Atlas has the latency for the binds only; the unbinds after them are not measured.
    """
    lab.atlas.set(latency)
    old = [lab.old] if lab.old else []
    with cpu_used(stack.api, *stack.workers, lab.state, lab.redis, lab.atlas, *old) as cpu:
        began = time.perf_counter()
        names = lab.load(load.burst, target, binds)
        stack.wait_for_ends()
        seconds = time.perf_counter() - began
    lab.atlas.set()
    lab.load(load.remove, target, names)
    return Burst(binds / seconds, sum(cpu.values()))


def one_client(lab: Lab) -> Result:
    """Measure one client that binds and unbinds, at an Atlas without latency.

    Back to back, a bind also waits for its turn: a cluster's status is polled at most ten times a second.
    """
    seconds = 1.5 if lab.short else 10.0
    pauses = {"back to back": 0.0, "with pauses": 0.5}
    rows: list[Row] = []
    stack = lab.broker()
    target = target_of(stack, poll=0.005)
    lab.load(load.closed_loop, target, 1, 1.0)
    for label, pause in pauses.items():
        ours, old = lab.alternate(target, partial(_one_client, lab, seconds, pause))
        rows += [
            _percentile_row(f"whole bind, p{percent}, ms, {label}", "binds", percent, ours, old) for percent in (50, 95)
        ]
    return Result("One client, Atlas answers at once", rows)


def _one_client(lab: Lab, seconds: float, pause: float, target: Target) -> Loop:
    return lab.load(load.closed_loop, target, 1, seconds, pause)


def workers(lab: Lab) -> Result:
    """Measure binds at once with more and more workers, at a slow Atlas."""
    binds, counts = (60, (1, 2)) if lab.short else (300, (1, 2, 4))
    bursts: dict[int, list[Burst]] = {}
    stack = lab.broker(workers=max(counts))
    measure = partial(_burst, lab, stack, SLOW_LATENCY_SECONDS, target_of(stack))
    measure(binds // 4)
    for count in reversed(counts):
        for each in stack.workers[count:]:
            each.stop()
        bursts[count] = [measure(binds) for _ in range(lab.rounds)]
    rows = []
    for count in counts:
        rates, cores = [each.rate for each in bursts[count]], [each.cores for each in bursts[count]]
        growth = [each.rate / alone.rate for each, alone in zip(bursts[count], bursts[1], strict=True)]
        values = {"binds per second": rates, "of one worker": growth, "cores used": cores}
        rows.append(Row(f"{count} workers", values))
    points = [(float(row.label.split()[0]), median(row.values["binds per second"])) for row in rows]
    curve = Curve("workers", "worker processes", "binds per second", {"ours": points})
    return Result(f"{binds} binds at once by workers, Atlas answers after 500 ms", rows, curves=[curve])
