"""How clusters are polled, and how one poll ends all operations that wait; Atlas is a list of answers."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
from redis import Redis as Client
from structlog.testing import capture_logs

from broker_api.jobs.queue import Queue
from broker_api.settings.redis_settings import RedisSettings
from broker_api.state.fields import OperationFields, StepFields
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import In
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claims, Due
from broker_api.state.records import Binding, Kind, Phase, State, StepResult, binding_key
from broker_api.state.store import Store
from tests.dev.services import Redis
from tests.tenant import eventually
from workers.atlas.client import AtlasClient, ClusterNotFound, NoAnswer
from workers.clusters.change_status import (
    NO_BUDGET_SECONDS,
    PAUSE_MS,
    SPACING_MS,
    Change,
    ClusterStatus,
    Status,
    cluster_key,
    pause_after,
)
from workers.clusters.watcher import KEEP_SECONDS, UNWATCHED_SECONDS, ClusterWatcher, Waiting
from workers.engine.results import Done, HeldBackError
from workers.metrics import OperationTimes

PROJECT, CLUSTER = "project", "cluster"
NAME = cluster_key(PROJECT, CLUSTER)
DONE = Done(Phase.READY, "It works.")


@dataclass
class Atlas:
    """Answers polls with ``answers`` one after the other, and then with the last one again.

    For an event among them, the poll first waits until the test has set it.
    """

    answers: Sequence[str | Exception | threading.Event]
    polls: list[float] = field(default_factory=list)
    project_id: str = PROJECT

    def cluster_status(self, _: str) -> str:
        self.polls.append(time.monotonic())
        answer, *later = self.answers
        while isinstance(answer, threading.Event):
            answer.wait(60)
            answer, *later = later
        self.answers = later or [answer]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def client(self) -> AtlasClient:
        return cast("AtlasClient", self)


@dataclass
class Bench:
    """One or more workers' watchers on the same MongoDB."""

    store: Store
    queue: Queue
    stopping: threading.Event = field(default_factory=threading.Event)
    settle: float = 0.0
    budget: int = 1000
    shown: list[tuple[str | None, str]] = field(default_factory=list)
    """The ends that Flower is shown."""

    def __post_init__(self) -> None:
        self.claims = Claims(self.store)
        self.status = ClusterStatus(Housekeeping(self.store), self.settle, {PROJECT: self._may_poll})

    def _may_poll(self) -> bool:
        self.budget -= 1
        return self.budget >= 0

    def watcher(self, atlas: Atlas) -> ClusterWatcher:
        watcher = ClusterWatcher(self.status, self.claims, self.queue, lambda _: atlas.client, self.stopping)
        watcher.show_end = lambda due, sentence: self.shown.append((due.binding_id, sentence))
        return watcher

    def changed(self) -> Change:
        """Note a change, and leave its turn to poll to others."""
        change, _ = self.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
        self.store.housekeeping.update_many({}, {"$unset": {"polled_at": 1, "next_poll": 1, "polls_booked": 1}})
        return change

    def waiting(self, name: str, change: Change, done: Done[Any] | None = DONE) -> Waiting:
        """Write a bind that waits on the cluster, as a worker leaves it."""
        key = binding_key("i", name)
        begun = self.store.create({"instance_id": "i", "binding_id": name}, NewOperation(Kind.BIND), None)
        assert begun is not None
        claim = self.claims.claim(key, begun)
        assert claim is not None
        life = {"apply": StepFields(first=In(0), last=In(0), runs=1, result=StepResult.PUT_OFF)}
        waiting: OperationFields = {"step": "apply", "waits_on": NAME, "changed": change.at}
        self.claims.reschedule(claim, UNWATCHED_SECONDS, {}, waiting, steps=life)
        due, progress = Due(key, Kind.BIND, "i", name, begun), OperationTimes(Kind.BIND, 0.0, 0.0)
        return Waiting(due, claim.fence, "apply", change, done, progress, {})

    def record(self, name: str) -> Binding:
        found = self.store.binding("i", name)
        assert found is not None
        return found

    def ended(self, *names: str) -> bool:
        """Wait until the binds have succeeded."""
        done = State.SUCCEEDED
        eventually(lambda: all(self.record(name).operation.state is done for name in names), "all succeed")
        return True


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Redis]:
    """A Redis that no worker consumes from."""
    with Redis("redis-watcher") as server:
        yield server


