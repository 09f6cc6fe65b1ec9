"""What processes report in MongoDB about themselves, and what /ready, metrics and logs make of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_api.jobs.queue import QUEUES, Queue
from broker_api.settings.redis_settings import RedisSettings
from broker_api.state.announcements import KEY_REFUSED, LIVE_SECONDS, Announcements
from broker_api.state.broker_state import FAILURE_SECONDS, BrokerState
from broker_api.state.housekeeping import RECONCILED, Housekeeping
from broker_api.state.new_operation import NewOperation
from broker_api.state.open_operations import OpenOperations, take_long_waits
from broker_api.state.operation_claims import Claims
from broker_api.state.records import Kind, Phase, State, instance_key
from broker_api.state.store import Store
from tests.dev.services import Redis
from workers.clusters.user_limit import UserLimit, store_room

NOWHERE = RedisSettings.parse("redis://:a-secret@127.0.0.1:1/0")


def another(store: Store) -> Store:
    """As another process has it."""
    collection = store.collection
    return Store(collection.database.client, collection.database.name, collection.name)


def read(store: Store) -> BrokerState:
    return BrokerState.read(Housekeeping(store))


def begin(store: Store, name: str, **operation: object) -> str:
    """Begin a provision; write fields of its operation."""
    begun = store.create({"instance_id": name}, NewOperation(Kind.PROVISION), None)
    assert begun
    changes = {f"operation.{field}": value for field, value in operation.items()}
    if changes:
        store.collection.update_one({"_id": instance_key(name)}, {"$set": changes})
    return begun


def minutes_ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def announce(store: Store, queues: set[str], **troubles: list[str]) -> Announcements:
    made = Announcements(Housekeeping(store), {"name": "worker@h", "host": "h", "pid": 1, "version": "1"})
    made.announce(queues, troubles)
    return made


def test_a_queue_is_named_that_no_live_worker_consumes(store: Store) -> None:
    assert "queues instances, bindings, maintenance" in read(store).report()["workers"]
    announce(store, {"instances", "maintenance"})
    assert read(store).report()["workers"] == "no live worker consumes the queue bindings"
    other = announce(store, {"bindings", "instances"})
    assert read(store).workers_by_queue == {"instances": 2, "bindings": 1, "maintenance": 1}
    Housekeeping(store).acquire("sweep", "a-worker", 60)
    assert read(store).report()["workers"] == "ok"
    other.withdraw()
    assert read(store).workers_by_queue["bindings"] == 0
    long_ago = datetime.now(UTC) - timedelta(seconds=LIVE_SECONDS + 1)
    store.housekeeping.update_many({"pid": 1}, {"$set": {"seen": long_ago}})
    assert not any(read(store).workers_by_queue.values())
    kept = store.housekeeping.find_one({"pid": 1})
    assert kept
    assert kept["expire_at"] > datetime.now(UTC)


def test_a_failed_send_of_one_process_is_told_by_all_until_it_succeeds(store: Store, redis_server: Redis) -> None:
    sending = another(store)
    assert not Queue(NOWHERE, sending.report).send("atlas.bind", ["i", "b", "o"])
    sending.report.flush()
    sentence = read(store).report()["sends"]
    assert sentence == "Redis does not answer: connection refused"
    assert Queue(RedisSettings.parse(redis_server.uri), another(store).report).send("maintenance.reconcile", ["run"])
    assert read(store).report()["sends"] == sentence, "of another process"
    assert Queue(RedisSettings.parse(redis_server.uri), sending.report).send("maintenance.reconcile", ["run"])
    sending.report.flush()
    state = read(store)
    assert state.report()["sends"] == "ok"
    assert state.counters("sends")["failed"] == 1
    assert state.counters("sends")["accepted"] >= 1


def test_a_failed_send_is_forgotten_after_a_while(store: Store) -> None:
    store.report.count("sends.failed", failure="Redis is full.")
    store.report.flush()
    assert read(store).failures == ["Redis is full."]
    old = datetime.now(UTC) - timedelta(seconds=FAILURE_SECONDS + 1)
    store.reports.update_many({"failure": {"$exists": True}}, {"$set": {"failed_at": old}})
    assert read(store).failures == []


def test_each_end_of_an_operation_is_counted_once(store: Store) -> None:
    claims = Claims(store)
    claim = claims.claim(instance_key("done"), begin(store, "done"))
    assert claim
    claims.finish(claim, State.SUCCEEDED, Phase.READY, None, "")
    begin(store, "late", deadline=minutes_ago(1))
    assert len(claims.expire()) == 1
    assert claims.expire() == []
    begin(store, "stopped")
    found = store.get(instance_key("stopped"))
    assert found
    assert store.start(found.key, found.operation, NewOperation(Kind.DEPROVISION), Phase.DELETING)
    for _ in range(2):
        store.report.flush()
    assert read(store).counters("ends") == {"provision": {"succeeded": 1, "failed": 2}}


def test_counts_wait_while_mongodb_is_away_and_all_processes_add_to_the_same(store: Store) -> None:
    for process in (store, another(store)):
        process.report.ended(Kind.BIND, State.SUCCEEDED, 2)
        process.report.ended("kind-of-another-release", State.SUCCEEDED)
        process.report.flush()
    assert read(store).counters("ends") == {"bind": {"succeeded": 4}}


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ({"lease_until": minutes_ago(-60)}, "running"),
        ({}, "no_worker"),
        ({"due": minutes_ago(-60), "waits_on": "project:p", "error": "Atlas is down."}, "circuit_open"),
        ({"due": minutes_ago(-60), "waits_on": "p/cluster"}, "applying"),
        ({"due": minutes_ago(-60), "error": "Atlas said 500."}, "error"),
        ({"due": minutes_ago(-60)}, "later"),
    ],
)
def test_an_operation_that_waits_long_has_a_reason(store: Store, operation: dict[str, Any], reason: str) -> None:
    old = minutes_ago(2.1)
    begin(store, "young")
    begun = begin(store, "old", **{"accepted": old, "due": old} | operation)
    assert OpenOperations.read(store).long == {("provision", reason): 1}
    (told,) = take_long_waits(store)
    assert (told["operation"], told["instance_id"], told["reason"]) == (begun, "old", reason)
    assert 120 <= told["seconds"] < 140


def test_a_long_wait_is_logged_once_by_all_workers_and_once_more_after_ten_minutes(store: Store) -> None:
    begin(store, "old", accepted=minutes_ago(3))
    assert len(take_long_waits(store)) == 1
    assert not take_long_waits(another(store))
    store.collection.update_one({"_id": instance_key("old")}, {"$set": {"operation.accepted": minutes_ago(11)}})
    assert len(take_long_waits(another(store))) == 1
    assert not take_long_waits(store)


def test_ready_names_trouble_with_atlas_without_any_name(store: Store) -> None:
    housekeeping, project = Housekeeping(store), "5f0000000000000000000001"
    reason = f"Atlas refused to create database user 'b-1' in project {project}."
    housekeeping.write(f"circuit/{project}", {"open": True, "reason": reason})
    announce(store, set(QUEUES.values()), **{KEY_REFUSED: [project]})
    store_room(housekeeping, project, 10, others=9)
    UserLimit(store, housekeeping, [project]).check()
    left = {"orphans": 2, "missing": 0}
    housekeeping.write(RECONCILED, {"left": left, "not_compared": {project: reason}})
    report = read(store).report()
    assert report["atlas"] == (
        "the circuit breaker of 1 project is open; "
        "1 of 1 workers are refused by Atlas: their key may be wrong or revoked"
    )
    assert report["users"] == "1 project nearly full of database users"
    assert report["drift"] == "2 of user_without_binding; 1 project could not be compared"
    assert project not in str(report)
    assert "b-1" not in str(report)
