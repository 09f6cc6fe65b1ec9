"""Load and faults at random, by a seed: whatever happens, the books balance afterwards."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.books import Audit, Books, delete_everything
from tests.chaos.chaos import Chaos
from tests.chaos.faults import Faults
from tests.chaos.platforms import Platform
from tests.osb_client import OsbClient
from tests.tenant import eventually

SHORT_SECONDS = 15.0
LONG_MINUTES = 30
PLATFORMS, SHORT_PLATFORMS = 30, 8
DRAIN_SECONDS = 120.0
CLUSTER_SECONDS = 4.0


class Run:
    """One run: platforms and lanes of faults side by side, then quiet."""

    def __init__(self, chaos: Chaos, seed: int, seconds: float) -> None:
        self.chaos, self.seed, self.seconds = chaos, seed, seconds
        self.books = Books()
        self.faults = Faults(chaos, self.books, seed, slower=1.0 if seconds <= SHORT_SECONDS else 5.0)
        self.audits: list[Audit] = []
        self.times: dict[str, float] = {}
        self._began = time.monotonic()

    def play(self) -> None:
        """The load goes on until the faults are over."""
        over, quiet = threading.Event(), threading.Event()
        self.chaos.cluster_times(CLUSTER_SECONDS)
        lanes = list(self.faults.lanes)
        platforms = PLATFORMS if self.seconds > SHORT_SECONDS else SHORT_PLATFORMS
        with ThreadPoolExecutor(platforms + len(lanes)) as pool, self.chaos.platform() as client:
            load = [pool.submit(self._platform(client, number).live, quiet) for number in range(platforms)]
            troubles = [pool.submit(self.faults.run_lane, lane, over) for lane in lanes]
            with client.expecting(503):
                time.sleep(self.seconds)
                over.set()
                quiet.set()
                for each in troubles:
                    each.result()
                self._note("the last fault is over")
                self.chaos.mend()
                for each in load:
                    each.result()
            self._note("platforms have had their answers")

    def _note(self, event: str) -> None:
        self.times[event] = time.monotonic() - self._began

    def _platform(self, client: OsbClient, number: int) -> Platform:
        clusters, seed = list(self.chaos.stack.emulator.clusters), f"{self.seed}/{number}"
        return Platform(client, self.books, clusters, seed, new_clusters=self.seconds > SHORT_SECONDS)

    def settle(self) -> None:
        """Wait until no operation is open."""
        eventually(lambda: not self.chaos.open_operations(), "no operation is open", DRAIN_SECONDS)
        self._note("no operation is open")

    def audit(self) -> None:
        """Count while bindings live; then delete everything and count what is left."""
        alive = Audit(self.chaos, self.books)
        self.audits.append(alive)
        alive.of_life()
        delete_everything(self.chaos, self.books)
        self.settle()
        self._note("everything has been deleted")
        dead = Audit(self.chaos, self.books)
        self.audits.append(dead)
        dead.of_death()

    def report(self) -> str:
        """The seed, the faults and the numbers."""
        faults = ", ".join(f"{name} {times}" for name, times in sorted(self.faults.happened.items()))
        numbers = [f"  {name}: {number}" for audit in self.audits for name, number in audit.numbers.items()]
        times = ", ".join(f"{event} at {seconds:.0f} s" for event, seconds in self.times.items())
        return "\n".join([f"seed {self.seed}, {self.seconds:g} s of faults", f"faults: {faults}", times, *numbers])


@pytest.mark.timeout(4 * 3600)
def test_the_books_balance_after_everything_went_wrong(
    chaos: Chaos, chaos_seed: int, chaos_minutes: float, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(chaos, chaos_seed, 60 * chaos_minutes or SHORT_SECONDS)
    with capsys.disabled():
        print(f"\nchaos: seed {chaos_seed}")  # noqa: T201 - it is for who reads the run
    try:
        run.play()
        run.settle()
        run.audit()
        assert not chaos.surprises(), chaos.surprises()
        assert len(run.books.accepted) >= (5000 if chaos_minutes >= LONG_MINUTES else 0), "too little was asked for"
        assert not run.faults.errors, "faults that could not be made: " + "\n".join(run.faults.errors)
    finally:
        with capsys.disabled():
            print(run.report())  # noqa: T201 - the same
