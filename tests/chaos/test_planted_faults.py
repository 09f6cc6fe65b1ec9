"""The suite can fail: each planted fault, in the processes of one broker, is caught by its story."""

from pathlib import Path

import pytest
import requests

from tests.chaos.chaos import Chaos, breakable_broker
from tests.chaos.planted import FAULTS, Planted

CAUGHT = (AssertionError, TimeoutError, requests.RequestException)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_fits_the_code(fault: Planted) -> None:
    assert fault.found()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_is_caught(fault: Planted, breakable: Chaos, tmp_path: Path, *, long_form: bool) -> None:
    if not (fault.quick or long_form):
        pytest.skip("with --long: each fault needs a broker of its own; the quick ones are always tried")
    breakable.mend()
    workers = 2 if long_form else 1  # each runs several jobs at once; stories that kill one are no quick ones
    # Only the state's MongoDB is another broker's.
    with breakable_broker(state=breakable.stack.state, settings=fault.settings(tmp_path), workers=workers) as chaos:
        with pytest.raises(CAUGHT) as caught:
            fault.caught_by(chaos)
        chaos.mend()
    assert caught.value.args, "caught without a word"
    misfit = tmp_path / "misfit"
    assert not misfit.exists(), f"the fault does not fit the code:\n{misfit.read_text()}"
    assert (tmp_path / "reached").exists() or fault.is_constant(), "the broker has not reached the fault"
