"""Tests of this folder share one emulated Atlas."""

import pytest

from tests.dev.emulated import AtlasEmulator


@pytest.fixture(autouse=True)
def empty_atlas(request: pytest.FixtureRequest) -> None:
    """A test that looks at the emulated Atlas begins with an empty one, whatever tests before it have left there."""
    if "atlas" in request.fixturenames:
        emulator = request.getfixturevalue("emulator")
        if isinstance(emulator, AtlasEmulator):  # one file has an emulator of its own
            emulator.control.clear()
