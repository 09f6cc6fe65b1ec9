"""Redis behind sentinels, with passwords everywhere: nothing waits for a sentinel that is dead or hangs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Self
from urllib.parse import urlsplit

import pytest
import redis

from broker_api.jobs.queue import RECONCILE, Queue
from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.settings.redis_settings import RedisSettings
from tests.dev.broker import Api, Worker
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import HOST, close_all, run_to_end, start_all
from tests.dev.services import Mongod, Redis, Sentinel
from tests.dev.stack import Stack
from tests.integration.rates import share_the_rate_limit
from tests.osb_client import Answer, OsbClient
from tests.tenant import ACCEPTED_SECONDS, PROMISED_SECONDS, Tenant, eventually, in_time, redis_is_well, works

PASSWORD, SENTINELS_PASSWORD = "p@ss", "s3ntinel"
STOP_SECONDS = 15.0
"""Far below the grace of any deployment."""


class Topology:
    """A master, a replica and three sentinels."""

    def __init__(self) -> None:
        auth = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        url = f"redis://:p%40ss@{HOST}:{{port}}/0"
        self.master = Redis("master", auth, url)
        self.replica = Redis("replica", (*auth, "--replicaof", f"{HOST} {self.master.port}"), url)
        options = (
            f"sentinel auth-pass m {PASSWORD}",
            f"requirepass {SENTINELS_PASSWORD}",
            f"sentinel sentinel-pass {SENTINELS_PASSWORD}",
        )
        self.sentinels = [
            Sentinel(self.master, f"sentinel-{number}", options, password=SENTINELS_PASSWORD) for number in range(3)
        ]

    def __enter__(self) -> Self:
        start_all([self.master, self.replica, *self.sentinels])
        return self

    def __exit__(self, *_: object) -> None:
        close_all([*self.sentinels, self.replica, self.master])

    def can_fail_over(self) -> bool:
        """A sentinel that has not heard of the replica (it asks every ten seconds) makes no other master, ever."""
        return all(each.knows(replicas=1, sentinels=len(self.sentinels) - 1) for each in self.sentinels)

    @property
    def url(self) -> str:
        """What holds for all stands on one or another."""
        first, second, third = (urlsplit(each.uri).netloc for each in self.sentinels)
        return (
            f"sentinel://{first}?sentinel_password={SENTINELS_PASSWORD};sentinel://:p%40ss@{second};"
            f"sentinel://{third}/1?master_name=m"
        )


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology() as running:
        yield running


@pytest.fixture(scope="module")
def settled(
    topology: Topology, state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator
) -> Iterator[Stack]:
    with Stack(
        flower=False,
        workers=1,
        settings={"BROKER_REDIS_URL": topology.url},
        state=state_mongod,
        cluster=cluster_mongod,
        emulator=emulator,
        redis=topology.master,
    ) as running:
        yield running


@contextmanager
def dead(*sentinels: Sentinel) -> Iterator[None]:
    for each in sentinels:
        each.kill()
    try:
        yield
    finally:
        start_all(sentinels)


@contextmanager
def hanging(*sentinels: Sentinel) -> Iterator[None]:
    """They take connections and never answer."""
    for each in sentinels:
        each.pause()
    try:
        yield
    finally:
        for each in sentinels:
            each.resume()


Loss = Callable[..., AbstractContextManager[None]]


def test_after_a_failover_api_and_workers_meet_in_the_same_database(topology: Topology, settled: Stack) -> None:
    """The first test: sentinels that were stopped decide nothing for half a minute."""

    eventually(topology.can_fail_over, "all sentinels know each other and the replica")
    with settled.client() as client:
        tenant = Tenant(client).provision()
        topology.master.kill()
        accepted = client.bind(tenant.instance_id, "b-1")
        assert accepted.seconds < ACCEPTED_SECONDS
        tenant.succeed(accepted, "b-1")
        redis_is_well(client)
        assert works(tenant.bind())
    with redis.Redis(host=HOST, port=topology.replica.port, password=PASSWORD) as client:
        assert client.info("keyspace").keys() == {"db1"}
    assert not settled.ended()
    for process in (settled.api, *settled.workers):
        assert PASSWORD not in process.log_text()
        assert SENTINELS_PASSWORD not in process.log_text()


def test_celery_shows_no_password_of_redis(topology: Topology, settled: Stack, *, long_form: bool) -> None:
    app = RedisCelery("workers", set_as_current=False)
    app.conf.update(celery_settings(RedisSettings.parse(topology.url), "workers.transport:Transport", {}))
    told = [app.bugreport()]
    if long_form:
        run = run_to_end([sys.executable, "-m", "celery", "-A", "workers", "report"], settled.shared_settings)
        told.append(run.stdout + run.stderr)
    for report in told:
        assert "sentinel" in report
        assert not [secret for secret in (PASSWORD, "p%40ss", SENTINELS_PASSWORD) if secret in report]


def test_the_rate_limit_is_shared(topology: Topology) -> None:
    share_the_rate_limit(RedisSettings.parse(topology.url), "behind-sentinels")


def first_use_succeeds(settings: RedisSettings) -> bool:
    """Return whether a process without a connection yet reaches Redis in time: a send, and the probe of /ready."""
    queue, began = Queue(settings), time.monotonic()
    return queue.send(RECONCILE, ["no run"]) and not queue.problem() and time.monotonic() - began < PROMISED_SECONDS


@pytest.mark.parametrize("lost", [dead, hanging])
def test_one_lost_sentinel_is_not_noticed_by_processes_that_start(
    topology: Topology, settled: Stack, lost: Loss, *, long_form: bool
) -> None:
    if lost is dead and not long_form:
        pytest.skip("with --long: a sentinel that hangs, which is always tried, holds up more than a dead one")
    with ExitStack() as stack:
        stack.enter_context(lost(topology.sentinels[0]))
        api = stack.enter_context(Api(settled.api_settings, "api-of-three-sentinels"))
        worker = stack.enter_context(Worker(settled.worker_settings, "worker-of-three-sentinels"))
        client = stack.enter_context(OsbClient(api.uri, settled.user, settled.password))
        redis_is_well(client)
        settings = RedisSettings.parse(topology.url)
        assert any(first_use_succeeds(settings) for _ in range(5)), "each does, but for stalls of a busy machine"
        tenant = Tenant(client)
        accepted = client.provision(tenant.instance_id, {"cluster": "cluster-dev"})
        assert accepted.seconds < ACCEPTED_SECONDS
        tenant.succeed(accepted)
        assert works(tenant.bind())
        began = time.monotonic()
        assert worker.stop(STOP_SECONDS) == 0
        assert time.monotonic() - began < STOP_SECONDS


@pytest.mark.parametrize("lost", [dead, hanging])
def test_without_any_sentinel_requests_are_accepted_and_workers_end(
    topology: Topology, settled: Stack, lost: Loss, *, long_form: bool
) -> None:
    if lost is dead and not long_form:
        pytest.skip("with --long: sentinels that hang, which are always tried, hold up more than dead ones")
    with ExitStack() as stack:
        with lost(*topology.sentinels):
            api = stack.enter_context(Api(settled.api_settings, "api-without-sentinels"))
            worker = Worker(settled.worker_settings, "worker-without-sentinels")
            worker.launch()
            stack.callback(worker.close)
            client = stack.enter_context(OsbClient(api.uri, settled.user, settled.password))
            accepted: list[tuple[Tenant, Answer]] = []

            def provision() -> Answer:
                tenant = Tenant(client)
                accepted.append((tenant, client.provision(tenant.instance_id, {"cluster": "cluster-dev"})))
                return accepted[-1][1]

            in_time(provision)
            ready = in_time(client.ready)
            assert ready.json["redis"].startswith("Redis does not answer: no sentinel answers"), ready.text
            eventually(lambda: "redis_lost" in worker.log_text(), "the worker tells that it has no Redis")
            began = time.monotonic()
            assert worker.stop(STOP_SECONDS) == 0
            assert time.monotonic() - began < STOP_SECONDS
        for tenant, answer in accepted:
            tenant.succeed(answer)
    assert not settled.ended()
