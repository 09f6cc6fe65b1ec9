import re
import tomllib
from functools import cache
from importlib import metadata
from itertools import chain, product

import pytest
from packaging.requirements import Requirement

from tests.deploy.files import CHECKOUT, REQUIREMENTS
from tests.deploy.locks import LINE, LOCKS, lines, normalized, requirements_of
from tests.deploy.locks import pins as all_pins

HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
LEFT_OUT = {"rfc3987-syntax"}
"""What the lock for the development leaves out on purpose; docker/requirements/compile.sh says why."""
PYTHONS = ["3.11.0", "3.11.2", "3.11.3", "3.12.0", "3.13.0", "3.14.0"]


def pins(lock: str) -> dict[str, str]:
    """Version by package."""
    return {pin.name: pin.version for pin in all_pins(lock)}


@cache
def declared() -> dict[str, list[Requirement]]:
    """The ranges of pyproject.toml, by the file that has to agree with them."""
    document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = document["project"]
    worker = list(map(Requirement, project["dependencies"]))
    extras = project["optional-dependencies"]
    dev = list(map(Requirement, extras["dev"] + extras["tracing"]))
    build = list(map(Requirement, document["build-system"]["requires"]))
    return {"worker": worker, "dev": worker + dev, "build": build}


@cache
def asked_by_api() -> list[Requirement]:
    wanted = (REQUIREMENTS / "api.in").read_text().splitlines()
    return [Requirement(line) for line in wanted if not line.startswith("#")]


def roots(lock: str) -> list[Requirement]:
    """What the lock file was made from."""
    return {"api": asked_by_api(), "uv": [Requirement("uv")], "audit": [Requirement("pip-audit")]}.get(
        lock
    ) or declared()[lock]


def unmet(lock: str, environment: dict[str, str]) -> list[str]:
    """Return the requirements, of the project and of the pinned packages, that the pins of a lock do not meet there."""
    by_name = {pin.name: pin for pin in all_pins(lock) if pin.applies(environment)}
    found = []
    pending = [(requirement, "", lock) for requirement in roots(lock)]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, asked_extra, asker = pending.pop()
        if requirement.marker and not requirement.marker.evaluate(environment | {"extra": asked_extra}):
            continue
        if lock == "dev" and normalized(requirement.name) in LEFT_OUT:
            continue
        pin = by_name.get(normalized(requirement.name))
        if pin is None or not requirement.specifier.contains(pin.version):
            found.append(f"{asker} asks for {requirement}, pinned is {pin}")
            continue
        for extra in {"", *requirement.extras}:
            if (pin.name, extra) not in seen:
                seen.add((pin.name, extra))
                pending += [(Requirement(text), extra, pin.name) for text in requirements_of(pin)]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_an_exact_version_a_hash_or_a_comment(name: str) -> None:
    for line in filter(None, lines(name)):
        assert LINE.fullmatch(line) or HASH.fullmatch(line) or line.lstrip().startswith("#"), line


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_a_hash(name: str) -> None:
    assert pins(name)
    for line, following in zip(lines(name), [*lines(name)[1:], ""], strict=True):
        if LINE.fullmatch(line):
            assert HASH.fullmatch(following), line


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_says_from_where_a_package_comes_or_who_made_the_file(name: str) -> None:
    text = "\n".join(lines(name))
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|file:|(^|\s)/\w", text)


@pytest.mark.parametrize(("name", "python", "machine"), [*product(LOCKS, PYTHONS, ["x86_64", "aarch64"])])
def test_a_lock_file_is_complete_for_every_python_since_pip_resolves_nothing(
    name: str, python: str, machine: str
) -> None:
    version = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    assert unmet(name, version | {"platform_machine": machine}) == []


@pytest.mark.parametrize("name", ["dev", "build"])
def test_this_environment_has_what_is_pinned_so_that_its_metadata_can_be_relied_on(name: str) -> None:
    pinned = {pin.name: pin.version for pin in all_pins(name) if pin.applies()}
    assert {package: metadata.version(package) for package in pinned} == pinned


@pytest.mark.parametrize("name", ["worker", "dev", "build"])
def test_the_pins_are_within_the_ranges_of_the_project(name: str) -> None:
    for requirement in declared()[name]:
        version = pins(name)[normalized(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"


def test_the_api_asks_for_a_part_of_what_the_project_declares() -> None:
    asked, offered = asked_by_api(), declared()["worker"]
    assert {requirement.name for requirement in asked} < {requirement.name for requirement in offered}


def test_the_api_has_no_atlas_client_no_dashboard_and_no_rate_limiter() -> None:
    assert not {"requests", "flower", "limits"} & pins("api").keys()


@pytest.mark.parametrize(("name", "other"), [("api", "worker"), ("dev", "worker"), ("build", "dev")])
def test_all_files_agree_on_the_versions_that_they_share(name: str, other: str) -> None:
    shared = pins(other).keys() & pins(name).keys()
    assert {package: pins(name)[package] for package in shared} == {package: pins(other)[package] for package in shared}


def test_what_the_development_installs_holds_everything_that_the_worker_runs_and_nothing_that_slows_it() -> None:
    assert pins("worker").keys() <= pins("dev").keys()
    assert not LEFT_OUT & pins("dev").keys()


def test_the_extras_of_the_project_are_resolved_too() -> None:
    """`pymongo[srv]` without dnspython could open no mongodb+srv:// address."""
    assert set(chain(["dnspython", "redis"])) <= pins("api").keys()
