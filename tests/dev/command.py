"""``atlas-broker dev``: everything at once, until Ctrl-C."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from tests.dev.stack import Stack

APPLY_SECONDS = 1.0
"""Long enough for a poll to see it PENDING; the real Atlas takes some ten seconds."""
_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0, 16), help="How many Celery workers.")
@click.option("--flower/--no-flower", default=True, show_default=True, help="With Flower, Celery's dashboard.")
@click.option("--oauth", is_flag=True, help="Workers use a service account instead of an API key.")
def dev(*, workers: int, flower: bool, oauth: bool) -> None:
    """Start the broker with everything that it needs.

    That includes an emulated Atlas. It prints the address of each part, and runs until Ctrl-C.
    """
    stack = Stack(workers=workers, flower=flower, oauth=oauth, forked=False, apply_seconds=APPLY_SECONDS)
    with running(stack):
        click.echo("\n".join(where(stack)))
        try:
            watch(stack)
        except KeyboardInterrupt:
            click.echo("\nstopping ...")


@contextmanager
def running(stack: Stack) -> Iterator[Stack]:
    """Any of the signals that end a program ends the stack first; while it ends, further ones are not heard.

    Raises:
        click.ClickException: a server is missing or did not start; the message says which and why.
    """
    before = {number: signal.signal(number, _interrupt) for number in _END}
    try:
        click.echo("starting MongoDB, Redis, the Atlas emulator, API and workers ...", err=True)
        stack.start()
        yield stack
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    finally:
        for number in _END:
            signal.signal(number, signal.SIG_IGN)
        stack.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def where(stack: Stack) -> list[str]:
    """One line for each part; the passwords are of this run only."""
    parts = {
        "API": f"{stack.api.uri}  user {stack.user}  password {stack.password}",
        "for curl": f"export BROKER={stack.api.uri.replace('://', f'://{stack.user}:{stack.password}@')}",
        "Flower": f"{stack.flower.uri}  (same user)" if stack.flower else "not started",
        "Atlas (emulator)": f"{stack.emulator.uri}  project {stack.emulator.project_id}",
        "clusters": ", ".join(stack.emulator.clusters),
        "MongoDB, state": f"{stack.state.uri}  database {stack.database}",
        "MongoDB, cluster": stack.cluster.uri,
        "Redis": stack.redis.uri,
        **{worker.name: f"process {worker.process.pid}" for worker in stack.workers if worker.process},
        "logs": str(stack.api.home.parent / "*" / "log"),
    }
    return [f"{name + ':':<18} {place}" for name, place in parts.items()] + ["Ctrl-C stops them all."]


def watch(stack: Stack) -> None:
    """Report each process that ends; what is left goes on, since losing one is what the broker is made for."""
    reported: set[int] = set()
    while True:
        for server in stack.ended():
            if id(server) not in reported:
                reported.add(id(server))
                click.echo(server.report_of_end(), err=True)
        time.sleep(0.3)
