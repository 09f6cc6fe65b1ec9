"""The commands of this project, run in the .venv that tests/dev/set-up.sh makes.

``nox`` runs lint, types, docs and tests, and fails when one of them fails. ``nox --list`` shows the other sessions.
"""

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "tests"]

BIN = Path(sys.executable).parent
PYTEST = (BIN / "pytest", "-n", "5")  # tests also wait: so many keep two cores busy
KEEP_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}  # else each of many processes compiles the same modules again


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and which package may import which."""
    session.run(BIN / "ruff", "check")
    session.run(BIN / "ruff", "format", "--check")
    session.run(BIN / "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check all types with mypy."""
    session.run(BIN / "mypy", "-n", "2")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after ``--`` go to pytest."""
    session.run(*PYTEST, *session.posargs, env=KEEP_BYTECODE)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation in docs/_build/html/; a warning, such as a broken link, is an error."""
    session.run(BIN / "sphinx-build", "-j", "2", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run(sys.executable, "-m", "tests.docs.html_links", "docs/_build/html")


@nox.session
def pictures(session: nox.Session) -> None:
    """Draw the pictures of the documentation from their sources."""
    for source in sorted(Path("docs/pictures").glob("*.gv")):
        session.run(BIN / "graphviz-pure", "-Tsvg", source, "-o", source.with_suffix(".svg"))


@nox.session
def sbom(session: nox.Session) -> None:
    """Write what is in the images as CycloneDX to dist/sbom/; arguments after ``--`` go to cyclonedx-py."""
    Path("dist/sbom").mkdir(parents=True, exist_ok=True)
    for image in ("api", "worker"):
        command = (BIN / "cyclonedx-py", "requirements", "--output-reproducible", "--pyproject", "pyproject.toml")
        locked, written = f"docker/requirements/{image}.txt", f"dist/sbom/{image}.cdx.json"
        session.run(*command, *session.posargs, "-o", written, locked)


@nox.session
def licences(session: nox.Session) -> None:
    """Print the licences of what is in the images, and fail at one that may not be there."""
    session.run(sys.executable, "-m", "tests.deploy.licences")


@nox.session(venv_backend="venv")
def audit(session: nox.Session) -> None:
    """Ask for known vulnerabilities of what the locks name; this needs the network."""
    locked = ("--no-deps", "--require-hashes", "--only-binary=:all:")
    session.install(*locked, "-r", "docker/requirements/audit.txt")
    for lock in ("api", "worker", "dev", "build", "uv", "audit"):
        session.run("pip-audit", "--disable-pip", "--require-hashes", "-r", f"docker/requirements/{lock}.txt")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, measure what they cover of the product, and fail below 90 %; costs half as much CPU again."""
    session.run(*PYTEST, "--cov", *session.posargs, env=KEEP_BYTECODE)


@nox.session
def long(session: nox.Session) -> None:
    """Run the tests with the long form of those that have one."""
    session.run(*PYTEST, "--long", *session.posargs, env=KEEP_BYTECODE)


@nox.session
def chaos(session: nox.Session) -> None:
    """Break a running broker in every way; ``-- --chaos-minutes 5`` and ``-- --long`` take longer."""
    session.run(BIN / "pytest", "tests/chaos", *session.posargs, env=KEEP_BYTECODE)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the broker beside atlasbroker 2.0.0; ``-- --short`` is shorter, ``-- --help`` lists options."""
    session.run(sys.executable, "-m", "tests.bench", *session.posargs, env=KEEP_BYTECODE)


@nox.session
def metrics(session: nox.Session) -> None:
    """Print figures about the shape of the code."""
    session.run(sys.executable, "-m", "tests.dev.code_metrics")
