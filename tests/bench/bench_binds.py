"""What a hundred binds at once on one cluster cost, beside the same one by one: ``python -m tests.bench.bench_binds``.

The emulated Atlas takes 5 s to apply a change and 0.2 s to answer a call, as the real one does (recorded answers); the
broker's settings are the defaults. Platforms poll each half second.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import click

from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import IN_PROGRESS, OsbClient

APPLY_SECONDS, LATENCY_SECONDS, PLATFORM_POLL_SECONDS = 5.0, 0.2, 0.5
PATIENCE_SECONDS = 300.0
DEFAULTS = {"BROKER_SETTLE_SECONDS": "5"}


@dataclass(frozen=True)
class Run:
    """``calls`` by kind, without digest challenges; times are seconds from the first request to credentials."""

    binds: int
    calls: Counter[str]
    challenges: int
    first: float
    last: float

    @property
    def per_bind(self) -> float:
        return self.calls.total() / self.binds


@click.command()
@click.option("--binds", default=100, show_default=True, help="How many at once; a project holds 100 users.")
@click.option("--one-by-one", "singles", default=10, show_default=True, help="How many one after the other.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
def main(binds: int, singles: int, workers: int) -> None:
    """Measure both in one run, on servers of its own."""
    stack = Stack(workers=workers, flower=False, apply_seconds=APPLY_SECONDS, settings=DEFAULTS)
    with stack, stack.client() as client:
        bench = Bench(client, stack.emulator.control)
        bench.prepare(stack.emulator.clusters[0])
        crowd = bench.at_once(binds)
        bench.remove(binds)
        row = bench.one_by_one(singles)
    click.echo("\n".join(report(crowd, row)))


class Bench:
    """One instance, bound and bound again."""

    def __init__(self, client: OsbClient, atlas: Emulator) -> None:
        self.client, self.atlas = client, atlas

    def prepare(self, cluster: str) -> None:
        self.client.provision("bench", {"cluster": cluster})
        self.client.wait("bench")
        self.atlas.latency(LATENCY_SECONDS)

    def at_once(self, count: int) -> Run:
        names = [f"crowd-{n}" for n in range(count)]
        self.atlas.forget_calls()
        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(self._bind, names))
        return self._run(self._usable(names, began))

    def one_by_one(self, count: int) -> Run:
        times: list[float] = []
        self.atlas.forget_calls()
        began = time.monotonic()
        for n in range(count):
            self._bind(f"single-{n}")
            times += self._usable([f"single-{n}"], began)
        return self._run(times)

    def remove(self, count: int) -> None:
        for n in range(count):
            self.client.unbind("bench", f"crowd-{n}")
        for n in range(count):
            self.client.wait("bench", f"crowd-{n}", seconds=PATIENCE_SECONDS, every=PLATFORM_POLL_SECONDS)

    def _bind(self, name: str) -> None:
        answer = self.client.bind("bench", name)
        if answer.status != 202:
            raise click.ClickException(f"bind answered {answer.status}: {answer.text}")

    def _usable(self, names: list[str], began: float) -> list[float]:
        """The seconds after which each had succeeded, as platforms that poll all of them see it."""
        times: dict[str, float] = {}
        while len(times) < len(names):
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise click.ClickException(f"only {len(times)} of {len(names)} binds were done in time")
            time.sleep(PLATFORM_POLL_SECONDS)
            for name in names:
                if name not in times and self._has_succeeded(name):
                    times[name] = time.monotonic() - began
        return list(times.values())

    def _has_succeeded(self, name: str) -> bool:
        answer = self.client.last_operation("bench", name)
        if answer.state not in ("succeeded", IN_PROGRESS):
            raise click.ClickException(f"a bind failed: {answer.text}")
        return answer.state == "succeeded"

    def _run(self, times: list[float]) -> Run:
        calls = Counter(
            "challenge" if c["challenge"] else f"{c['method']} {c['template']}".replace("/groups/{groupId}", "…")
            for c in self.atlas.calls()
        )
        return Run(len(times), calls, calls.pop("challenge", 0), min(times), max(times))


def report(crowd: Run, row: Run) -> list[str]:
    """The README's figures come from here."""
    each = row.last / row.binds
    kinds, more = sorted({*crowd.calls, *row.calls}), row.per_bind / crowd.per_bind
    return [
        f"Atlas applies a change after {APPLY_SECONDS:g} s and answers after {LATENCY_SECONDS:g} s.",
        f"{'':<36}{f'{crowd.binds} at once':>14}{f'{row.binds} one by one':>16}",
        *(f"{kind:<36}{crowd.calls[kind]:>14}{row.calls[kind]:>16}" for kind in kinds),
        f"{'digest challenges':<36}{crowd.challenges:>14}{row.challenges:>16}",
        f"{'calls a bind':<36}{crowd.per_bind:>14.2f}{row.per_bind:>16.2f}",
        f"{'first usable after, s':<36}{crowd.first:>14.1f}{row.first:>16.1f}",
        f"{'last usable after, s':<36}{crowd.last:>14.1f}{row.last:>16.1f}",
        f"One by one each takes {each:.1f} s, so {crowd.binds} take {each * crowd.binds:.0f} s, which is",
        f"{each * crowd.binds / crowd.last:.0f} times as long, with {more:.1f} times the calls.",
    ]


if __name__ == "__main__":
    main()
