"""What the sweeper sends, ends and starts, in this process, on the real MongoDB and Redis."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from redis import Redis as Client

from broker_api.jobs.queue import RECONCILE, Queue
from broker_api.settings.redis_settings import RedisSettings
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import SWEEP, Housekeeping
from broker_api.state.new_operation import NewOperation
from broker_api.state.open_operations import take_long_waits
from broker_api.state.operation_claims import Claims
from broker_api.state.records import Kind, Phase, State, instance_key
from broker_api.state.store import Store
from tests.dev.processes import HOST, free_port
from tests.dev.services import Redis
from tests.engine.conftest import Clock
from workers.engine.sweeper import MOST_QUEUED, SWEEP_RENEW_SECONDS, Sweeper

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Redis]:
    """A Redis that no worker consumes from."""
    with Redis("redis-engine") as server:
        yield server


@pytest.fixture
def messages(own_redis: Redis) -> Client:
    """The Redis that jobs are sent to, emptied; its queues are lists."""
    own_redis.flush()
    return own_redis.client()


@pytest.fixture
def sweeper(store: Store, own_redis: Redis) -> Sweeper:
    queue = Queue(RedisSettings.parse(own_redis.uri))
    return made(store, queue)


def made(store: Store, queue: Queue, clock: Callable[[], float] = time.monotonic) -> Sweeper:
    return Sweeper(
        store=store,
        claims=Claims(store),
        housekeeping=Housekeeping(store),
        keys=KeyCheck(Housekeeping(store), Vault((Fernet.generate_key().decode(),))),
        queue=queue,
        check=lambda: None,
        stopping=threading.Event(),
        clock=clock,
    )


def accepted(store: Store, name: str, **fields: object) -> str:
    """A provision that was written and not sent; ``fields`` of its operation."""
    begun = store.create({"instance_id": name}, NewOperation(Kind.PROVISION), None)
    assert begun is not None
    changes = {"due": datetime.now(UTC) - SECOND, "dispatched": datetime.now(UTC) - timedelta(hours=1), **fields}
    store.collection.update_one(
        {"_id": instance_key(name)}, {"$set": {f"operation.{key}": value for key, value in changes.items()}}
    )
    return begun


def test_what_is_due_and_held_by_no_worker_is_sent(store: Store, sweeper: Sweeper, messages: Client) -> None:
    accepted(store, "due")
    accepted(store, "later", due=datetime.now(UTC) + timedelta(minutes=1))
    accepted(store, "held", lease_until=datetime.now(UTC) + timedelta(minutes=1))
    accepted(store, "ended", open=False, state=State.SUCCEEDED.value)
    assert sweeper.sweep() == 1
    assert messages.llen("instances") == 1


def test_what_was_just_sent_is_not_sent_again(store: Store, sweeper: Sweeper, messages: Client) -> None:
    accepted(store, "due")
    assert [sweeper.sweep() for _ in range(3)] == [1, 0, 0]
    assert messages.llen("instances") == 1


def test_a_message_that_was_lost_is_sent_again_after_a_while(store: Store, sweeper: Sweeper) -> None:
    accepted(store, "due")
    sweeper.sweep()
    lost = {"operation.dispatched": datetime.now(UTC) - timedelta(minutes=1)}
    store.collection.update_one({"_id": instance_key("due")}, {"$set": lost})
    assert sweeper.sweep() == 1


def test_of_those_that_wait_on_one_cluster_one_is_sent(store: Store, sweeper: Sweeper) -> None:
    for number in range(5):
        accepted(store, f"waits-{number}", waits_on="project/cluster")
    accepted(store, "other", waits_on="project/other")
    assert sweeper.sweep() == 2


@pytest.mark.parametrize("events", [1, 3])
def test_many_that_wait_for_an_event_hold_up_no_other(store: Store, events: int) -> None:
    for number in range(5 * events):
        long_ago = datetime.now(UTC) - timedelta(minutes=5, seconds=number)
        accepted(store, f"waits-{number}", waits_on=f"project:dead-{number // 5}", due=long_ago)
    accepted(store, "waits for another", waits_on="project/cluster")
    accepted(store, "waits for nothing")
    found = {each.instance_id for each in Claims(store).due(3)}
    assert found > {"waits for another", "waits for nothing"}
    assert len(found) == 3 * events + 2


def test_a_document_with_an_object_as_its_id_does_not_stop_the_sweep(store: Store, sweeper: Sweeper) -> None:
    accepted(store, "broken")
    (broken,) = store.collection.find()
    store.collection.insert_one({**broken, "_id": {"planted": 1}})
    accepted(store, "sound")
    assert sweeper.sweep() == 2


def test_nothing_is_added_to_a_queue_that_no_worker_takes_from(
    store: Store, sweeper: Sweeper, messages: Client
) -> None:
    accepted(store, "due")
    messages.lpush("instances", *["a job"] * (MOST_QUEUED + 1))
    assert sweeper.sweep() == 0
    messages.ltrim("instances", 0, 10)
    store.collection.update_many({}, {"$set": {"operation.dispatched": datetime.now(UTC) - timedelta(minutes=1)}})
    assert sweeper.sweep() == 1


def test_an_operation_of_a_kind_that_is_not_known_is_left_alone(store: Store, sweeper: Sweeper) -> None:
    accepted(store, "newer", kind="migrate")
    assert sweeper.sweep() == 0


def test_without_redis_everything_stays_due(store: Store) -> None:
    accepted(store, "due")
    nowhere = Queue(RedisSettings.parse("redis://127.0.0.1:1/0"))
    sweeper = made(store, nowhere)
    assert sweeper.sweep() == 0
    assert len(Claims(store).due(10)) == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"error": "Atlas does not answer.", "description": "Waiting."}, "Atlas does not answer."),
        ({"description": "Waiting."}, "Waiting."),
        ({"first_claimed": datetime.now(UTC)}, "A worker had begun it."),
        ({}, "No worker has worked on it."),
    ],
)
def test_what_is_past_its_deadline_fails_with_its_last_trouble(
    store: Store, sweeper: Sweeper, fields: dict[str, object], sentence: str
) -> None:
    accepted(store, "late", deadline=datetime.now(UTC) - SECOND, **fields)
    sweeper.sweep()
    found = store.instance("late")
    assert found is not None
    assert (found.phase, found.operation.state) == (Phase.FAILED, State.FAILED)
    assert found.operation.description == f"The operation was not done before its deadline. {sentence}"
    assert found.operation.open  # what it made is still to be removed


BROKEN: list[dict[str, object]] = [
    {"operation.kind": ["provision"]},
    {"operation.kind": {"$ne": "provision"}},
    {"operation.id": ["x"]},
    {"instance_id": ["broken"]},
    {"operation.sends": float("nan")},
    {"operation.accepted": "then"},
    {"operation.accepted": 7},
    {"operation.warned": "often"},
]


def test_a_delete_that_is_being_given_up_at_its_deadline_is_given_up(store: Store) -> None:
    past = {"deadline": datetime.now(UTC) - SECOND}
    accepted(store, "undoing", kind=Kind.DEPROVISION, undo=True, step="give up", **past)
    accepted(store, "deleting", kind=Kind.DEPROVISION, step="unbind", **past)
    assert len(Claims(store).expire()) == 2
    ended = [store.instance(name) for name in ("undoing", "deleting")]
    assert [(each.operation.undo, each.operation.step) for each in ended if each] == [
        (True, "give up"),
        (False, "unbind"),
    ]


def test_broken_operations_stop_none_of_the_others(store: Store, sweeper: Sweeper) -> None:
    hour_ago, past = datetime.now(UTC) - timedelta(hours=1), {"operation.deadline": datetime.now(UTC) - SECOND}
    for number, fields in enumerate(BROKEN):
        accepted(store, f"broken-{number}", accepted=hour_ago)
        store.collection.update_one({"_id": instance_key(f"broken-{number}")}, {"$set": {**fields, **past}})
    accepted(store, "late", deadline=past["operation.deadline"])
    waiting = accepted(store, "waiting", accepted=hour_ago)
    assert waiting in [each["operation"] for each in take_long_waits(store)]
    assert {"late", "waiting"} <= {each.instance_id for each in Claims(store).due(100)}
    assert sweeper.sweep() >= 2
    late = store.instance("late")
    assert late
    assert late.operation.state is State.FAILED


def test_the_reconciliation_starts_once_an_hour_and_not_with_a_new_broker(
    store: Store, sweeper: Sweeper, messages: Client
) -> None:
    accepted(store, "due")
    sweeper.sweep()
    assert messages.llen("maintenance") == 0
    hour_ago = {"until": datetime.now(UTC) - SECOND}
    Housekeeping(store).collection.update_one({"_id": "maintenance.reconcile"}, {"$set": hour_ago})
    for name in ("one", "two"):
        accepted(store, name)
        sweeper.sweep()
    assert messages.llen("maintenance") == 1


def test_reconciliations_that_cannot_be_sent_do_not_pile_up(store: Store) -> None:
    sweeper = made(store, Queue(RedisSettings.parse(f"redis://{HOST}:{free_port()}/0")))
    housekeeping = store.housekeeping
    accepted(store, "due")
    sweeper.sweep()
    hour_ago = {"until": datetime.now(UTC) - SECOND}
    for _ in range(2):
        housekeeping.update_one({"_id": RECONCILE}, {"$set": hour_ago})
        sweeper.sweep()
    assert housekeeping.count_documents({"_id": {"$regex": "^reconcile/"}}) == 0
    assert Housekeeping(store).acquire(RECONCILE, "the next sweep", 60)


def test_one_of_several_workers_sweeps(store: Store) -> None:
    housekeeping = Housekeeping(store)
    assert housekeeping.acquire(SWEEP, "one", 60)
    assert not housekeeping.acquire(SWEEP, "two", 60)
    housekeeping.release(SWEEP, "one")
    assert housekeeping.acquire(SWEEP, "two", 60)


def test_a_sweeper_that_is_not_the_active_one_asks_once_a_second(store: Store, own_redis: Redis) -> None:
    housekeeping, clock = Housekeeping(store), Clock()
    sweeper = made(store, Queue(RedisSettings.parse(own_redis.uri)), clock)
    assert housekeeping.acquire(SWEEP, "another", 60)
    is_active = sweeper._is_active  # noqa: SLF001 - the thread that asks has a random pace
    assert not is_active()
    housekeeping.release(SWEEP, "another")
    assert not is_active()
    clock.now += SWEEP_RENEW_SECONDS
    assert is_active()


def test_a_turn_is_taken_by_one_process_in_its_period(store: Store) -> None:
    housekeeping = Housekeeping(store)
    assert not housekeeping.take_turn("turn", "next", 60)  # no such document
    housekeeping.write("turn", {"made": True})
    assert [housekeeping.take_turn("turn", "next", 60) for _ in range(3)] == [True, False, False]
