"""The story of ``atlas-broker demo``: what a platform does with the broker, step by step."""

import itertools
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import click
import requests
from pymongo.errors import OperationFailure, PyMongoError

from tests.dev.stack import Stack
from tests.osb_client import IN_PROGRESS, Answer, OsbClient
from tests.tenant import UNAUTHORIZED, log_in, works

POLL_SECONDS = 0.3
OPERATION_SECONDS = 60.0


class TourError(Exception):
    """A step did not happen as a platform may expect; the message says what happened instead."""


_TURN = itertools.cycle("|/-\\")


class Screen:
    """Plain lines, nothing rewritten and no colour, when the output is no terminal."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self._since = time.monotonic()

    def begin(self) -> None:
        """From now on the time of a step counts."""
        self._since = time.monotonic()

    def waiting(self, step: str, what: str) -> None:
        """On a terminal only: the line that the step's own replaces."""
        if self.terminal:
            click.echo(f"\r\x1b[2K{next(_TURN)} {step:<12} {what} {self._elapsed()}", nl=False)

    def done(self, step: str, what: str, mark: str = click.style("+", fg="green")) -> None:
        begin = f"\r\x1b[2K{mark} " if self.terminal else ""
        click.echo(f"{begin}{step:<12} {what}  {self._elapsed()}")

    def failed(self, step: str, what: str) -> None:
        self.done(step, what, click.style("x", fg="red"))

    def _elapsed(self) -> str:
        return f"({time.monotonic() - self._since:.2f} s)"


def play(tour: "Tour") -> bool:
    """Every step in order; False as soon as one of them does not happen."""
    for name, step in tour.steps():
        tour.screen.begin()
        tour.screen.waiting(name, "")
        try:
            tour.screen.done(name, step())
        except (TourError, TimeoutError, ValueError, KeyError, requests.RequestException, PyMongoError) as error:
            tour.screen.failed(name, f"did not happen: {tour.masked(str(error))}")
            return False
    return True


class Tour:
    """One instance and one binding; each step returns what the platform's user would see."""

    def __init__(self, stack: Stack, client: OsbClient, screen: Screen) -> None:
        self.stack, self.client, self.screen = stack, client, screen
        self.instance_id, self.binding_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.parameters = {"cluster": stack.emulator.clusters[0], "policy-on-delete": "drop"}
        self.credentials: dict[str, Any] = {}

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("catalog", self.catalog),
            ("provision", self.provision),
            ("bind", self.bind),
            ("credentials", self.fetch_credentials),
            ("log in", self.log_in_and_write),
            ("refused", self.try_another_database),
            ("bind", self.bind_again),
            ("unbind", self.unbind),
            ("refused", self.log_in_again),
            ("deprovision", self.deprovision),
            ("database", self.look_for_the_database),
        ]

    def catalog(self) -> str:
        answer = self.client.catalog()
        _expect(answer, 200)
        return ", ".join(f"{s['name']}: {p['name']}" for s in answer.json["services"] for p in s["plans"])

    def provision(self) -> str:
        self._finish("provision", self.client.provision(self.instance_id, self.parameters))
        return f"succeeded: instance {self.instance_id} on {self.parameters['cluster']}, policy-on-delete drop"

    def bind(self) -> str:
        self._finish("bind", self.client.bind(self.instance_id, self.binding_id), self.binding_id)
        return f"succeeded: binding {self.binding_id}"

    def fetch_credentials(self) -> str:
        answer = self.client.binding(self.instance_id, self.binding_id)
        _expect(answer, 200)
        self.credentials = answer.json["credentials"]
        return self.masked(", ".join(f"{name} {value}" for name, value in sorted(self.credentials.items())))

    def log_in_and_write(self) -> str:
        with log_in(self.credentials) as client:
            database = client[self.credentials["database"]]
            database["visits"].insert_one({"by": "demo"})
            written = database["visits"].count_documents({})
        if not self._database_exists():
            raise TourError("the write cannot be seen in the cluster")
        return f"with these credentials: write to {self.credentials['database']}, {written} document there"

    def try_another_database(self) -> str:
        try:
            with log_in(self.credentials) as client:
                client["somebody-elses"]["visits"].insert_one({"by": "demo"})
        except OperationFailure as error:
            if error.code == UNAUTHORIZED:
                return "a write to another database"
            raise
        raise TourError("the credentials can write to another database")

    def bind_again(self) -> str:
        answer = self.client.bind(self.instance_id, self.binding_id)
        _expect(answer, 200)
        if answer.json["credentials"] != self.credentials:
            raise TourError("the same bind again gave other credentials")
        return "the same again: the same credentials"

    def unbind(self) -> str:
        self._finish("unbind", self.client.unbind(self.instance_id, self.binding_id), self.binding_id)
        return "succeeded"

    def log_in_again(self) -> str:
        if works(self.credentials):
            raise TourError("the credentials still work after unbind")
        return "the log in with the old credentials"

    def deprovision(self) -> str:
        self._finish("deprovision", self.client.deprovision(self.instance_id))
        return "succeeded"

    def look_for_the_database(self) -> str:
        if self._database_exists():
            raise TourError(f"{self.credentials['database']} is still there")
        return f"{self.credentials['database']} is gone"

    def masked(self, text: str) -> str:
        password = self.credentials.get("password")
        for form in (password, quote(password, safe=""), quote_plus(password)) if password else ():
            text = text.replace(form, "********")
        return text

    def _finish(self, step: str, accepted: Answer, binding_id: str | None = None) -> None:
        """Poll like a platform; raises TourError with the broker's own description when it ends badly."""
        _expect(accepted, 202)
        if not self.screen.terminal:
            self.screen.done(step, IN_PROGRESS)
        watch = partial(self._polled, step)
        options = {"seconds": OPERATION_SECONDS, "every": POLL_SECONDS}
        ended = self.client.wait(self.instance_id, binding_id, accepted.operation, **options, on_poll=watch)
        if ended.state not in ("succeeded", "gone"):
            raise TourError(f"{ended.status} {ended.state}: {ended.description}")

    def _polled(self, step: str, answer: Answer) -> None:
        self.screen.waiting(step, f"{answer.state}: {answer.description}" if answer.description else answer.state)
        for ended in self.stack.ended():
            click.echo(f"\n{ended.report_of_end()}", err=True)
            raise TourError(f"{ended.name} ended with status {ended.returncode}")

    def _database_exists(self) -> bool:
        with self.stack.cluster.client() as root:
            return self.credentials["database"] in root.list_database_names()


def _expect(answer: Answer, status: int) -> None:
    if answer.status != status:
        raise TourError(f"{status} was expected, the answer is {answer.status}: {answer.text[:300]}")
