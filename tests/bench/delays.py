"""What an idle broker adds: dispatch, finish, starts, idle CPU and memory; and a bind behind many slow provisions."""

import time

from tests.bench.counts import PAUSE_SECONDS
from tests.bench.lab import Lab, MeasuredStack, cpu_used, memory_mb, processes_of, target_of
from tests.bench.load import Client
from tests.bench.report import Result, Row, percentile
from tests.dev.processes import Server

APPLY_SECONDS = 2.0
SLOW_PROVISION_SECONDS = 5.0
SLOW_PROVISIONS = 500
FAST_POLL_SECONDS = 0.005


def delays(lab: Lab) -> Result:
    """Measure what our broker adds to Atlas's time, one operation after the other."""
    binds = 6 if lab.short else 40
    stack = lab.broker()
    rows = [_dispatch(lab, stack, binds), *_finish(lab, stack, binds // 2)]
    time.sleep(1 if lab.short else 3)
    with cpu_used(stack.api, *stack.workers, lab.state, lab.redis) as used:
        time.sleep(3 if lab.short else 30)
    rows += [Row(f"idle, % of a core, {name}", {"value": [share * 100]}) for name, share in used.items()]
    for server in (stack.api, *stack.workers):
        sizes = [memory_mb(process) for process in processes_of(server)]
        rows += [Row(f"memory of a process, MB, {server.name}", {"value": sizes})]
    rows += [_start(each, 1 if lab.short else 2) for each in (stack.api, stack.workers[0])]
    return Result("What our broker adds", rows)


def _dispatch(lab: Lab, stack: MeasuredStack, binds: int) -> Row:
    """Measure the time from the 202 to the call that creates the user."""
    accepted: dict[str, float] = {}
    with Client(target_of(stack, FAST_POLL_SECONDS)) as client:
        for number in range(binds):
            name = f"dispatch-{number}"
            client.begin_bind(name)
            accepted[name] = time.monotonic()
            client.wait(client.binding(name))
    created = lab.atlas.read_log().created
    times = [(created[name] - accepted[name]) * 1000 for name in accepted]
    return _percentiles("202 to the first Atlas call, ms", times, 50, 95)


def _finish(lab: Lab, stack: MeasuredStack, binds: int) -> list[Row]:
    """Measure the time from an APPLIED to the platform's succeeded: since Atlas has said it, and since it was so."""
    lab.atlas.set(apply_seconds=APPLY_SECONDS)
    since_said, since_applied = [], []
    with Client(target_of(stack, FAST_POLL_SECONDS)) as client:
        for number in range(binds):
            name = f"finish-{number}"
            client.bind(name)
            succeeded, log = time.monotonic(), lab.atlas.read_log()
            since_said.append((succeeded - log.applied[-1]) * 1000)
            since_applied.append((succeeded - log.created[name] - APPLY_SECONDS) * 1000)
    lab.atlas.set()
    return [
        _percentiles("Atlas says APPLIED to succeeded, ms", since_said, 50, 95),
        _percentiles(f"applied (after {APPLY_SECONDS:g} s) to succeeded, ms", since_applied, 50, 95),
    ]


def _start(server: Server, starts: int) -> Row:
    times = []
    for _ in range(starts):
        server.stop()
        began = time.perf_counter()
        server.start()
        times.append(time.perf_counter() - began)
    return Row(f"start, s, {server.name}", {"value": times})


def _percentiles(label: str, times: list[float], *percents: int) -> Row:
    return Row(label, {f"p{percent}": [percentile(times, percent)] for percent in percents})


def queue(lab: Lab) -> Result:
    """Measure binds while 500 provisions wait for a slow Atlas, beside binds of an idle broker."""
    seconds = 4.0 if lab.short else 20.0
    stack = lab.broker(workers=2)
    with Client(target_of(stack, FAST_POLL_SECONDS)) as client:
        _bind_times(client, "first", 1.0)  # imports, connections and caches are warm then
        idle = _bind_times(client, "idle", seconds)
        lab.atlas.set(slow={"GET clusters": SLOW_PROVISION_SECONDS})
        for number in range(SLOW_PROVISIONS):
            client.begin_provision(f"slow-{number}")
        behind = _bind_times(client, "behind", seconds)
        waiting = _open_operations(stack)
        lab.atlas.set()
    rows = []
    for percent in (50, 95):
        alone, after = percentile(idle, percent), percentile(behind, percent)
        values = {"idle": [alone], "behind them": [after], "ratio": [after / alone]}
        rows.append(Row(f"whole bind, p{percent}, ms", values))
    notes = [f"{waiting} provisions were still waiting after the last bind."]
    return Result(
        f"Binds behind {SLOW_PROVISIONS} provisions of {SLOW_PROVISION_SECONDS:g} s, two workers", rows, notes
    )


def _bind_times(client: Client, kind: str, seconds: float) -> list[float]:
    """Return the milliseconds of whole binds; after a pause, the cluster can be polled at once for the next one."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        client.bind(f"{kind}-{len(times)}")
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE_SECONDS)
    return times


def _open_operations(stack: MeasuredStack) -> int:
    with stack.state.client() as client:
        return client[stack.database]["instances"].count_documents({"operation.open": True})
