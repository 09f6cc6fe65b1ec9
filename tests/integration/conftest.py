"""Tests of this folder share one emulated Atlas."""

import pytest


@pytest.fixture(autouse=True)
def empty_atlas(request: pytest.FixtureRequest) -> None:
    """A test that looks at the emulated Atlas begins with an empty one, whatever tests before it have left there."""
    if "atlas" in request.fixturenames:
        request.getfixturevalue("emulator").control.clear()
