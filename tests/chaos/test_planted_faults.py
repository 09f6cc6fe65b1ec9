"""The suite can fail: each planted fault, in the processes of one broker, is caught by its story."""

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
def broker_with(fault: Planted, folder: Path, breakable: Chaos) -> Iterator[Chaos]:
    """A broker whose processes have the fault; only the state's MongoDB is another one's."""
    stack = Stack(flower=False, state=breakable.stack.state, settings=fault.settings(folder))
    with stack:
        chaos = Chaos(stack)
        yield chaos
        chaos.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_fits_the_code(fault: Planted) -> None:
    assert fault.found()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_is_caught(fault: Planted, breakable: Chaos, tmp_path: Path, *, long_form: bool) -> None:
    if not (fault.quick or long_form):
        pytest.skip("with --long")
    breakable.mend()
    with broker_with(fault, tmp_path, breakable) as chaos:
        with pytest.raises(CAUGHT) as caught:
            fault.caught_by(chaos)
        chaos.mend()
    assert caught.value.args, "caught without a word"
