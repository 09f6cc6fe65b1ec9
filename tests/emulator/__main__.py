"""`python -m tests.emulator --mongo URI`: prints its base URL as one line once it listens, and serves until stopped."""

import click

from tests.emulator.app import App
from tests.emulator.server import Server
from tests.emulator.world import CLIENT_ID, CLIENT_SECRET, CLUSTERS, PRIVATE_KEY, PROJECT_ID, PUBLIC_KEY, Setup, World


@click.command()
@click.option("--mongo", required=True, help="URI of a mongod, with its root user: the emulated clusters.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, help="0 takes a free one.")
@click.option("--project", default=PROJECT_ID, show_default=True)
@click.option("--public-key", default=PUBLIC_KEY, show_default=True)
@click.option("--private-key", default=PRIVATE_KEY, show_default=True)
@click.option("--client-id", default=CLIENT_ID, show_default=True)
@click.option("--client-secret", default=CLIENT_SECRET, show_default=True)
@click.option("--cluster", "clusters", multiple=True, default=CLUSTERS, help="NAME or NAME=MONGO_URI; may be repeated.")
@click.option("--apply-seconds", default=0.0, help="How long a change of a user takes to reach the clusters.")
@click.option("--until-stdin-closes", is_flag=True, help="End when the process that holds stdin does.")
def main(host: str, port: int, *, until_stdin_closes: bool, **setup: str | float | tuple[str, ...]) -> None:
    """An emulated Atlas."""
    options = Setup(**setup)  # type: ignore[arg-type]  # the options above are its fields
    Server(lambda: _make(options), host, port, until_stdin_closes=until_stdin_closes).run()


def _make(setup: Setup) -> App:
    world = World(setup)
    world.deployment.start()
    return App(world)


main()
