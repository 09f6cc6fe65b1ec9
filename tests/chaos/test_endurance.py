"""Processes outlive what they talk to, end when told to, and hand back what they hold."""

import time
from uuid import uuid4

from pymongo import MongoClient

from tests.chaos.chaos import LEASE_SECONDS, USERS, Chaos, Document, paused, succeeds, until

SATURATED = 32 + 12
"""More jobs than one worker's slots: the last dozen messages are taken from Redis and not acknowledged yet."""


def test_a_worker_outlives_redis_with_messages_unacknowledged(chaos: Chaos, *, long_form: bool) -> None:
    """kombu 5.7 without the guard ends the worker; Redis is killed and comes back empty, several times."""
    worker, other = chaos.stack.workers
    chaos.kill(other)
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        bindings: list[str] = []
        for _ in range(10 if long_form else 2):
            rule = chaos.atlas.hang("POST", USERS, seconds=2, times=SATURATED)
            answers = {each: platform.bind(instance_id, each) for each in (str(uuid4()) for _ in range(SATURATED))}
            until("all slots are busy", lambda rule=rule: chaos.reached(rule, 32))  # type: ignore[misc]
            chaos.kill(chaos.stack.redis)
            chaos.start(chaos.stack.redis)
            for each, answer in answers.items():
                succeeds(platform, answer, instance_id, each)
            bindings += answers
        assert worker.running, worker.obituary()
        assert len(chaos.users() & set(bindings)) == len(bindings)
        succeeds(platform, platform.deprovision(instance_id), instance_id)


def test_all_processes_outlive_redis_and_mongodb(chaos: Chaos) -> None:
    """Both are away for longer than any time-out, also while a worker starts; then everything goes on by itself."""
    numbers = [server.process and server.process.pid for server in chaos.broker]
    chaos.kill(chaos.stack.redis, chaos.stack.state)
    with chaos.platform() as platform:
        with platform.expecting(503):
            assert platform.request("GET", "/ready", auth=None).status == 503
    time.sleep(6)
    chaos.start(chaos.stack.redis, chaos.stack.state)
    with chaos.platform() as platform:
        assert chaos.binding(platform, chaos.instance(platform))
    assert [server.process and server.process.pid for server in chaos.broker] == numbers


def test_all_processes_outlive_a_primary_that_steps_down(chaos: Chaos) -> None:
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        answer = platform.bind(instance_id, binding_id := str(uuid4()))
        step_down(chaos.stack.state.uri)
        succeeds(platform, answer, instance_id, binding_id)


def step_down(uri: str) -> None:
    with MongoClient[Document](uri) as client:
        client.admin.command("replSetStepDown", 3, force=True)


def test_a_worker_told_to_stop_hands_back_what_it_holds(chaos: Chaos) -> None:
    """It ends well before its lease, and another worker goes on at once."""
    with chaos.platform() as platform:
        instance_id, binding_id = chaos.instance(platform), str(uuid4())
        worker, other = chaos.stack.workers
        rule = chaos.atlas.hang("POST", USERS, seconds=3, when="after", body=binding_id)
        with paused([other]):
            answer = platform.bind(instance_id, binding_id)
            chaos.arrives(rule)
        asked = time.monotonic()
        assert chaos.stop(worker) == 0, worker.log_tail()
        succeeds(platform, answer, instance_id, binding_id)
        assert time.monotonic() - asked < LEASE_SECONDS / 2
        assert not chaos.calls("PATCH", binding_id), "what was done was done again"


def test_a_broker_told_to_stop_ends_well(chaos: Chaos) -> None:
    """API and workers, idle, all end with status 0 within their grace period."""
    servers = chaos.broker
    for server in servers:
        chaos.ask_to_stop(server)
    assert {server.name: server.wait_for_end(15.0) for server in servers} == {server.name: 0 for server in servers}
