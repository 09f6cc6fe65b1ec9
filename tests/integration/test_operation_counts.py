"""The counts of ``/metrics``: right, and at a cost that does not grow with the number of documents."""

import time
from datetime import timedelta
from uuid import uuid4

import pytest

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.broker_state import BrokerState
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.new_operation import NewOperation
from broker_api.state.open_operations import OpenOperations
from broker_api.state.operation_counts import COUNT_PAUSE_SECONDS, OperationCounts
from broker_api.state.records import Kind
from broker_api.state.store import Store
from tests.books import insert_many
from tests.dev.processes import HOST, free_port
from tests.tenant import eventually

MANY = 5_000


def add(store: Store, number: int, kind: str, state: str) -> None:
    operation = {"id": "x", "kind": kind, "state": state, "open": False}
    insert_many(store.collection, [{"_id": f"instance/{uuid4()}", "operation": operation} for _ in range(number)])


def counts(store: Store) -> OperationCounts:
    """Return those of another process."""
    return OperationCounts(store, Housekeeping(store))


def test_open_operations_are_counted_now_and_others_soon(store: Store) -> None:
    add(store, 3, "bind", "succeeded")
    assert store.create({"instance_id": "i"}, NewOperation(Kind.PROVISION), None)
    assert OpenOperations.read(store).by_state == {("provision", "in progress"): 1}
    eventually(lambda: counts(store).read() == {("bind", "succeeded"): 3}, "the others are counted in the background")


def test_one_process_counts_for_all_and_not_again_at_once(store: Store) -> None:
    before, began = store.now(), time.monotonic()
    counts(store).refresh()
    longest = max(COUNT_PAUSE_SECONDS, 100 * (time.monotonic() - began))
    after = store.now()
    add(store, 2, "unbind", "failed")
    other = counts(store)
    other.refresh()
    assert not other.read()
    until = Housekeeping(store).read("operation counts")["until"]
    assert before + timedelta(seconds=COUNT_PAUSE_SECONDS) <= until <= after + timedelta(seconds=longest)
    Housekeeping(store).write("operation counts", {"until": store.now()})
    counts(store).refresh()
    assert other.read() == {("unbind", "failed"): 2}


def test_a_request_reads_as_few_documents_with_many_as_with_none(store: Store) -> None:
    add(store, MANY, "bind", "succeeded")
    counts(store).refresh()
    assert store.create({"instance_id": "i"}, NewOperation(Kind.PROVISION), None)
    database = store.collection.database
    database.command("profile", 2)
    assert counts(store).read() == {("bind", "succeeded"): MANY}
    assert OpenOperations.read(store).due_since.keys() == {"provision"}
    BrokerState.read(Housekeeping(store))
    database.command("profile", 0)
    looks = list(database["system.profile"].find({"ns": {"$regex": r"\.instances"}}))
    assert sum(look.get("docsExamined", 0) + look.get("keysExamined", 0) for look in looks) < 10, looks


def test_without_mongodb_it_is_said_so_and_the_next_count_is_tried_later() -> None:
    with connect(f"mongodb://{HOST}:{free_port()}", 300) as client:
        counted = counts(Store(client, "counts", "instances"))
        began = time.monotonic()
        with pytest.raises(ErrStorageMongoConnection):
            counted.read()
        assert time.monotonic() - began < 5
