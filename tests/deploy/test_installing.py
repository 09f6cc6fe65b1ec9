"""Each lock file is installed for real, from stub wheels, by the commands of set-up.sh and of the Dockerfile."""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.files import CHECKOUT, DOCKERFILE
from tests.deploy.locks import normalized, pins
from tests.deploy.pythons import SUPPORTED, pythons
from tests.deploy.stub_index import UV, StubIndex

MISLEADING = {
    "VIRTUAL_ENV": "/nonexistent",
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": "/nonexistent",
    "PYTHONWARNINGS": "error",
    "CDPATH": "/",
    "PIP_USER": "1",
    "PIP_TARGET": "/nonexistent/target",
    "PIP_PREFIX": "/nonexistent/prefix",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BINARY": ":all:",
    "PIP_CONSTRAINT": "/nonexistent/constraints.txt",
    "PIP_QUIET": "3",
    "UV_TARGET": "/nonexistent/target",
    "UV_OFFLINE": "1",
}
"""What may stand in a developer's environment and concerns another project."""


class Checkout(NamedTuple):
    folder: Path
    environment: dict[str, str]

    def set_up(self) -> subprocess.CompletedProcess[str]:
        script = self.folder / "tests" / "dev" / "set-up.sh"
        return subprocess.run(
            ["sh", script], cwd="/", env=self.environment, capture_output=True, text=True, check=False, timeout=240
        )

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / "set-up"


class Made(NamedTuple):
    place: Checkout
    result: subprocess.CompletedProcess[str]
    installer: str


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> StubIndex:
    return StubIndex(tmp_path_factory.mktemp("index"))


