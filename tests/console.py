"""The operator's commands, run in this process on the state of a test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner, Result

from broker_api.cli import cli
from tests.dev.stack import Stack


@dataclass(frozen=True)
class Console:
    """``settings`` are the environment variables of the commands."""

    settings: Mapping[str, str]

    @classmethod
    def of(cls, stack: Stack) -> "Console":
        """With no more settings than the commands need: neither keys nor anything of Atlas."""
        needed = ("BROKER_REDIS_URL", *(f"BROKER_MONGO_{name}" for name in ("URI", "DB", "COLLECTION", "TIMEOUT_MS")))
        return cls({name: stack.shared_settings[name] for name in needed})

    def run(self, *words: str) -> Result:
        done = CliRunner().invoke(cli, words, env=self.settings)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done

    def json(self, *words: str) -> Any:  # noqa: ANN401 - JSON
        """What a command prints, which must succeed."""
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *words: str) -> str:
        """The only line of a command that must fail."""
        done = self.run(*words)
        assert (done.exit_code, done.stdout) == (1, ""), done.output
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("Error: ").strip()
