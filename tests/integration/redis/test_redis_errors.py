"""Redis answers with errors: its workers stay, and go on by themselves when it is well again."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from broker_api.jobs.redis_errors import CHANGE_SECONDS
from tests.dev.broker import Worker
from tests.dev.services import Redis
from tests.dev.stack import Stack
from tests.osb_client import Answer
from tests.tenant import Tenant, eventually, in_time

ILL_SECONDS = 3
LOST_SECONDS = 5
STOP_SECONDS = 20
HEALED_SECONDS = 45
"""The rest of an illness that ends by itself, the worker's pause, then the sweep; and as much for a busy machine."""


@contextmanager
def full(server: Redis) -> Iterator[None]:
    """Its memory is used up, and nothing may be evicted: OOM."""
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        yield
        client.config_set("maxmemory", 0)


@contextmanager
def a_replica(server: Redis) -> Iterator[None]:
    """As after a failover of a managed Redis: UNBLOCKED, then READONLY."""
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def a_stale_replica(server: Redis) -> Iterator[None]:
    """MASTERDOWN."""
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        with a_replica(server):
            yield
        client.config_set("replica-serve-stale-data", "yes")


@contextmanager
def without_disk(server: Redis) -> Iterator[None]:
    """MISCONF."""
    with server.client() as client:
        client.config_set("save", "3600 1")
        (server.home / "dump.rdb").mkdir()
        with pytest.raises(redis.ResponseError):
            client.save()
        client.bgsave()
        eventually(lambda: client.info()["rdb_last_bgsave_status"] == "err", "the snapshot failed")
        yield
        (server.home / "dump.rdb").rmdir()
        client.config_set("save", "")


@contextmanager
def with_too_few_replicas(server: Redis) -> Iterator[None]:
    """NOREPLICAS."""
    with server.client() as client:
        client.config_set("min-replicas-to-write", 3)
        yield
        client.config_set("min-replicas-to-write", 0)


@contextmanager
def with_a_password(server: Redis) -> Iterator[None]:
    """NOAUTH, for new connections and for those that there are."""
    with server.client() as client, server.client() as other:
        other.ping()
        client.config_set("requirepass", "another")
        other.execute_command("AUTH", "another")
        _end_all_others(other)
        yield
        other.config_set("requirepass", "")


def _end_all_others(client: redis.Redis) -> None:
    client.client_kill_filter(_type="normal", skipme=True)
    client.client_kill_filter(_type="pubsub", skipme=True)


def forbidding(*rules: str) -> Callable[[Redis], AbstractContextManager[None]]:
    """NOPERM for some commands or keys."""

    @contextmanager
    def forbidden(server: Redis) -> Iterator[None]:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", *rules)
            yield
            client.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "+@all", "~*", "&*")

    forbidden.__name__ = "forbidding " + " ".join(rules)
    return forbidden


def with_a_text_at(key: str) -> Callable[[Redis], AbstractContextManager[None]]:
    """WRONGTYPE."""

    @contextmanager
    def wrong(server: Redis) -> Iterator[None]:
        with server.client() as client:
            client.delete(key)
            client.set(key, "a text")
            yield
            client.delete(key)

    wrong.__name__ = f"a text at {key}"
    return wrong


@contextmanager
def busy(server: Redis) -> Iterator[None]:
    """BUSY: a script runs that nobody awaits."""
    with server.client() as client:
        client.config_set("busy-reply-threshold", 50)
        with pytest.raises(redis.RedisError):
            client.eval("while true do end", 0)
        yield
        with server.client() as other:
            other.execute_command("SCRIPT", "KILL")


@contextmanager
def pausing(server: Redis) -> Iterator[None]:
    """It takes commands and answers none."""
    with server.client() as client:
        client.execute_command("CLIENT", "PAUSE", 8000, "ALL")
    yield


@pytest.mark.parametrize(
    "ill",
    [
        full,
        a_replica,
        with_a_password,
        with_a_text_at("bindings"),
        pausing,
    ],
    ids=lambda ill: ill.__name__,
)
def test_workers_stay_whatever_redis_answers_and_go_on_when_it_is_well(
    fragile: Stack, ill: Callable[[Redis], AbstractContextManager[None]]
) -> None:
    survives(fragile, ill)


@pytest.mark.parametrize(
    "ill",
    [
        a_stale_replica,
        without_disk,
        with_too_few_replicas,
        busy,
        forbidding("-@all", "+acl", "+auth", "+hello", "+client"),
        forbidding("-brpop"),
        forbidding("-publish"),
        forbidding("resetchannels"),
        forbidding("resetkeys"),
        with_a_text_at("_kombu.binding.bindings"),
    ],
    ids=lambda ill: ill.__name__,
)
def test_more_answers_that_workers_survive(
    fragile: Stack, ill: Callable[[Redis], AbstractContextManager[None]], *, long_form: bool
) -> None:
    if not long_form:
        pytest.skip("with --long: other errors of the kinds above: a refused write, connection, key, and no answer")
    survives(fragile, ill)


def survives(fragile: Stack, ill: Callable[[Redis], AbstractContextManager[None]]) -> None:
    with fragile.client() as client:
        tenant = Tenant(client).provision()
        accepted: dict[str, Answer] = {}

        def bind() -> Answer:
            name = f"b-{len(accepted) + 1}"
            accepted[name] = client.bind(tenant.instance_id, name)
            assert accepted[name].status == 202
            return accepted[name]

        with ill(fragile.redis):
            began = time.monotonic()
            in_time(bind)
            while time.monotonic() < began + ILL_SECONDS:
                assert not fragile.ended(), fragile.workers[0].log_tail()
                in_time(client.ready)
                time.sleep(0.5)
        healed = time.monotonic()
        for name, each in accepted.items():
            tenant.succeed(each, name)
        tenant.unbind("b-1")
        assert time.monotonic() - healed < HEALED_SECONDS
    assert not fragile.ended()
    eventually(lambda: ready(fragile) == "ok", "Redis is said to be well")


@contextmanager
def stopped(server: Redis) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def hanging(server: Redis) -> Iterator[None]:
    """It takes connections and never answers."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.mark.parametrize("ill", [stopped, hanging, a_replica], ids=lambda ill: ill.__name__)
def test_a_worker_that_has_lost_redis_says_so_once_and_ends_in_time(
    fragile: Stack, ill: Callable[[Redis], AbstractContextManager[None]], *, long_form: bool
) -> None:
    if ill is stopped and not long_form:
        pytest.skip("with --long: a Redis that hangs, which is always tried, holds up more than one that is stopped")
    with Worker(fragile.worker_settings, f"worker-{ill.__name__}") as worker:
        with ill(fragile.redis):
            eventually(lambda: "redis_lost" in worker.log_text(), "it tells that Redis is lost")
            time.sleep(LOST_SECONDS)
            began = time.monotonic()
            assert worker.stop(STOP_SECONDS) == 0, worker.log_tail()
            assert time.monotonic() - began < STOP_SECONDS
        told = worker.log_text()
    assert told.count('"redis_lost"') <= 2 * LOST_SECONDS / CHANGE_SECONDS, told
    assert told.count("Traceback") == 0, told
    assert told.count("\n") < 60, told


def ready(stack: Stack) -> str:
    with stack.client() as client:
        told: str = client.ready().json["redis"]
        return told
