"""Celery's events, from which Flower learns what becomes of jobs."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.client import PubSub

from broker_api.jobs.redis_transport import RedisCelery, celery_settings
from broker_api.settings.redis_settings import RedisSettings
from tests.dev.broker import CELERY, QUEUES, Worker
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.integration.redis.gated_config import closed_gate
from tests.osb_client import Json
from tests.tenant import CLUSTER, Tenant, eventually, together
from workers.transport import EVENTS_SECONDS

TOGETHER = 8


class PoolWorker(Worker):
    """A worker with another pool than that of threads."""

    def command(self) -> list[str]:
        return [*CELERY, "worker", "-Q", QUEUES, "-n", self.uri, f"--pool={self.name}", "--concurrency=1"]


@contextmanager
def another_worker(fragile: Stack, another: Worker) -> Iterator[None]:
    """Run another worker instead of that of the stack."""
    (worker,) = fragile.workers
    worker.stop()
    try:
        with another:
            yield
    finally:
        worker.start()


@pytest.fixture
def channel(fragile: Stack, atlas: Emulator) -> Iterator[PubSub]:
    """A subscription to the events of all jobs."""
    atlas.apply_now()
    with fragile.redis.client() as client, closing(client.pubsub()) as subscribed:
        subscribed.psubscribe("*.celeryev/task.multi")
        assert subscribed.get_message(timeout=5)
        yield subscribed


def messages(channel: PubSub) -> Iterator[list[Json]]:
    """Return the events of each message, until two seconds pass without one; each event is a dictionary."""
    while message := channel.get_message(timeout=2):
        yield json.loads(base64.b64decode(json.loads(message["data"])["body"]))


def test_the_events_of_jobs_at_the_same_time_share_messages(fragile: Stack, channel: PubSub) -> None:
    with fragile.client() as client:
        tenant = Tenant(client).provision()
        sent = list(messages(channel))
        assert sent
        together(*(partial(tenant.bind, f"b-{number}") for number in range(TOGETHER)))
        sent = list(messages(channel))
    types = [event["type"] for each in sent for event in each]
    assert types.count("task-started") == types.count("task-succeeded") == TOGETHER
    # What has ended without a job is announced a second later.
    times = [[event["timestamp"] for event in each if event["type"] != "task-succeeded"] for each in sent]
    times = [each for each in times if each]
    seconds = max(times[-1]) - min(times[0])
    assert len(times) <= seconds / EVENTS_SECONDS + 2, times


def test_a_new_dispatcher_sends_what_the_one_before_it_has_collected(fragile: Stack, channel: PubSub) -> None:
    app = RedisCelery("test", events="workers.transport:Events", set_as_current=False)
    app.config_from_object(
        celery_settings(RedisSettings.parse(fragile.redis.uri), "workers.transport:Transport", {"socket_timeout": 5})
    )
    with app.connection_for_write() as first, app.connection_for_write() as second:
        lost, new = (app.events.Dispatcher(each, buffer_group=["task"]) for each in (first, second))
        lost.send("task-started", uuid="an-operation")
        lost.disable()
        new.extend_buffer(lost)
        new.flush()
    assert [event["uuid"] for each in messages(channel) for event in each] == ["an-operation"]


def test_a_worker_that_stops_sends_the_events_of_the_last_job(fragile: Stack, channel: PubSub) -> None:
    (worker,) = fragile.workers
    with fragile.client() as client:
        tenant = Tenant(client)
        accepted = client.provision(tenant.instance_id, {"cluster": CLUSTER})
        eventually(lambda: client.last_operation(tenant.instance_id).state == "succeeded", "it has succeeded")
    worker.restart()
    ends = [event["type"] for each in messages(channel) for event in each if event["uuid"] == accepted.operation]
    assert ends[-1:] == ["task-succeeded"], ends


def test_a_worker_that_stops_sends_the_events_of_the_job_that_it_finishes(
    fragile: Stack, channel: PubSub, tmp_path: Path
) -> None:
    (worker,) = fragile.workers
    stops = worker.log_text().count("worker_stopping")
    with fragile.client() as client:
        tenant = Tenant(client)
        with closed_gate(tmp_path) as gate:
            accepted = client.provision(tenant.instance_id, {"cluster": CLUSTER, "gate": gate})
            begun = [event["type"] for each in messages(channel) for event in each]
            worker.ask_to_stop()
            eventually(lambda: worker.log_text().count("worker_stopping") > stops, "the worker stops")
        worker.wait_for_end(20)
        worker.start()
        tenant.succeed(accepted)
    ends = [event["type"] for each in messages(channel) for event in each if event["uuid"] == accepted.operation]
    assert begun == ["task-received", "task-started"]
    assert ends[0] == "task-retried", ends


@pytest.mark.parametrize("pool", ["processes", "solo"])
def test_every_pool_announces_a_job_that_waits_as_a_retry(
    fragile: Stack, atlas: Emulator, channel: PubSub, tmp_path: Path, pool: str
) -> None:
    settings = {**fragile.worker_settings, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with fragile.client() as client, another_worker(fragile, PoolWorker(settings, pool)):
        tenant = Tenant(client).provision()
        atlas.apply_by_hand()
        accepted = client.bind(tenant.instance_id, "b")
        sent = [event for each in messages(channel) for event in each if event["uuid"] == accepted.operation]
        atlas.apply_now()
        tenant.succeed(accepted, "b")
    ends = {event["type"]: event.get("result") for event in sent}
    assert ends["task-retried"] == f"Waiting until Atlas has applied the change on the cluster {CLUSTER}."
    assert "task-succeeded" not in ends