@pytest.fixture
def messages(own_redis: Redis) -> Client:
    return own_redis.client()


@pytest.fixture
def bench(store: Store, own_redis: Redis) -> Iterator[Bench]:
    own_redis.flush()
    bench = Bench(store, Queue(RedisSettings.parse(own_redis.uri)))
    yield bench
    bench.stopping.set()


def sent(messages: Client) -> int:
    return messages.llen("bindings")


def note_answer(bench: Bench, status: Status) -> None:
    """Write that the poll of a turn has been answered."""
    bench.store.housekeeping.update_one({"_id": status["_id"]}, [{"$set": {"answered_at": "$$NOW"}}])


def turns(bench: Bench, number: int) -> list[Status]:
    """Look at the cluster all the time; return the documents with the next turns."""
    began = time.monotonic()
    found: list[Status] = []
    while len(found) < number:
        assert time.monotonic() - began < 60
        status = bench.status.look(PROJECT, CLUSTER)
        if status["turn"]:
            found.append(status)
            note_answer(bench, status)
    return found


def test_a_change_takes_the_first_turn_and_the_next_ones_come_after_growing_pauses(bench: Bench) -> None:
    """The pauses are those in the document, since on a busy machine a look may come long after its turn was free."""
    change, first = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    assert first["turn"]
    assert first["polled_at"] > change.at
    note_answer(bench, first)
    found = [first, *turns(bench, 3)]
    pauses = [(status["next_poll"] - status["polled_at"]).total_seconds() for status in found]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.01)
    assert all(later["polled_at"] >= earlier["next_poll"] for earlier, later in pairwise(found))
    time.sleep(0.81)
    assert bench.status.look(PROJECT, CLUSTER)["turn"]


def test_a_cluster_is_polled_ten_times_a_second_at_most_however_many_changes_there_are(bench: Bench) -> None:
    began = time.monotonic()
    polls: list[datetime] = []
    while len(polls) < 13:
        assert time.monotonic() - began < 60
        _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
        if status["turn"]:
            polls.append(status["polled_at"])
            answer = {"answered_at": "$$NOW", "settled": "$polled_at"}
            bench.store.housekeeping.update_one({"_id": status["_id"]}, [{"$set": answer}])
    assert all(later - earlier > timedelta(seconds=1) for earlier, later in zip(polls, polls[10:], strict=False))


def test_a_bind_finds_a_free_turn_after_an_unbind(bench: Bench) -> None:
    for urgent in [True, False] * 4:
        began = time.monotonic()
        _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=urgent, watched=False)
        while not status["turn"]:
            assert not urgent, "the bind waits"
            assert time.monotonic() - began < 60
            time.sleep(0.01)
            status = bench.status.look(PROJECT, CLUSTER)
        answer = {"answered_at": "$$NOW", "settled": "$polled_at"}
        bench.store.housekeeping.update_one({"_id": status["_id"]}, [{"$set": answer}])


def test_an_old_change_is_polled_every_five_seconds(bench: Bench) -> None:
    bench.changed()
    old = {"changed_at": {"$subtract": ["$changed_at", 20_000]}, "pause": 60_000}
    bench.store.housekeeping.update_many({}, [{"$set": old}])
    turns(bench, 1)
    assert bench.status.look(PROJECT, CLUSTER)["pause"] == 5000


def test_while_an_earlier_change_is_applied_another_one_does_not_begin_the_polls_anew(bench: Bench) -> None:
    bench.changed()
    turns(bench, 3)
    far = {"next_poll": {"$add": ["$$NOW", 60_000]}}  # the next turn is not free, however late the change is noted
    bench.store.housekeeping.update_many({}, [{"$set": far}])
    change, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    assert change.overlapped
    assert not status["turn"]
    assert status["pause"] > 100


def test_changes_that_come_during_a_poll_are_polled_at_once_when_it_says_applied(bench: Bench) -> None:
    for _ in range(5):
        _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
        later, _ = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
        assert later.overlapped
        bench.status.poll(Atlas(["APPLIED"]).client, CLUSTER, status)
        time.sleep(0.26)
        status = bench.status.look(PROJECT, CLUSTER)
        assert status["turn"]
        assert bench.status.is_applied(later, bench.status.poll(Atlas(["APPLIED"]).client, CLUSTER, status))
        time.sleep(0.26)


