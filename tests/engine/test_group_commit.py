"""Updates and reads of several threads that share a command: each thread learns what has become of its own."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.combiner import Combiner
from broker_api.state.fields import BindingFields
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import Document, connect
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claim, Claims, LeaseLostError
from broker_api.state.records import EPOCH, Kind, Operation, Phase, State, binding_key
from broker_api.state.store import Store
from tests.dev.services import Mongod
from tests.together import together
from workers.clusters.change_status import Change, ClusterStatus, Status

NAMES = ["a", "b", "c"]


class Commands(monitoring.CommandListener):
    """The names of the commands that were sent; ``after`` is called once, when one of them has succeeded."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.after: dict[str, Any] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if call := self.after.pop(event.command_name, None):
            call()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def watched(store: Store, state_mongod: Mongod, commands: Commands) -> Iterator[Store]:
    """The same store by a connection whose commands are listed."""
    database = store.collection.database.name
    client: MongoClient[Document] = MongoClient(state_mongod.uri, tz_aware=True, event_listeners=[commands])
    with client:
        watched = Store(client, database, store.collection.name)
        watched.now()
        commands.names.clear()
        yield watched


def begin(store: Store, name: str, current: Operation | None = None) -> str | None:
    return store.create(BindingFields(instance_id="i", binding_id=name), NewOperation(Kind.BIND), current)


def claimed(store: Store, name: str) -> Claim[Any]:
    claim = Claims(store).claim(binding_key("i", name), begin(store, name) or "")
    assert claim
    return claim


def updates(store: Store) -> Combiner[Any, Any]:
    return store.commits


def operation(store: Store, name: str) -> Operation:
    found = store.binding("i", name)
    assert found
    return found.operation


def test_operations_that_begin_at_once_are_written_by_one_command(watched: Store, commands: Commands) -> None:
    ids = [end.result() for end in together(updates(watched), *(partial(begin, watched, name) for name in NAMES))]
    assert commands.names == ["update"]
    assert ids == [operation(watched, name).id for name in NAMES]


def test_of_two_requests_for_the_same_binding_in_one_command_one_begins(watched: Store, commands: Commands) -> None:
    ends = together(updates(watched), *(partial(begin, watched, name) for name in ["a", "a", "b"]))
    first, second, other = (end.result() for end in ends)
    assert commands.names == ["update"]
    assert (second, other) == (None, operation(watched, "b").id)
    assert first == operation(watched, "a").id


def test_of_two_deletes_of_the_same_binding_in_one_command_one_begins(watched: Store, commands: Commands) -> None:
    for name in NAMES:
        begin(watched, name)
    current = {name: operation(watched, name) for name in NAMES}
    commands.names.clear()

    def unbind(name: str) -> str | None:
        return watched.start(binding_key("i", name), current[name], NewOperation(Kind.UNBIND), Phase.DELETING)

    ends = together(updates(watched), *(partial(unbind, name) for name in ["a", "b", "a"]))
    first, other, second = (end.result() for end in ends)
    assert commands.names == ["update", "find"]  # MongoDB does not tell which one of them it has not applied
    assert (first, other) == (operation(watched, "a").id, operation(watched, "b").id)
    assert second is None


def test_claims_share_an_update_and_a_read_and_one_in_vain_gets_none(watched: Store, commands: Commands) -> None:
    ids = {name: begin(watched, name) or "" for name in NAMES}
    claims = Claims(watched, "a worker")
    assert claims.claim(binding_key("i", "b"), ids["b"])  # another message has brought it
    commands.names.clear()
    calls = [partial(claims.claim, binding_key("i", name), ids[name]) for name in NAMES]
    found = [end.result() for end in together(updates(watched), *calls)]
    assert commands.names == ["update", "find"]
    assert [claim and claim.operation_id for claim in found] == [ids["a"], None, ids["c"]]
    assert {claim.record.operation.lease_token for claim in found if claim} == {claim.token for claim in found if claim}


def test_a_claim_whose_operation_is_replaced_before_the_read_gives_the_lease_back(
    store: Store, watched: Store, commands: Commands
) -> None:
    ids = {name: begin(watched, name) or "" for name in NAMES}
    current = operation(watched, "a")
    unbind = NewOperation(Kind.UNBIND)
    commands.after["update"] = lambda: store.start(binding_key("i", "a"), current, unbind, Phase.DELETING)
    claims = Claims(watched, "a worker")
    calls = [partial(claims.claim, binding_key("i", name), ids[name]) for name in NAMES]
    found = [end.result() for end in together(updates(watched), *calls)]
    assert [claim and claim.operation_id for claim in found] == [None, ids["b"], ids["c"]]
    latest = operation(store, "a")
    assert latest.kind is Kind.UNBIND
    assert latest.lease_token is None
    assert claims.claim(binding_key("i", "a"), latest.id)


WRITES = {
    "advance": lambda claims, claim: claims.advance(claim, None, {"step": "next"}),
    "reschedule": lambda claims, claim: claims.reschedule(claim, 60.0, None, {"step": "next"}),
    "finish": lambda claims, claim: claims.finish(claim, State.SUCCEEDED, Phase.READY, None, "Done."),
}


