"""The suite can fail: each planted fault, in a copy of the broker's code, is caught by its story."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.chaos.chaos import Chaos
from tests.chaos.planted import FAULTS, Planted
from tests.dev.stack import Stack

CAUGHT = (AssertionError, TimeoutError, requests.RequestException)


@contextmanager
def broker_from(folder: Path, breakable: Chaos) -> Iterator[Chaos]:
    """A broker that runs the code in the folder; only the state's MongoDB is another one's."""
    stack = Stack(flower=False, state=breakable.stack.state)
    chaos = Chaos(stack)
    for server in chaos.broker:
        server.folder = folder
        server.settings = {**server.settings, "PYTHONPATH": str(folder)}
    with stack:
        yield chaos
        chaos.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_fits_the_code(fault: Planted) -> None:
    assert fault.broken()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_is_caught(
    fault: Planted, breakable: Chaos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, long_form: bool
) -> None:
    if not (fault.quick or long_form):
        pytest.skip("with --long")
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):  # the copy is no source of the project's
        monkeypatch.delenv(name, raising=False)
    breakable.mend()
    fault.plant(tmp_path)
    with broker_from(tmp_path, breakable) as chaos:
        with pytest.raises(CAUGHT) as caught:
            fault.caught_by(chaos)
        chaos.mend()
    assert caught.value.args, "caught without a word"
