"""Schemathesis tries whatever the served description allows, and what it does not, on the running broker."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dev.processes import script
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb.steps import bound, provisioned
from tests.osb_client import PLAN_ID, SERVICE_ID, OsbClient
from tests.tenant import CLUSTER

Json = dict[str, Any]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
SETTINGS = """
seed = {seed}
[auth.basic]
username = "{user}"
password = "{password}"
[checks.missing_required_header]
expected-statuses = [412]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "404", "412", "413", "422"]
"""
"""Section 0 of the checklist: 412 without a version. A path that is not there is 404, a body too large 413."""
IDENTIFIER: Json = {"$ref": "#/components/schemas/Identifier"}
INSTANCE = "/v2/service_instances/{instance_id}"
BINDING = f"{INSTANCE}/service_bindings/{{binding_id}}"
PARAMETERS: dict[str, list[Json]] = {
    "ProvisionRequest": [
        {"cluster": CLUSTER},
        {"cluster": CLUSTER, "policy-on-delete": "drop"},
        {"cluster": "nowhere"},
    ],
    "UpdateRequest": [{}, {"policy-on-delete": "retain"}, {"policy-on-delete": "drop"}, {"cluster": CLUSTER}],
    "BindRequest": [{}, {"role": "readOnly"}, {"roles": ["read"]}],
}
CASES = ("--max-examples", "150")
"""Random cases of each operation."""
SHORT = ("--phases", "coverage")
"""The short form has the cases that cover every boundary, which take the examples of the description, too."""


@pytest.fixture
def known(client: OsbClient, atlas: Emulator, stack: Stack) -> Iterator[tuple[str, str]]:
    """An instance and a binding of it; afterwards every instance that the test has made is deleted."""
    atlas.user_limit(100_000)
    before = _instances(stack)
    instance_id = provisioned(client)
    yield instance_id, bound(client, instance_id)
    made = _instances(stack) - before
    for each in made:
        client.deprovision(each)
    assert {client.wait(each).state for each in made} <= {"succeeded"}


def _instances(stack: Stack) -> set[str]:
    with stack.state.client() as mongo:
        return set(mongo[stack.database]["instances"].distinct("instance_id", {"phase": {"$ne": "gone"}}))


@pytest.fixture
def description(client: OsbClient) -> Json:
    return client.request("GET", "/openapi.json").json


def _run(stack: Stack, description: Json, folder: Path, seed: int, *options: str) -> None:
    described, configured = folder / "openapi.json", folder / "schemathesis.toml"
    described.write_text(json.dumps(description))
    configured.write_text(SETTINGS.format(seed=seed, user=stack.user, password=stack.password))
    how = ["--url", stack.api.uri, "--checks", ",".join(CHECKS), "--no-color", *options]
    command: list[str | Path] = [script("schemathesis"), "--config-file", configured, "run", described, *how]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=1800)
    sys.stdout.write(ended.stdout)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("known")
def test_the_served_description_is_true(stack: Stack, description: Json, tmp_path: Path, *, long_form: bool) -> None:
    if not long_form:
        pytest.skip("with --long: the test below also tries random ids")
    _run(stack, description, tmp_path, _seed(long_form), *CASES)


@pytest.mark.timeout(3600)
def test_it_is_true_of_what_exists_as_well(
    stack: Stack, known: tuple[str, str], description: Json, tmp_path: Path, *, long_form: bool
) -> None:
    """Random ids lead nowhere. With those of the catalog and of what exists, requests get to where things happen."""
    options = CASES if long_form else SHORT
    _run(stack, _filled(description, *known), tmp_path, _seed(long_form), *options)


def _seed(long_form: bool) -> int:  # noqa: FBT001 - private
    return random.randrange(2**32) if long_form else 0


def _filled(description: Json, instance_id: str, binding_id: str) -> Json:
    """The description with what is known beside what could be anything. What is known is not deleted, others are."""
    parts, schemas, paths = (*map(description["components"].get, ("parameters", "schemas")), description["paths"])
    for name, value in {"InstanceId": instance_id, "BindingId": binding_id, "AcceptsIncomplete": "true"}.items():
        parts[name]["schema"] = _or_else(value, parts[name]["schema"])
    paths[INSTANCE]["delete"]["parameters"] += [_in_path("instance_id", "another")]
    paths[BINDING]["delete"]["parameters"] += [_in_path("instance_id", instance_id), _in_path("binding_id", "another")]
    for request, parameters in PARAMETERS.items():
        fields = schemas[request]["properties"]
        fields["service_id"], fields["plan_id"] = {"enum": [SERVICE_ID]}, {"enum": [PLAN_ID]}
        fields["parameters"] = {"enum": parameters}
    schemas["RotateRequest"]["properties"]["predecessor_binding_id"] = _or_else(binding_id, IDENTIFIER)
    return description


def _in_path(name: str, value: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _or_else(value, IDENTIFIER)}


def _or_else(value: str, schema: Json) -> Json:
    return {"anyOf": [{"enum": [value, "another"]}, schema]}
