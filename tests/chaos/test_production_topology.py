"""Two APIs and three workers on three members of MongoDB and on Redis with three sentinels, each failing over."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker_api.settings.redis_settings import RedisSettings
from tests.chaos.balancer import RetryingClient, balanced
from tests.chaos.books import Audit, Books, delete_everything
from tests.chaos.chaos import Chaos
from tests.chaos.platforms import Platform, living
from tests.chaos.topology import Topology
from tests.dev.broker import Api
from tests.dev.stack import Stack
from tests.integration.rates import share_the_rate_limit
from tests.osb_client import Answer
from tests.tenant import eventually

PLATFORMS = 16
CALM_SECONDS = 10.0
FROZEN_SECONDS = 20.0
NOTICED_SECONDS = 8.0
"""What was sent to a frozen primary before the election ends at its own time-out, 5 s; 3 s are for a busy machine."""
Failover = Callable[[Topology], float]


class Observer(RetryingClient):
    """Notes when the platforms were given a 5xx."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - those of RetryingClient
        super().__init__(*args)
        self.errors: list[float] = []

    def request(self, *args: Any, **options: Any) -> Answer:  # noqa: ANN401 - those of OsbClient
        answer = super().request(*args, **options)
        if answer.status >= 500:
            self.errors.append(time.monotonic())
        return answer


def primary_killed(topology: Topology) -> float:
    primary = topology.primary()
    primary.kill()
    took = topology.wait_for_another_primary(primary)
    time.sleep(CALM_SECONDS)
    primary.start()
    return took


def primary_steps_down(topology: Topology) -> float:
    primary = topology.primary()
    with primary.client() as client:
        client.admin.command("replSetStepDown", 10)
    return topology.wait_for_another_primary(primary)


def primary_frozen(topology: Topology) -> float:
    primary = topology.primary()
    began = time.monotonic()
    primary.pause()
    took = topology.wait_for_another_primary(primary)
    time.sleep(max(0.0, began + FROZEN_SECONDS - time.monotonic()))
    primary.resume()
    return took


def redis_master_killed(topology: Topology) -> float:
    master = topology.redis_master()
    master.kill()
    took = topology.wait_for_another_master(master)
    master.start()
    return took


def redis_master_frozen(topology: Topology) -> float:
    master = topology.redis_master()
    master.pause()
    took = topology.wait_for_another_master(master)
    time.sleep(CALM_SECONDS)
    master.resume()
    return took


FAILOVERS: tuple[Failover, ...] = (
    primary_killed,
    redis_master_killed,
    primary_steps_down,
    primary_frozen,
    redis_master_frozen,
)


@pytest.fixture
def topology(*, long_form: bool) -> Iterator[Topology]:
    if not long_form:
        pytest.skip("with --long: takes minutes; single failovers are tried in this folder and behind sentinels")
    with Topology() as running:
        yield running


@pytest.mark.timeout(1200)
def test_the_books_balance_after_each_part_has_failed_over(
    topology: Topology, chaos_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Stack(
            flower=False,
            workers=3,
            settings={"BROKER_REDIS_URL": topology.redis_url, "BROKER_MONGO_TIMEOUT_MS": "5000"},  # the default
            state=topology.members[0],
            redis=topology.master,
        ) as stack,
        Api(stack.api_settings, "api-2") as second,
        balanced([stack.api, second]) as address,
    ):
        chaos, books = Chaos(stack), Books()
        chaos.atlas.user_limit(10_000)
        figures: list[str] = []
        with (
            chaos.celery,
            chaos.state,
            Observer(address, stack.user, stack.password, books) as client,
            client.expecting(503),
        ):
            clusters = list(stack.emulator.clusters)
            platforms = [Platform(client, books, clusters, f"{chaos_seed}/topology/{n}") for n in range(PLATFORMS)]
            with living(platforms):
                figures += [_fail_over(topology, client, books, each) for each in FAILOVERS]
            eventually(lambda: not chaos.open_operations(), "no operation is open", 120)
            alive = Audit(chaos, books)
            alive.of_life()
            delete_everything(chaos, books)
            eventually(lambda: not chaos.open_operations(), "no operation is open", 120)
            dead = Audit(chaos, books)
            dead.of_death()
            figures.append(f"{dict(client.happened)}, {alive.numbers}, {dead.numbers}")
            assert not chaos.surprises(), chaos.surprises()
            assert client.happened["broken"] == 0
        share_the_rate_limit(RedisSettings.parse(topology.redis_url), "after-failovers")
    with capsys.disabled():
        print("", *figures, sep="\n")  # noqa: T201 - for the reader of the run


def _fail_over(topology: Topology, client: Observer, books: Books, failover: Failover) -> str:
    """Let a part fail over under load; return figures. The last 5xx comes soon after the failover."""
    time.sleep(CALM_SECONDS)
    before = len(client.errors)
    began = time.monotonic()
    took = failover(topology)
    topology.wait_until_whole()
    books.wait_for_more()
    time.sleep(CALM_SECONDS)
    errors = client.errors[before:]
    last = max(errors, default=began) - began
    name = failover.__name__
    assert last < took + NOTICED_SECONDS, f"{name}: took {took:.1f} s, but the last 5xx came after {last:.1f} s"
    assert not (errors and name.startswith("redis")), f"{name}: {len(errors)} 5xx"
    return f"{name}: took {took:.1f} s, {len(errors)} 5xx, the last after {last:.1f} s"
