"""A rolling update under load: processes get SIGTERM while platforms work, and nothing is lost."""

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.chaos.balancer import RetryingClient, balanced
from tests.chaos.books import Audit, Books
from tests.chaos.chaos import Chaos
from tests.chaos.platforms import Platform, living
from tests.dev.broker import Api, Worker
from tests.dev.processes import Server, close_all, start_all
from tests.request_log import REQUESTS
from tests.tenant import eventually

LONG_ROUNDS, LONG_PLATFORMS, SHORT_PLATFORMS = 3, 24, 5
STOP_SECONDS = 60.0
"""What docker/kubernetes gives a worker before it is killed."""


@pytest.fixture
def apis_and_workers(chaos: Chaos, *, long_form: bool) -> Iterator[tuple[list[Api], list[Worker]]]:
    """Two APIs and two workers, in the long form three."""
    stack = chaos.stack
    apis = [Api(stack.api_settings, "api-2")]
    workers = [Worker(stack.worker_settings, "worker-3")] if long_form else []
    more = [*apis, *workers]
    try:
        start_all(more)
        yield [stack.api, *apis], [*stack.workers, *workers]
    finally:
        close_all(more)


def waves(apis: list[Api], workers: list[Worker], *, long_form: bool) -> Sequence[Sequence[Server]]:
    """What is replaced at the same time: one process after the other, in the short form one of each kind."""
    if long_form:
        return [[each] for each in (*apis, *workers)] * LONG_ROUNDS
    return [[apis[0], workers[0]]]


def roll(chaos: Chaos, servers: Sequence[Server]) -> dict[str, float]:
    """Replace processes at the same time; return how long each took to end, in which each has status 0."""
    began = time.monotonic()
    statuses = chaos.stop(*servers, seconds=STOP_SECONDS)
    ended = time.monotonic() - began
    chaos.start(*servers)
    assert statuses == [0] * len(servers), [server.log_tail() for server in servers]
    return dict.fromkeys((server.name for server in servers), round(ended, 1))


def test_a_rolling_update_under_load_loses_nothing(
    chaos: Chaos,
    apis_and_workers: tuple[list[Api], list[Worker]],
    chaos_seed: int,
    capsys: pytest.CaptureFixture[str],
    *,
    long_form: bool,
) -> None:
    books, stack = Books(), chaos.stack
    number = LONG_PLATFORMS if long_form else SHORT_PLATFORMS
    stops: list[dict[str, float]] = []
    with (
        balanced(apis_and_workers[0]) as address,
        RetryingClient(address, stack.user, stack.password, books) as client,
    ):
        clusters = list(stack.emulator.clusters)
        with living([Platform(client, books, clusters, f"{chaos_seed}/rolling/{each}") for each in range(number)]):
            for wave in waves(*apis_and_workers, long_form=long_form):
                stops.append(roll(chaos, wave))
                books.wait_for_more()
    eventually(lambda: not chaos.open_operations(), "no operation is open", 120)
    audit = Audit(chaos, books)
    audit.of_life()
    with capsys.disabled():
        figures = f"{dict(client.happened)}, {audit.numbers}, seconds to stop: {stops}"
        print(f"\nrolling update: {figures}")  # noqa: T201 - for the reader of the run
    assert REQUESTS.server_errors(address) == 0
    assert client.happened["broken"] == 0
    assert audit.numbers["accepted"] > number