@pytest.mark.parametrize(
    ("polls", "pause", "seconds"),
    [
        ({"next_poll": 900, "polls_booked": 60_000}, 60_000, 1.0),
        ({"next_poll": 400, "polls_booked": 900}, 60_000, 0.9),
        ({"next_poll": 900, "polls_booked": 400}, 60_000, 0.9),
        ({"next_poll": 60_000, "polls_booked": 0}, 1000, 0.25),
        ({"next_poll": 60_000, "polls_booked": 0}, 100, 0.1),
    ],
    ids=["a second at most", "the rate", "the next poll", "another's answer in a long wait", "in a short one"],
)
def test_without_the_turn_the_next_look_is_when_it_can_be_free(
    bench: Bench, polls: dict[str, int], pause: int, seconds: float
) -> None:
    bench.changed()
    moments = {name: {"$add": ["$$NOW", milliseconds]} for name, milliseconds in polls.items()}
    began = time.monotonic()
    bench.store.housekeeping.update_many({}, [{"$set": {**moments, "pause": pause}}])
    status = bench.status.look(PROJECT, CLUSTER)
    assert not status["turn"]
    assert seconds - (time.monotonic() - began) - 0.01 <= pause_after(status) <= seconds


@pytest.mark.parametrize(("answer", "seconds"), [("APPLIED", SPACING_MS / 1000), ("PENDING", 0.4)])
def test_after_a_poll_the_next_look_is_when_the_rate_and_the_pause_allow_the_next_poll(
    bench: Bench, answer: str, seconds: float
) -> None:
    bench.changed()
    bench.store.housekeeping.update_many({}, {"$set": {"pause": 400}})
    turn = bench.status.look(PROJECT, CLUSTER)
    assert turn["turn"]
    assert pause_after(bench.status.poll(Atlas([answer]).client, CLUSTER, turn)) == pytest.approx(seconds, abs=0.01)


def test_the_first_look_is_when_the_job_has_found_that_the_turn_can_be_free(bench: Bench) -> None:
    atlas = Atlas(["APPLIED"])
    watcher = bench.watcher(atlas)
    for name in ("first", "second"):
        waiting = replace(bench.waiting(name, bench.changed()), look_at=time.monotonic() + 0.4)
        watcher.watch(PROJECT, CLUSTER, waiting)
        assert bench.ended(name)
        assert atlas.polls.pop() >= waiting.look_at


def test_a_watched_clusters_change_leaves_the_turn_to_the_watcher(bench: Bench) -> None:
    _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=True)
    assert not status["turn"]
    assert bench.status.look(PROJECT, CLUSTER)["turn"]


def test_no_other_worker_polls_while_an_answer_is_outstanding(bench: Bench) -> None:
    bench.status = replace(bench.status, in_flight_ms=60_000)
    assert bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)[1]["turn"]
    time.sleep(0.3)
    assert not bench.status.look(PROJECT, CLUSTER)["turn"]


def test_a_poll_that_fails_leaves_the_turn_to_others(bench: Bench) -> None:
    _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    with pytest.raises(NoAnswer):
        bench.status.poll(Atlas([NoAnswer("no answer")]).client, CLUSTER, status)
    time.sleep(0.15)
    assert bench.status.look(PROJECT, CLUSTER)["turn"]


def test_an_applied_that_was_asked_for_before_a_late_pending_came_confirms_nothing(bench: Bench) -> None:
    bench.status = replace(bench.status, settle_seconds=60)
    arrives, applied, change = threading.Event(), Atlas(["APPLIED"]), bench.changed()
    (first,) = turns(bench, 1)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(bench.status.poll, Atlas([arrives, "PENDING"]).client, CLUSTER, first)
        (second,) = turns(bench, 1)
        assert not bench.status.is_applied(change, bench.status.poll(applied.client, CLUSTER, second))
        arrives.set()
        late.result()
    status = bench.status.look(PROJECT, CLUSTER)
    assert change.at < status["pending_at"] < status["applied_at"]
    assert not bench.status.is_applied(change, status)
    (third,) = turns(bench, 1)
    assert bench.status.is_applied(change, bench.status.poll(applied.client, CLUSTER, third))