@pytest.mark.parametrize("write", WRITES)
def test_of_writes_in_one_command_only_that_under_a_lost_lease_is_refused(watched: Store, write: str) -> None:
    claims, held = Claims(watched, "a worker"), {name: claimed(watched, name) for name in NAMES}
    key = binding_key("i", "b")
    watched.collection.update_one({"_id": key}, {"$set": {"operation.lease_until": EPOCH}})
    assert Claims(watched, "another").claim(key, held["b"].operation_id)
    before = watched.collection.find_one({"_id": key})
    calls = [partial(WRITES[write], claims, held[name]) for name in NAMES]
    ends = together(updates(watched), *calls)
    assert [type(end.exception()) for end in ends] == [type(None), LeaseLostError, type(None)]
    assert watched.collection.find_one({"_id": key}) == before
    for name, end in zip(["a", "c"], ends[::2], strict=True):
        changed = operation(watched, name)
        assert changed.step == ("" if write == "finish" else "next")
        assert changed.open is (write != "finish")
        if write == "advance":
            leased = {"lease_until"}  # the worker's own estimate of MongoDB's time
            assert end.result().record.operation.model_dump(exclude=leased) == changed.model_dump(exclude=leased)


def test_a_value_that_cannot_be_stored_refuses_only_the_write_that_has_it(watched: Store) -> None:
    held = {name: claimed(watched, name) for name in NAMES}
    claims = Claims(watched, "a worker")
    calls = [
        partial(claims.reschedule, held[name], 60.0, None, {"attempts": 2**70 if name == "b" else 7}) for name in NAMES
    ]
    failures = [end.exception() for end in together(updates(watched), *calls)]
    assert [failure is None for failure in failures] == [True, False, True]
    assert [operation(watched, name).attempts for name in NAMES] == [7, 0, 7]


def test_without_mongodb_each_thread_gets_the_error() -> None:
    with connect("mongodb://127.0.0.1:9", timeout_ms=200) as client:
        store = Store(client, "nowhere", "instances")
        ends = together(updates(store), *(partial(begin, store, name) for name in NAMES))
        assert all(isinstance(end.exception(), ErrStorageMongoConnection) for end in ends)


def test_while_mongodb_hangs_a_thread_that_has_waited_for_another_one_gets_its_error_soon() -> None:
    timeout = 2.0
    with Mongod("mongod-hanging") as server, connect(server.uri, timeout_ms=int(timeout * 1000)) as client:
        store = Store(client, "hanging", "instances")
        begin(store, "before")
        server.pause()
        ends: list[float] = []

        def ask() -> None:
            began = time.monotonic()
            with pytest.raises(ErrStorageMongoConnection):
                begin(store, "during")
            ends.append(time.monotonic() - began)

        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(ask) for _ in range(8)]:
                each.result()
        server.resume()
        assert max(ends) < 1.6 * timeout  # and not twice
        assert begin(store, "after")


def test_documents_that_threads_look_for_at_once_are_read_by_one_command(watched: Store, commands: Commands) -> None:
    ids = {name: begin(watched, name) for name in ["a", "c"]}
    commands.names.clear()
    reads = watched._documents  # noqa: SLF001 - the test lets several threads ask it at once
    ends = together(reads, *(partial(watched.binding, "i", name) for name in ["a", "c", "a"]))
    assert commands.names == ["find"]
    assert [found and found.operation.id for found in (end.result() for end in ends)] == [ids["a"], ids["c"], ids["a"]]


def test_binds_of_several_instances_at_once_get_what_is_theirs(watched: Store, commands: Commands) -> None:
    for instance in ("one", "two"):
        watched.create({"instance_id": instance}, NewOperation(Kind.PROVISION), None)
        for slot in (3, 5) if instance == "one" else (4,):
            fields: Any = {"instance_id": instance, "binding_id": f"b{slot}", "slot": slot}
            watched.create(fields, NewOperation(Kind.BIND), None)
    commands.names.clear()
    pairs = [("one", "b3"), ("two", "new"), ("three", "new"), ("two", "b4")]
    reads = watched._bind_reads  # noqa: SLF001 - the test lets several threads ask it at once
    calls = [partial(watched.instance_and_binding, *pair, binding_key(*pair)) for pair in pairs]
    found = [end.result() for end in together(reads, *calls)]
    assert commands.names.count("aggregate") == 1
    assert [instance and instance.instance_id for instance, _, _ in found] == ["one", "two", None, "two"]
    assert [binding and binding.binding_id for _, binding, _ in found] == ["b3", None, None, "b4"]
    assert [room.slots for _, _, room in found] == [{3, 5}, {4}, frozenset(), {4}]


def test_changes_that_are_noted_at_once_count_as_overlapping_and_one_takes_the_turn(
    watched: Store, commands: Commands
) -> None:
    status = ClusterStatus(Housekeeping(watched), 0.0, {})
    note = partial(status.note_change, urgent=True, watched=False)
    calls = [partial(note, "project", cluster) for cluster in ("shared", "alone", "shared", "shared")]
    commands.names.clear()
    ends = together(status._notes, *calls)  # noqa: SLF001 - the test lets several threads ask it at once
    assert commands.names == ["findAndModify"] * 2
    noted: list[tuple[Change, Status]] = [end.result() for end in ends]
    shared, alone = [noted[0], *noted[2:]], noted[1]
    assert [bool(found["turn"]) for _, found in shared] == [True, False, False]
    assert {change.overlapped for change, _ in shared} == {True}
    assert alone[1]["turn"]
    assert not alone[0].overlapped
