"""A broker of its own for the tests that break things."""

from collections.abc import Iterator

import pytest

from tests.chaos.chaos import Chaos
from tests.dev.stack import Stack


@pytest.fixture(scope="session")
def breakable() -> Iterator[Chaos]:
    """Started once for this folder; ``chaos`` mends it before and after each test."""
    with Stack(flower=False, workers=2) as stack:
        chaos = Chaos(stack)
        yield chaos
        chaos.close()


@pytest.fixture
def chaos(breakable: Chaos) -> Iterator[Chaos]:
    """A broker that the test may break in any way; processes must not end by themselves."""
    breakable.mend()
    breakable.atlas.user_limit(10_000)
    breakable.atlas.forget_calls()
    yield breakable
    surprises = breakable.surprises()
    breakable.mend()
    assert not surprises, "\n".join(surprises)


@pytest.fixture(scope="session")
def chaos_seed(request: pytest.FixtureRequest) -> int:
    """The same at each run, unless another one is asked for."""
    return int(request.config.getoption("--chaos-seed"))


@pytest.fixture(scope="session")
def chaos_minutes(request: pytest.FixtureRequest, long_form: bool) -> float:  # noqa: FBT001 - a fixture's value
    """How long faults go on; 0 in the short form."""
    return float(request.config.getoption("--chaos-minutes") or (30 if long_form else 0))