def test_without_a_share_of_the_rate_limit_left_nothing_is_asked(bench: Bench) -> None:
    bench.budget, atlas = 0, Atlas(["APPLIED"])
    change, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    status = bench.status.poll(atlas.client, CLUSTER, status)
    assert atlas.polls == []
    assert not bench.status.is_applied(change, status)
    found = bench.store.housekeeping.find_one({"_id": status["_id"]}) or {}
    assert found["next_poll"] - found["answered_at"] == timedelta(seconds=NO_BUDGET_SECONDS)
    later = {"$set": {"next_poll": {"$add": ["$next_poll", 60_000]}}}
    bench.store.housekeeping.update_one({"_id": status["_id"]}, [later])
    time.sleep(0.15)  # after a poll that was sent, the next turn would be free by now
    assert not bench.status.look(PROJECT, CLUSTER)["turn"]


def test_a_change_that_is_noted_after_a_poll_began_is_not_confirmed_by_it(bench: Bench) -> None:
    _, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    later, _ = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    assert not bench.status.is_applied(later, bench.status.poll(Atlas(["APPLIED"]).client, CLUSTER, status))


def test_one_poll_ends_all_that_wait(bench: Bench, messages: Client) -> None:
    atlas, names = Atlas(["PENDING", "PENDING", "APPLIED"]), [f"b{n}" for n in range(50)]
    watcher, change = bench.watcher(atlas), bench.changed()
    for each in [bench.waiting(name, change) for name in names]:
        watcher.watch(PROJECT, CLUSTER, each)
    assert bench.ended(*names)
    found = bench.record("b7")
    assert (found.phase, found.operation.description, found.operation.open) == (Phase.READY, "It works.", False)
    step = found.operation.steps["apply"]
    assert (step.result, step.runs, step.last) == ("done", 1, found.operation.finished)
    assert len(atlas.polls) == 3
    eventually(lambda: sorted(bench.shown) == sorted((name, "It works.") for name in names), "Flower shows it")
    assert sent(messages) == 0


def test_two_workers_share_the_polls(bench: Bench) -> None:
    # No answer is then so late that the other worker asks again.
    bench.status = replace(bench.status, in_flight_ms=60_000)
    atlas, change = Atlas(["PENDING"] * 4 + ["APPLIED"]), bench.changed()
    for name in ("mine", "anothers"):
        bench.watcher(atlas).watch(PROJECT, CLUSTER, bench.waiting(name, change))
    assert bench.ended("mine", "anothers")
    assert len(atlas.polls) == 5


def test_what_has_another_step_to_run_is_sent(bench: Bench, messages: Client) -> None:
    change = bench.changed()
    bench.watcher(Atlas(["APPLIED"])).watch(PROJECT, CLUSTER, bench.waiting("b", change, None))
    eventually(lambda: sent(messages) == 1, "the job is sent")
    assert bench.record("b").operation.waits_on is None
    assert bench.record("b").operation.open


@pytest.mark.parametrize(
    "fields",
    [
        {"operation.fence": 7},
        {"operation.waits_on": None},
        {"operation.state": "failed"},
    ],
    ids=["claimed or replaced", "not waiting", "past its deadline"],
)
def test_an_operation_that_has_changed_meanwhile_is_left_alone_and_jobs_show_what_has_ended(
    bench: Bench, messages: Client, fields: dict[str, object]
) -> None:
    both = threading.Event()  # both are watched, so that one write ends them
    watcher, change = bench.watcher(Atlas([both, "APPLIED"])), bench.changed()
    changed, other = bench.waiting("changed", change), bench.waiting("other", change)
    bench.store.collection.update_one({"_id": changed.due.key}, {"$set": fields})
    before = bench.record("changed")
    with capture_logs() as lines:
        for each in (changed, other):
            watcher.watch(PROJECT, CLUSTER, each)
        both.set()
        assert bench.ended("other")
        assert bench.record("changed") == before
        eventually(lambda: sent(messages) == 2, "the jobs are sent")
    assert bench.shown == []
    assert "operation_finished" not in [line["event"] for line in lines]


