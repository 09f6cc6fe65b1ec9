import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.files import CHECKOUT, DOCKERFILE

dockerfile = pytest.importorskip("dockerfile", reason="its parser has wheels for x86-64 only")

IMAGES = ["api", "worker", "emulator"]


class Step(NamedTuple):
    cmd: str
    flags: tuple[str, ...]
    value: tuple[str, ...]
    json: bool


class Stage(NamedTuple):
    base: str
    steps: list[Step]


@cache
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for command in dockerfile.parse_file(str(DOCKERFILE)):
        step = Step(command.cmd.upper(), command.flags, command.value, command.json)
        if step.cmd == "FROM":
            base, _, name = step.value
            found[name] = current = Stage(base, [])
        else:
            current.steps.append(step)
    return found


def lineage(name: str) -> list[Stage]:
    """The stages whose steps are layers of this one, the first one first."""
    stage = stages().get(name)
    return [*lineage(stage.base), stage] if stage else []


def steps(name: str, cmd: str) -> list[Step]:
    return [step for stage in lineage(name) for step in stage.steps if step.cmd == cmd]


def labels(name: str) -> dict[str, str]:
    values = [value.strip('"') for step in steps(name, "LABEL") for value in step.value if value != "="]
    return dict(zip(values[::2], values[1::2], strict=True))


def copied_from(step: Step) -> str | None:
    return next((flag.removeprefix("--from=") for flag in step.flags if flag.startswith("--from=")), None)


def checkout_files(name: str) -> set[str]:
    """What an image gets of the checkout, also by way of the stages that it copies from."""
    found: set[str] = set()
    for step in steps(name, "COPY"):
        origin = copied_from(step)
        found |= checkout_files(origin) if origin else set(step.value[:-1])
    return found


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_only_base_is_one_exact_slim_version_with_its_digest() -> None:
    outside = {stage.base for stage in stages().values()} - stages().keys()
    (base,) = outside - {"scratch"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert labels("api")["org.opencontainers.image.base.name"] == base.partition("@")[0]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_begins_empty_and_gets_no_shell_and_no_package_manager(name: str) -> None:
    assert lineage(name)[0].base == "scratch"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_tells_by_labels_what_it_is(name: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    told = {key.removeprefix("org.opencontainers.image."): value for key, value in labels(name).items()}
    assert told["title"] == f"atlas-broker-{name}"
    assert (told["version"], told["licenses"]) == (project["version"], project["license"])
    assert told.keys() >= {"description", "revision", "base.name"}


def test_the_api_image_has_no_code_that_calls_atlas() -> None:
    assert "broker_api" in checkout_files("api")
    assert not any("workers" in path or path in (".", "./") for path in checkout_files("api"))
    assert {"broker_api", "workers"} <= checkout_files("worker")


def test_the_api_image_takes_the_requirements_of_the_api_and_the_others_those_of_the_worker() -> None:
    asked = {name: {path for path in checkout_files(name) if path.endswith(".txt")} for name in IMAGES}
    build = "docker/requirements/build.txt"
    assert asked["api"] == {build, "docker/requirements/api.txt"}
    assert asked["worker"] == asked["emulator"] == {build, "docker/requirements/worker.txt"}


@pytest.mark.parametrize("name", ["api", "worker"])
def test_no_test_gets_into_a_production_image(name: str) -> None:
    assert not any(path.startswith("tests") for path in checkout_files(name))


def test_every_file_that_is_copied_exists_and_is_let_through_to_the_build() -> None:
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    assert "*" in ignore
    for path in sorted(set().union(*map(checkout_files, IMAGES))):
        assert (CHECKOUT / path).exists(), path
        assert any(Path(path).match(pattern) for pattern in allowed), path


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_numeric_user_that_is_not_root(name: str) -> None:
    user = steps(name, "USER")[-1].value[0]
    assert all(part.isdigit() and int(part) > 0 for part in user.split(":"))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_starts_its_process_without_a_shell_so_that_signals_reach_it(name: str) -> None:
    for cmd in ("ENTRYPOINT", "CMD"):
        assert steps(name, cmd)[-1].json, cmd


@pytest.mark.parametrize("name", IMAGES)
def test_no_layer_of_an_image_installs_anything(name: str) -> None:
    assert steps(name, "RUN") == []


def test_everything_that_is_installed_is_a_wheel_pinned_by_hash_or_the_broker_itself() -> None:
    commands = [step.value[0] for stage in stages().values() for step in stage.steps if step.cmd == "RUN"]
    assert commands
    installs = [part.strip() for command in commands for part in command.split("&&") if " install " in part]
    for install in installs:
        pinned = "--no-deps --require-hashes --only-binary=:all: -r " in install
        assert pinned or "--no-index --no-deps /wheels/" in install, install
    for image in ("api", "worker"):
        assert any("/opt/venv/bin/python check" in step.value[0] for step in stages()[f"build-{image}"].steps)
    assert not any(tool in command for command in commands for tool in ("apt-get", "curl", "wget", "gcc"))


def test_no_setting_is_baked_in_but_the_port_of_the_metrics() -> None:
    written = [
        value
        for stage in stages().values()
        for step in stage.steps
        if step.cmd in ("ENV", "ARG")
        for value in step.value
    ]
    settings = [value for value in written if value.startswith(("BROKER_", "MONGODB_ATLAS_"))]
    assert settings == ["BROKER_METRICS_PORT"]


def test_health_checks_are_left_to_whoever_runs_the_image() -> None:
    assert not any(step.cmd == "HEALTHCHECK" for stage in stages().values() for step in stage.steps)


def test_the_api_listens_on_every_address_of_both_families() -> None:
    (command,) = (step.value for step in stages()["api"].steps if step.cmd == "CMD")
    assert command[command.index("--host") + 1] == "::"
