"""Processes outlive what they talk to, end when told to, and hand back what they hold."""

import time
from uuid import uuid4

from pymongo import MongoClient

from tests.chaos.chaos import LEASE_SECONDS, USERS, Chaos, Document, paused, succeeds, until


def test_all_processes_outlive_a_primary_that_steps_down(chaos: Chaos) -> None:
    with chaos.platform() as platform:
        instance_id = chaos.instance(platform)
        answer = platform.bind(instance_id, binding_id := str(uuid4()))
        step_down(chaos.stack.state.uri)
        with platform.expecting(503):
            until("polls are answered", lambda: platform.last_operation(instance_id, binding_id).status == 200)
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
