"""Two brokers for the tests that break things: one for the test that runs, one for slow stories meanwhile."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache

import pytest

from tests.chaos.chaos import Chaos, breakable_broker
from tests.chaos.scenarios import Scenario
from tests.chaos.slow import SLOWEST


@pytest.fixture(scope="package")
def breakable() -> Iterator[Chaos]:
    """Started once for this folder; ``chaos`` mends it before and after each test."""
    with breakable_broker() as chaos:
        yield chaos


@pytest.fixture(scope="package", autouse=True)
def elsewhere(request: pytest.FixtureRequest, *, long_form: bool) -> Iterator[Mapping[Scenario, Future[None]]]:
    """What becomes of the slow stories that are among the chosen tests, by story; told one after the other."""
    callspecs = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    chosen = [spec.params["slow"] for spec in callspecs if "slow" in spec.params]
    settings = {"BROKER_MONGO_TIMEOUT_MS": "5000"}  # the default: one story takes MongoDB away for longer
    with ExitStack() as servers, ThreadPoolExecutor(1, "elsewhere") as pool:
        # Started in the thread, for the first story.
        broker = cache(lambda: servers.enter_context(breakable_broker(settings=settings)))
        stories = [story for story in chosen if long_form or story not in SLOWEST]
        yield {story: pool.submit(_tell, broker, story) for story in stories}


def _tell(broker: Callable[[], Chaos], story: Scenario) -> None:
    chaos = broker()
    chaos.mend()
    story(chaos)
    assert not chaos.surprises(), chaos.surprises()


@pytest.fixture
def chaos(breakable: Chaos) -> Iterator[Chaos]:
    """A broker that the test may break in any way; processes must not end by themselves."""
    breakable.mend()
    yield breakable
    surprises = breakable.surprises()
    breakable.mend()
    assert not surprises, surprises


@pytest.fixture(scope="session")
def chaos_seed(request: pytest.FixtureRequest) -> int:
    """The same at each run, unless another one is asked for."""
    return int(request.config.getoption("--chaos-seed"))


@pytest.fixture(scope="session")
def chaos_minutes(request: pytest.FixtureRequest, long_form: bool) -> float:  # noqa: FBT001 - a fixture's value
    """How long faults go on; 0 in the short form."""
    return float(request.config.getoption("--chaos-minutes") or (30 if long_form else 0))
