"""``atlas-broker demo``: a platform's story on a stack of its own."""

import time

import click

from tests.dev.command import APPLY_SECONDS, running
from tests.dev.demo_tour import Screen, Tour, play
from tests.dev.new_cluster_demo import CLUSTER_SECONDS, PLANS, SETTINGS, NewClusterTour
from tests.dev.stack import Stack


@click.command()
@click.option("--new-cluster", is_flag=True, help="Show the plans that make clusters; takes a minute and a half.")
def demo(*, new_cluster: bool) -> None:
    """Start a broker and show all requests of a platform.

    It provisions, binds, logs in with the credentials, unbinds and deprovisions, on real parts and an emulated Atlas.
    """
    began = time.monotonic()
    stack = Stack(
        workers=1,  # a second one would have nothing to do
        flower=False,  # it would be gone before anyone could look at it
        forked=False,
        apply_seconds=APPLY_SECONDS,
        cluster_seconds=CLUSTER_SECONDS,
        settings=SETTINGS if new_cluster else None,
    )
    try:
        with running(stack), stack.client() as client:
            click.echo(f"everything runs after {time.monotonic() - began:.1f} s, the API on {stack.api.uri}")
            screen = Screen()
            tours: list[Tour] = [NewClusterTour(stack, client, screen, kind) for kind in PLANS if new_cluster]
            happened = all(play(tour) for tour in tours or [Tour(stack, client, screen)])
    except KeyboardInterrupt:
        raise click.ClickException("interrupted: not everything happened") from None
    if not happened:
        raise SystemExit(1)
    click.echo(f"all of it happened, in {time.monotonic() - began:.1f} s")
