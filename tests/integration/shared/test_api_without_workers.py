"""Rule 8 of the design: the API process holds no Atlas credential and no Atlas code."""

import sys
from collections.abc import Iterator

import pytest

from tests.dev.processes import CHECKOUT, run_to_end, script
from tests.dev.stack import Stack

SERVE_ONE_REQUEST = """
import sys

wanted = []

class NothingOfAtlas:
    def find_spec(name, *_):
        if name.partition(".")[0] in ("workers", "requests", "flower", "tests"):
            wanted.append(name)
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NothingOfAtlas)
from broker_api.wsgi import app
client = app.test_client()
headers = {{"X-Broker-API-Version": "2.17"}}
said = client.put(
    "/v2/service_instances/served-without-workers?accepts_incomplete=true",
    json={{
        "service_id": "2a04f349-4aab-4fcb-af6d-8e1749a77c13",
        "plan_id": "8db474d1-3cc0-4f4d-b864-24e3bd49b874",
        "organization_guid": "o",
        "space_guid": "s",
        "parameters": {{"cluster": "cluster-dev"}},
    }},
    headers=headers,
    auth=("{user}", "{password}"),
)
print(said.status_code, client.get("/health").status_code, *wanted)
"""


@pytest.fixture(scope="module")
def silent(stack: Stack) -> Iterator[dict[str, str]]:
    """Settings of an API beside the shared stack, in a database of its own; nothing of Atlas is among them."""
    settings = {name: value for name, value in stack.api_settings.items() if not name.startswith("MONGODB_ATLAS")}
    settings |= {"BROKER_MONGO_DB": f"{stack.database}-alone", "BROKER_CONFIG": ""}
    yield settings
    with stack.state.client() as client:
        client.drop_database(settings["BROKER_MONGO_DB"])


def test_the_api_serves_without_any_variable_of_atlas_and_wants_nothing_of_the_workers(silent: dict[str, str]) -> None:
    """Where the workers are not installed, as here, the answers are the same: it does not even try to load them."""
    user, _, password = silent["BROKER_USERS"].partition(":")
    run = run_to_end([sys.executable, "-c", SERVE_ONE_REQUEST.format(user=user, password=password)], silent)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["202", "200"]


def test_the_command_of_the_api_loads_nothing_of_the_workers(silent: dict[str, str]) -> None:
    run = run_to_end(
        [sys.executable, "-X", "importtime", str(script("atlas-broker")), "api", "--port", "0"],
        {**silent, "BROKER_ENCRYPTION_KEYS": "wr0ng"},
    )
    modules = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "broker_api.broker" in modules
    assert not {"workers", "requests", "flower", "tests"} & {name.partition(".")[0] for name in modules}


def test_the_command_offers_only_what_is_installed() -> None:
    text = "import sys; sys.modules['workers'] = sys.modules['tests'] = None; sys.argv[1:] = ['--help']\n"
    text += "from broker_api.cli import main; main()"
    run = run_to_end([sys.executable, "-c", text])
    assert run.returncode == 0, run.stderr
    assert "  api " in run.stdout
    assert not [command for command in ("  dev ", "  demo ", "  check ") if command in run.stdout]


LISTEN = """
import os, sys
told = []

def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        told.append(event)

def look(environ, name):
    # Libraries may copy the whole environment; asking for a setting is done by one of our own modules.
    callers = [sys._getframe(depth).f_globals.get("__name__", "") for depth in (1, 2)]
    if any(caller.partition(".")[0] in ("broker_api", "workers") for caller in callers):
        told.append(name)
    return read(environ, name)

sys.addaudithook(hear)
read, os._Environ.__getitem__ = os._Environ.__getitem__, look
import broker_api.broker, workers.tasks
traces = {"broker_api.opentelemetry_tracer", "opentelemetry.exporter"} & sys.modules.keys()  # redis loads their API
"""


def test_the_broker_is_imported_without_reading_the_environment_or_connecting_or_loading_traces() -> None:
    files = [file for package in ("broker_api", "workers") for file in sorted((CHECKOUT / package).rglob("*.py"))]
    modules = [".".join(file.relative_to(CHECKOUT).with_suffix("").parts) for file in files]
    wanted = [f"import {name.removesuffix('.__init__')}" for name in modules if name != "broker_api.wsgi"]
    assert len(wanted) > 50
    text = "\n".join([LISTEN, *wanted, "print(told, traces)"])
    run = run_to_end([sys.executable, "-c", text], {"BROKER_USERS": "a:b", "MONGODB_ATLAS_PROJECT_ID": "x"})
    assert run.stdout == "[] set()\n", run.stdout + run.stderr
