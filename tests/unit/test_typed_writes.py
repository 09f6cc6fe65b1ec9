"""A misspelt field or step cannot pass: mypy refuses each typo that is planted into a copy of the code."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from broker_api.state import fields, records
from tests.dev.processes import CHECKOUT

TYPOS = {
    "a field of a binding": ("workers/operations/bind.py", "BindingFields(made=True)", "BindingFields(maed=True)"),
    "a field in a display": ("workers/operations/bind.py", '"endpoints": osb_endpoints(', '"endpoint": osb_endpoints('),
    "a field of an instance": (
        "workers/operations/deprovision.py",
        '{"sealed_dropper": sealed',
        '{"sealed_droper": sealed',
    ),
    "a field of the other record": ("workers/operations/unbind.py", "made=False", "connection={}"),
    "a value of another type": ("workers/operations/bind.py", "BindingFields(made=True)", 'BindingFields(made="yes")'),
    "a step": ("workers/operations/bind.py", "Next(Step.CREATE_USER", "Next(Step.CRAETE_USER"),
    "a step as bare text": ("workers/operations/bind.py", "Next(Step.CREATE_USER", 'Next("create"'),
    "a field of a new instance": (
        "broker_api/service/instances.py",
        '"organization_guid": request',
        '"organisation_guid": request',
    ),
    "a field that a claim writes": (
        "broker_api/state/operation_claims.py",
        'claim, {"lease_until"',
        'claim, {"lease_utnil"',
    ),
    "a field of an operation": ("workers/engine/runner.py", '{"undo": True, "failure"', '{"udno": True, "failure"'),
    "a field that is read": ("workers/operations/unbind.py", "job.record.username", "job.record.usernaem"),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy says of a copy in which all typos stand, each in a file of its own beside the right one."""
    copy = tmp_path_factory.mktemp("typos")
    for folder in ("broker_api", "workers"):
        shutil.copytree(CHECKOUT / folder, copy / folder)
    planted = []
    for number, (file, right, wrong) in enumerate(TYPOS.values()):
        text = (CHECKOUT / file).read_text()
        assert right in text, f"{file} does not contain {right}"
        path = copy / Path(file).with_name(f"typo_{number}.py")
        path.write_text(text.replace(right, wrong))
        planted.append(str(path.relative_to(copy)))
    shutil.copy(CHECKOUT / "pyproject.toml", copy)
    if (cache := CHECKOUT / ".mypy_cache").exists():  # spares a minute; mypy itself sees what of it is still true
        shutil.copytree(cache, copy / cache.name)
    command = [sys.executable, "-m", "mypy", *planted]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("number", range(len(TYPOS)), ids=TYPOS)
def test_mypy_refuses_a_typo_in(number: int, errors: str) -> None:
    assert f"typo_{number}.py" in errors, errors


@pytest.mark.parametrize(
    ("typed", "record", "more"),
    [
        (fields.OperationFields, records.Operation, set()),
        (fields.StepFields, records.StepLife, set()),
        (fields.InstanceFields, records.Instance, {"expire_at"}),
        (fields.BindingFields, records.Binding, {"expire_at"}),
    ],
)
def test_every_field_that_is_written_can_be_read(typed: type, record: type[BaseModel], more: set[str]) -> None:
    assert set(typed.__annotations__) <= set(record.model_fields) | more