def checkout(folder: Path, python: Path, index: StubIndex, index_url: str | None = None) -> Checkout:
    """A checkout in a path with a space; on PATH a Python that is too old comes before the one asked for."""
    clone = folder / "a clone"
    (clone / "tests" / "dev").mkdir(parents=True)
    shutil.copy(CHECKOUT / "tests" / "dev" / "set-up.sh", clone / "tests" / "dev")
    for name in ("pyproject.toml", "README.md", "LICENSE", "celeryconfig.py"):
        shutil.copy(CHECKOUT / name, clone)
    shutil.copytree(index.requirements, clone / "docker" / "requirements")
    program(folder / "old" / "python3", 'echo "SyntaxError: invalid syntax" >&2; exit 1')
    program(folder / "fitting" / "python3.12", f'exec {shlex.quote(str(python))} "$@"')
    configuration = folder / "pip.conf"
    configuration.write_text(f"[global]\nindex-url = {index_url or index.url}\n[install]\nuser = true\n")
    path = os.pathsep.join([str(folder / "old"), str(folder / "fitting"), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    home = {"HOME": str(folder), "PATH": path, "PIP_CONFIG_FILE": str(configuration), "PIP_RETRIES": "0"}
    return Checkout(clone, MISLEADING | home)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def installed(python: Path) -> set[tuple[str, str]]:
    """Name and version of what is in a virtual environment, without the broker and what the venv module put there."""
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    found = [path.name.removesuffix(".dist-info").rpartition("-") for path in packages.glob("*.dist-info")]
    given = {"atlas-broker", "pip", "setuptools"}
    return {(normalized(name), version) for name, _, version in found if normalized(name) not in given}


def wanted(python: Path, *locks: str) -> set[tuple[str, str]]:
    version = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {"python_full_version": version, "python_version": version.rpartition(".")[0]}
    return {(pin.name, pin.version) for lock in locks for pin in pins(lock) if pin.applies(environment)}


def test_set_up_installs_by_locks_only() -> None:
    """What it installs otherwise, from the folder itself, has no index to look in."""
    script = (CHECKOUT / "tests" / "dev" / "set-up.sh").read_text()
    assert 'locked="--no-deps --require-hashes --only-binary=:all:"\n' in script
    commands = re.findall(r"\bpip install ((?:.*\\\n)*.*)", script)
    assert len(commands) == 4
    for options in commands:
        assert "$locked" in options or "--no-deps --no-index" in options, options


THIS = ".".join(platform.python_version_tuple()[:2])
CASES = [(THIS, "uv"), *[(minor, "pip") for minor in SUPPORTED]]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, index: StubIndex, *, long_form: bool
) -> Iterator[Made]:
    """A checkout where set-up.sh has run, over what an interrupted run or a Python that is gone leaves."""
    minor, installer = request.param
    if not long_form:
        pytest.skip("with --long: set-up.sh has made the environment of this run, which test_requirements.py looks at")
    python = Path(sys.executable) if minor == THIS else pythons().get(minor)
    if python is None:
        pytest.skip(f"there is no Python {minor} here")
    place = checkout(tmp_path_factory.mktemp("checkout"), python, index)
    if installer == "pip":
        (place.folder / "docker" / "requirements" / "uv.txt").write_text(f"uv==0 --hash=sha256:{'0' * 64}\n")
    elif not UV.exists():
        pytest.skip("set-up.sh has not installed uv in this environment")
    place.python.parent.mkdir(parents=True)
    place.python.symlink_to("/nonexistent/python3")
    place.stamp.write_text("")
    yield Made(place, place.set_up(), installer)
    shutil.rmtree(place.folder)


def test_set_up_installs_what_is_pinned_whatever_is_published_later(made: Made) -> None:
    place, result, installer = made
    assert (result.returncode, result.stderr) == (0, "")
    locks = ["dev", "build", "uv"] if installer == "uv" else ["dev", "build"]
    assert installed(place.python) == wanted(place.python, *locks)
    (package,) = place.python.parents[1].glob("lib/python3*/site-packages/flask-*.dist-info")
    assert (package / "INSTALLER").read_text().strip() == installer
    assert (place.python.parent / "atlas-broker").exists()


def test_a_second_run_of_set_up_says_in_one_line_that_all_is_there(made: Made) -> None:
    place = made.place
    before = time.monotonic()
    result = place.set_up()
    assert time.monotonic() - before < 2
    assert result.returncode == 0
    assert re.fullmatch(r"Everything is in \.venv: Python 3\.\S+\.\n", result.stdout)


@pytest.mark.parametrize("lock", ["api", "worker"])
def test_the_images_install_what_is_pinned_whatever_is_published_later(
    made: Made, index: StubIndex, tmp_path: Path, lock: str
) -> None:
    place = made.place
    environment = tmp_path / "venv"
    subprocess.run([place.python, "-m", "venv", "--without-pip", environment], check=True)
    (command,) = re.findall(rf"install (.* -r {lock}\.txt)(?: \\)?$", DOCKERFILE.read_text(), re.MULTILINE)
    pip: list[str | Path] = [place.python, "-m", "pip", "--isolated", "--python", environment / "bin" / "python"]
    offline: list[str | Path] = ["--no-index", "--find-links", index.wheels]
    install = [*pip, "install", *offline, *shlex.split(command)]
    result = subprocess.run(install, cwd=index.requirements, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert installed(environment / "bin" / "python") == wanted(place.python, lock)


def python_that_copies_pip() -> str:
    """A Python for set-up.sh whose venv module takes a fraction of the time that it takes to install pip."""
    python, pip = shlex.quote(sys.executable), importlib.util.find_spec("pip")
    assert pip
    assert pip.origin
    copied = f'cp -R {shlex.quote(str(Path(pip.origin).parent))} "$3"/lib/python3*/site-packages'
    return f"""case "$1" in
    -c) {python} "$@" >/dev/null && echo "$0" ;;
    -m) {python} -m venv --without-pip "$3" && {copied} ;;
    *) exec {python} "$@" ;;
    esac"""


def test_set_up_that_cannot_get_the_packages_says_so_in_one_line_and_is_not_done(
    tmp_path: Path, index: StubIndex
) -> None:
    place = checkout(tmp_path, Path(sys.executable), index, index_url="http://127.0.0.1:9/simple")
    program(tmp_path / "fitting" / "python3.12", python_that_copies_pip())
    result = place.set_up()
    assert result.returncode == 1
    assert re.fullmatch(r"set-up: The packages could not be installed: .*\n", result.stderr)
    assert not place.stamp.exists()


def test_set_up_without_a_fitting_python_says_so_in_one_line(tmp_path: Path, index: StubIndex) -> None:
    place = checkout(tmp_path, Path("/bin/false"), index)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env", "sed", "cat", "cksum", "dirname", "flock"):
        (tools / name).symlink_to(str(shutil.which(name)))
    place.environment["PATH"] = f"{tmp_path / 'old'}:{tmp_path / 'fitting'}:{tools}"
    result = place.set_up()
    assert result.returncode == 1
    assert result.stderr == "set-up: Python 3.11 to 3.14, with its venv module, is not on PATH.\n"
