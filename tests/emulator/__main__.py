"""`python -m tests.emulator --mongo URI`: prints its base URL as one line once it listens, and serves until stopped."""

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click
from gunicorn.app.base import BaseApplication

from tests.emulator.app import App
from tests.emulator.world import CLUSTERS, PRIVATE_KEY, PROJECT_ID, PUBLIC_KEY, World

if TYPE_CHECKING:
    from gunicorn.workers.base import Worker


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """One process, a thread for each call, connections that are kept."""

    def __init__(self, options: dict[str, str | float | tuple[str, ...]], settings: dict[str, object]) -> None:
        self._options, self._settings = options, settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> App:
        """Called in the serving process."""
        world = World(**self._options)  # type: ignore[arg-type]  # the command's options are its fields
        world.atlas.start()
        return App(world)


@click.command()
@click.option("--mongo", required=True, help="URI of a mongod, with its root user: the emulated clusters.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, help="0 takes a free one.")
@click.option("--project", default=PROJECT_ID, show_default=True)
@click.option("--public-key", default=PUBLIC_KEY, show_default=True)
@click.option("--private-key", default=PRIVATE_KEY, show_default=True)
@click.option("--cluster", "clusters", multiple=True, default=CLUSTERS, help="NAME or NAME=MONGO_URI; may be repeated.")
@click.option("--apply-seconds", default=0.0, help="How long a change of a user takes to reach the clusters.")
@click.option("--cluster-seconds", default=0.0, help="How long clusters are created, changed and deleted.")
@click.option("--ca-certificate", default="", help="File of the authority that signs users' certificates.")
@click.option("--ca-key", default="", help="File of its key.")
@click.option("--until-stdin-closes", is_flag=True, help="End when the process that holds stdin does.")
def main(host: str, port: int, *, until_stdin_closes: bool, **options: str | float | tuple[str, ...]) -> None:
    """An emulated Atlas."""

    def announce(worker: "Worker") -> None:
        click.echo(f"http://{host}:{worker.sockets[0].getsockname()[1]}")

    def watch_stdin() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGINT)

    def when_ready(_arbiter: object) -> None:
        if until_stdin_closes:
            threading.Thread(target=watch_stdin, daemon=True).start()

    settings = {
        "bind": f"{host}:{port}",
        "worker_class": "gthread",
        "threads": 256,  # calls that hang keep their thread
        "keepalive": 60,
        "timeout": 0,
        "graceful_timeout": 0,
        "limit_request_line": 8190,
        "control_socket_disable": True,
        "loglevel": "warning",
        "post_worker_init": announce,
        "when_ready": when_ready,
    }
    Server(options, settings).run()


main()