def test_without_another_thread_an_operation_is_left_to_the_sweeper(bench: Bench) -> None:
    watcher, waiting = bench.watcher(Atlas(["APPLIED"])), bench.waiting("b", bench.changed())
    usual = threading.stack_size(1 << 46)  # more than the system gives a thread
    try:
        watcher.watch(PROJECT, CLUSTER, waiting)
    finally:
        threading.stack_size(usual)
    assert not watcher.watches(PROJECT, CLUSTER)
    watcher.watch(PROJECT, CLUSTER, waiting)
    assert bench.ended("b")


def test_a_refusal_ends_the_watch_and_is_told_to_each_job(bench: Bench, messages: Client) -> None:
    change = bench.changed()
    bench.watcher(Atlas([ClusterNotFound("It is gone.", status=404)])).watch(
        PROJECT, CLUSTER, bench.waiting("b", change)
    )
    eventually(lambda: sent(messages) == 1, "the job is sent")
    status = bench.status.look(PROJECT, CLUSTER)
    with pytest.raises(ClusterNotFound, match="It is gone"):
        bench.status.raise_refusal(change, status)
    later, status = bench.status.note_change(PROJECT, CLUSTER, urgent=True, watched=False)
    bench.status.raise_refusal(later, status)  # a later change asks again


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NoAnswer("Atlas does not answer."), "Atlas does not answer (for the cluster cluster). It is tried again."),
        (HeldBackError(9, "The circuit is open."), "The circuit is open. It is tried again."),
    ],
    ids=["no answer", "held back"],
)
def test_users_read_why_a_poll_has_failed_and_it_is_repeated(
    bench: Bench, messages: Client, error: Exception, sentence: str
) -> None:
    both, told = threading.Event(), threading.Event()  # both are watched; the trouble was seen
    atlas, change = Atlas([both, "PENDING", error, told, "APPLIED"]), bench.changed()
    watcher = bench.watcher(atlas)
    for each in [bench.waiting(name, change) for name in ("a", "b")]:
        watcher.watch(PROJECT, CLUSTER, each)
    both.set()
    eventually(lambda: bench.record("b").operation.description == sentence, "the trouble is told")
    told.set()
    assert bench.ended("a", "b")
    assert f"{bench.record('a').operation.steps['apply'].reason} It is tried again." == sentence
    assert (len(atlas.polls), sent(messages)) == (3, 0)


def test_a_defect_does_not_end_the_watch(bench: Bench) -> None:
    atlas, change = Atlas([ValueError("a defect"), "APPLIED"]), bench.changed()
    bench.watcher(atlas).watch(PROJECT, CLUSTER, bench.waiting("b", change))
    assert bench.ended("b")


def test_a_worker_that_stops_sends_what_it_watches(bench: Bench, messages: Client) -> None:
    atlas, change = Atlas(["PENDING"]), bench.changed()
    bench.watcher(atlas).watch(PROJECT, CLUSTER, bench.waiting("b", change))
    eventually(lambda: len(atlas.polls) > 1, "the first poll was dealt with")
    assert sent(messages) == 0
    bench.stopping.set()
    eventually(lambda: sent(messages) == 1, "the job is sent")


def test_the_sweeper_leaves_alone_what_a_worker_watches(bench: Bench) -> None:
    """The worker writes a later due time before the last one comes. Here that one is far, for slow machines."""
    assert KEEP_SECONDS + PAUSE_MS / 1000 < UNWATCHED_SECONDS - 1
    change, watcher = bench.changed(), bench.watcher(Atlas(["PENDING"]))
    watcher.unwatched_seconds = 60
    watcher.watch(PROJECT, CLUSTER, bench.waiting("watched", change))
    bench.waiting("left", change)
    bench.store.collection.update_many({}, [{"$set": {"operation.due": "$$NOW"}}])
    eventually(lambda: [due.binding_id for due in bench.claims.due(10)] == ["left"], "only the other one is due")
    bench.claims.make_all_due(NAME, unwatched=True)
    assert bench.record("left").operation.waits_on is None
    assert bench.record("watched").operation.waits_on == NAME


def test_a_cluster_is_watched_again_after_all_have_ended(bench: Bench) -> None:
    watcher = bench.watcher(Atlas(["APPLIED"]))
    for name in ("first", "second"):
        watcher.watch(PROJECT, CLUSTER, bench.waiting(name, bench.changed()))
        assert bench.ended(name)
