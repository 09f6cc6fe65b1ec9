import re
import tomllib
from functools import cache
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.files import CHECKOUT, REQUIREMENTS

FILES = ["api", "worker", "dev", "build"]
LINE = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^ ;\\]+( ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def lines(name: str) -> list[str]:
    return (REQUIREMENTS / f"{name}.txt").read_text().splitlines()


@cache
def pins(name: str) -> dict[str, str]:
    """Version by package."""
    pinned = [line.removesuffix(" \\").split(" ;")[0] for line in lines(name) if LINE.fullmatch(line)]
    return {canonicalize_name(package): version for package, version in (pin.split("==") for pin in pinned)}


@cache
def declared() -> dict[str, list[Requirement]]:
    """The ranges of pyproject.toml, by the file that has to agree with them."""
    document = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = document["project"]
    worker = list(map(Requirement, project["dependencies"]))
    dev = list(map(Requirement, project["optional-dependencies"]["dev"]))
    build = list(map(Requirement, document["build-system"]["requires"]))
    return {"worker": worker, "dev": worker + dev, "build": build}


def asked_by_api() -> set[str]:
    wanted = (REQUIREMENTS / "api.in").read_text().splitlines()
    return {Requirement(line).name for line in wanted if not line.startswith("#")}


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_an_exact_version_a_hash_or_a_comment(name: str) -> None:
    for line in lines(name):
        assert LINE.fullmatch(line) or HASH.fullmatch(line) or line.lstrip().startswith("#"), line


@pytest.mark.parametrize("name", FILES)
def test_every_package_has_a_hash(name: str) -> None:
    assert pins(name)
    for line, following in zip(lines(name), [*lines(name)[1:], ""], strict=True):
        if LINE.fullmatch(line):
            assert HASH.fullmatch(following), line


@pytest.mark.parametrize("name", FILES)
def test_nothing_says_from_where_a_package_comes_or_who_made_the_file(name: str) -> None:
    text = "\n".join(lines(name))
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|file:|(^|\s)/\w", text)


@pytest.mark.parametrize("name", ["worker", "dev", "build"])
def test_the_pins_are_within_the_ranges_of_the_project(name: str) -> None:
    for requirement in declared()[name]:
        version = pins(name)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"


def test_the_api_asks_for_a_part_of_what_the_project_declares() -> None:
    assert asked_by_api() < {requirement.name for requirement in declared()["worker"]}


def test_the_api_has_no_atlas_client_no_dashboard_and_no_rate_limiter() -> None:
    assert not {"requests", "flower", "limits"} & pins("api").keys()


@pytest.mark.parametrize("name", ["api", "dev"])
def test_all_files_agree_on_the_versions_that_they_share(name: str) -> None:
    shared = pins("worker").keys() & pins(name).keys()
    assert {package: pins(name)[package] for package in shared} == {
        package: pins("worker")[package] for package in shared
    }


def test_what_the_development_installs_holds_everything_that_the_worker_runs() -> None:
    assert pins("worker").keys() <= pins("dev").keys()


def test_the_extras_of_the_project_are_resolved_too() -> None:
    """`pymongo[srv]` without dnspython could open no mongodb+srv:// address."""
    assert set(chain(["dnspython", "redis"])) <= pins("api").keys()
