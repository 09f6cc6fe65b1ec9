"""Redis flushed, stopped or hanging while operations are in flight: nobody but the sweep notices."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from tests.dev.processes import HOST
from tests.dev.services import Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import Answer, OsbClient
from tests.tenant import ACCEPTED_SECONDS, Tenant, eventually, in_time, redis_is_well, together, works


@pytest.fixture
def platform(fragile: Stack, atlas: Emulator) -> Iterator[OsbClient]:
    """Of an Atlas that takes a while, so that operations are in flight when Redis goes."""
    atlas.apply_after(seconds=1)
    with fragile.client() as client:
        yield client


@contextmanager
def flushed_all_the_time(redis: Redis) -> Iterator[None]:
    over = threading.Event()

    def flush() -> None:
        while not over.wait(0.05):
            redis.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def stopped(redis: Redis) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.restart()


@contextmanager
def hanging(redis: Redis) -> Iterator[None]:
    """It takes connections and never answers."""
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


def begin(tenant: Tenant, name: str) -> Answer:
    accepted = tenant.client.bind(tenant.instance_id, name)
    assert accepted.status == 202, accepted.text
    assert accepted.seconds < ACCEPTED_SECONDS
    return accepted


@pytest.mark.parametrize("lost", [flushed_all_the_time, stopped, hanging])
def test_requests_are_accepted_soon_without_redis_and_all_end_when_it_is_back(
    fragile: Stack, platform: OsbClient, lost: Callable[[Redis], AbstractContextManager[None]], atlas: Emulator
) -> None:
    tenant = Tenant(platform).provision()
    accepted = {name: begin(tenant, name) for name in ("b-0", "b-1", "b-2", "b-3")}

    def begin_some() -> Answer:
        names = [f"b-{len(accepted) + number}" for number in range(4)]
        answers = together(*[lambda name=name: begin(tenant, name) for name in names])
        accepted.update(zip(names, answers, strict=True))
        return min(answers, key=lambda answer: answer.seconds)

    with lost(fragile.redis):
        in_time(begin_some)
        begin(tenant, "b-4")  # the same again, as a platform asks that has lost the answer
        newcomer = Tenant(platform)
        provisioned = platform.provision(newcomer.instance_id, {"cluster": "cluster-dev"})
        assert provisioned.seconds < ACCEPTED_SECONDS
        in_time(lambda: platform.last_operation(tenant.instance_id, "b-4"))
    newcomer.succeed(provisioned)
    for name, answer in accepted.items():
        tenant.succeed(answer, name)
    assert all(works(tenant.credentials(name)) for name in accepted)
    assert atlas.counts()["POST /groups/{groupId}/databaseUsers"] == len(accepted)
    assert not fragile.ended()


def test_questions_for_readiness_hold_up_no_platform_while_redis_hangs(fragile: Stack, platform: OsbClient) -> None:
    """They need no credentials, and each of them waits for Redis."""
    with hanging(fragile.redis), ExitStack() as asking:
        began = time.monotonic()
        clients = [asking.enter_context(socket.create_connection((HOST, fragile.api.port), 20)) for _ in range(400)]
        for client in clients:
            client.sendall(b"GET /ready HTTP/1.1\r\nHost: broker\r\n\r\n")
        assert platform.catalog().seconds < ACCEPTED_SECONDS
        assert platform.request("GET", "/live").seconds < ACCEPTED_SECONDS
        assert {client.recv(9) for client in clients} == {b"HTTP/1.1 "}
        assert time.monotonic() - began < 20


def test_readiness_stays_and_says_that_redis_is_lost(fragile: Stack, platform: OsbClient) -> None:
    with stopped(fragile.redis):
        ready = platform.ready()
        assert ready.status == 200
        assert ready.json["redis"].startswith("Redis does not answer")
        (worker,) = fragile.workers
        eventually(lambda: worker.probe("/ready").status_code == 503, "a worker that gets no jobs is not ready")
        assert worker.probe("/ready").json()["consumer"] == "it receives no jobs from Redis"
        assert worker.probe("/live").status_code == 200  # a restart does not bring Redis back
    Tenant(platform).provision()
    redis_is_well(platform)
    well = {"status": "ready", "consumer": "ok", "atlas": "ok", "encryption_keys": "ok"}
    eventually(lambda: worker.probe("/ready").json() == well, "the worker is ready")
