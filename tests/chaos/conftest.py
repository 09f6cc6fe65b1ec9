"""Two brokers for the tests that break things: one for the test that runs, one for slow stories meanwhile."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import Scenario
from tests.chaos.slow import SLOWEST
from tests.dev.stack import Stack


@pytest.fixture(scope="session")
def breakable() -> Iterator[Chaos]:
    """Started once for this folder; ``chaos`` mends it before and after each test."""
    with Stack(flower=False, workers=2) as stack:
        chaos = Chaos(stack)
        yield chaos
        chaos.close()


@pytest.fixture(scope="session", autouse=True)
def elsewhere(request: pytest.FixtureRequest, *, long_form: bool) -> Iterator[Mapping[Scenario, Future[None]]]:
    """What becomes of the slow stories that are among the chosen tests, by story."""
    chosen = [story for item in request.session.items if (story := _slow(item)) and (long_form or story not in SLOWEST)]
    told: dict[Scenario, Future[None]] = {story: Future() for story in chosen}
    with ThreadPoolExecutor(1, "elsewhere") as pool:
        pool.submit(_tell, told)
        yield told


def _slow(item: pytest.Item) -> Scenario | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("slow") if callspec else None


def _tell(told: Mapping[Scenario, Future[None]]) -> None:
    """One after the other, each on a broker that is whole; what goes wrong is for the story's test."""
    if not told:
        return
    try:
        with Stack(flower=False, workers=2) as stack:
            chaos = Chaos(stack)
            for story, future in told.items():
                _tell_one(chaos, story, future)
            chaos.close()
    except BaseException as error:  # noqa: BLE001 - the servers did not start
        for future in told.values():
            if not future.done():
                future.set_exception(error)


def _tell_one(chaos: Chaos, story: Scenario, future: Future[None]) -> None:
    try:
        chaos.mend()
        chaos.atlas.user_limit(10_000)
        chaos.atlas.forget_calls()
        story(chaos)
        assert not chaos.surprises(), "\n".join(chaos.surprises())
        future.set_result(None)
    except BaseException as error:  # noqa: BLE001 - as above
        future.set_exception(error)


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
