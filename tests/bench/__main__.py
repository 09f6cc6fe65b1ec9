"""The benchmark: ``python -m tests.bench``. Atlas is the stand-in ``lean_atlas``; everything else is real.

All processes share the machine, so ratios within one run say more than single figures.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from tests.bench import counts, delays, reads, throughput
from tests.bench.lab import Lab
from tests.bench.report import MISSING_MATPLOTLIB, Result, draw, write_json
from tests.bench.servers import FOLDER, install_old_broker

FIGURES: dict[str, Callable[[Lab], Result]] = {
    "loop": throughput.closed_loop,
    "clients": throughput.clients,
    "one-client": throughput.one_client,
    "counts": counts.counts,
    "delays": delays.delays,
    "answers": reads.last_operation,
    "burst": throughput.burst,
    "workers": throughput.workers,
    "queue": delays.queue,
    "growth": reads.growth,
}
"""In an order in which the broker is seldom started: those with one worker, those with two, and last growth, which has
brokers of its own."""


@click.command()
@click.option("--short", is_flag=True, help="Measure for a shorter time, at fewer points.")
@click.option("--only", multiple=True, type=click.Choice(list(FIGURES)), help="Measure only this; may be repeated.")
@click.option("--without-old", is_flag=True, help="Leave atlasbroker 2.0.0 out, which is installed at the first run.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all values into this file.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=FOLDER / "curves",
    show_default=True,
    help="Folder for the curves.",
)
def main(only: tuple[str, ...], json_file: Path | None, out: Path, *, short: bool, without_old: bool) -> None:
    """Measure this broker, beside atlasbroker 2.0.0 where that can do the same."""
    results: dict[str, Result] = {}
    with Lab(short=short, old_python=None if without_old else _old_python()) as lab:
        for name in only or FIGURES:
            began = time.monotonic()
            results[name] = FIGURES[name](lab)
            seconds, load = time.monotonic() - began, os.getloadavg()[0]
            results[name].notes.append(f"Took {seconds:.0f} s; load average {load:.1f}, {os.cpu_count()} cores.")
            click.echo("\n".join(results[name].table()))
    if json_file:
        write_json(results, json_file)
    try:
        draw((curve for result in results.values() for curve in result.curves), out)
    except ModuleNotFoundError:
        click.echo(MISSING_MATPLOTLIB)


def _old_python() -> Path | None:
    try:
        return install_old_broker()
    except OSError as error:
        click.echo(f"atlasbroker 2.0.0 is left out, since it cannot be installed: {error}")
        return None


if __name__ == "__main__":
    main()
