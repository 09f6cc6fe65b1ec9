import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.files import CHECKOUT, Object, objects
from tests.deploy.pythons import SUPPORTED

GITHUB = CHECKOUT / ".github"
WORKFLOW = GITHUB / "workflows" / "tests.yml"


def jobs() -> Object:
    (document,) = objects(WORKFLOW)
    found: Object = document["jobs"]
    return found


def commands(job: str) -> list[str]:
    return [step["run"] for step in jobs()[job]["steps"] if "run" in step]


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-workflows", WORKFLOW), ("vendor.dependabot", GITHUB / "dependabot.yml")],
    ids=["workflow", "dependabot"],
)
def test_it_is_a_valid_file(schema: str, path: Path) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    result = subprocess.run([checker, "--builtin-schema", schema, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_supported_python_runs_what_ci_runs() -> None:
    assert jobs()["tests"]["strategy"]["matrix"]["python"] == SUPPORTED
    assert commands("tests") == [".ci/run"]


def test_a_fresh_machine_runs_the_first_command_of_the_readme() -> None:
    (command,) = commands("fresh-machine")
    assert f"```sh\n{command}\n```" in (CHECKOUT / "README.md").read_text()


@pytest.mark.parametrize("session", ["long", "coverage", "audit"])
def test_what_takes_long_or_asks_others_runs_when_scheduled_only(session: str) -> None:
    assert jobs()[session]["if"] == "github.event_name == 'schedule'"
    assert commands(session)[-1].endswith(f".venv/bin/nox -s {session}")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(
        r"^sh tests/dev/set-up\.sh && \.venv/bin/nox$", (CHECKOUT / "README.md").read_text(), re.MULTILINE
    )
    assert command in (GITHUB / "CONTRIBUTING.md").read_text()
    script = (CHECKOUT / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"grep -E '(.*)' README.md", script)
    assert re.fullmatch(pattern, command)


def test_the_tests_run_weekly_too() -> None:
    assert re.search(r"^  schedule:\n    - cron: \"\d+ \d+ \* \* \d\"", WORKFLOW.read_text(), re.MULTILINE)


def test_all_files_agree_on_the_supported_pythons() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    classifiers = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert classifiers == SUPPORTED
    assert project["requires-python"] == f">={SUPPORTED[0]}"
    script = (CHECKOUT / "tests" / "dev" / "set-up.sh").read_text()
    first, last = (minor.replace(".", ", ") for minor in (SUPPORTED[0], SUPPORTED[-1]))
    assert f"({first}) <= sys.version_info[:2] <= ({last})" in script
