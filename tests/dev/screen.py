"""What the demo shows: one line a step with the time it took, and a sign of life while it waits on a terminal."""

import itertools
import sys
import time

import click

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

    def done(self, step: str, what: str) -> None:
        self._line(click.style("+", fg="green"), step, what)

    def failed(self, step: str, what: str) -> None:
        self._line(click.style("x", fg="red"), step, what)

    def _line(self, mark: str, step: str, what: str) -> None:
        begin = f"\r\x1b[2K{mark} " if self.terminal else ""
        click.echo(f"{begin}{step:<12} {what}  {self._elapsed()}")

    def _elapsed(self) -> str:
        return f"({time.monotonic() - self._since:.2f} s)"
