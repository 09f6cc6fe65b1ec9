"""Requests to Atlas that may take effect although their answer was lost: MongoDB remembers until when, on each path."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from bson.timestamp import Timestamp

from broker_api.state.database_reservations import Reservations
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claims
from broker_api.state.operator_actions import OperatorActions
from broker_api.state.records import Instance, Kind, Phase, State, instance_key
from broker_api.state.store import Store
from tests.engine.conftest import Bench, Hopeless, ServiceDown, Step, raising
from workers.engine.job import Job
from workers.engine.results import Done, Later, Next, Result

SECOND = timedelta(seconds=1)
LATE = frozenset({Step.FIRST})


def doubted(bench: Bench) -> datetime:
    """Let an attempt lose its answer; return the end of the doubt."""
    until = bench.work({Step.FIRST: raising(ServiceDown())}, late_effects=LATE).unsure_until
    bench.change(due=datetime.now(UTC) - SECOND)
    assert until
    return until


def test_a_worker_that_lost_its_lease_leaves_the_doubt_of_an_earlier_attempt(bench: Bench) -> None:
    until = doubted(bench)

    def answered(_: Job[Instance]) -> Result[Any]:
        bench.change(fence=99)
        return Next(Step.SECOND)

    found = bench.work({Step.FIRST: answered, Step.SECOND: answered}, late_effects=LATE)
    assert (found.operation.lease_token, found.unsure_until) == (None, until)


def test_a_worker_that_lost_its_lease_and_its_answer_leaves_a_new_doubt(bench: Bench) -> None:
    until = doubted(bench)

    def lost(_: Job[Instance]) -> Result[Any]:
        bench.change(fence=99)
        raise ServiceDown

    now = bench.work({Step.FIRST: lost}, late_effects=LATE).unsure_until
    assert now
    assert now > until


def test_an_error_that_ends_the_operation_leaves_a_doubt_for_its_undo(bench: Bench) -> None:
    seen: list[datetime | None] = []

    def clean_up(job: Job[Instance]) -> Result[Any]:
        seen.append(job.record.unsure_until)
        return Done(Phase.FAILED, "")

    before = bench.store.now()
    bench.work({Step.FIRST: raising(Hopeless())}, clean_up, late_effects=LATE)
    assert seen[0]
    assert seen[0] >= before + 30 * SECOND


def test_a_step_that_goes_back_to_one_that_sends_says_so(bench: Bench) -> None:
    bench.work({Step.FIRST: lambda _: Later(60, "Again.", step=Step.SECOND)}, late_effects=frozenset({Step.SECOND}))
    assert bench.record.operation.in_flight


def expire(store: Store, _: Instance) -> None:
    store.collection.update_many({}, {"$set": {"operation.deadline": datetime.now(UTC) - SECOND}})
    assert Claims(store).expire()


def cancel(store: Store, found: Instance) -> None:
    OperatorActions(store, Reservations(Housekeeping(store)), "me").cancel(found)


def delete(store: Store, found: Instance) -> None:
    assert store.start(found.key, found.operation, NewOperation(Kind.DEPROVISION), Phase.DELETING)


def create_again(store: Store, found: Instance) -> None:
    assert store.create({"instance_id": found.instance_id}, NewOperation(Kind.PROVISION), found.operation)


@pytest.mark.parametrize("stop", [expire, cancel, delete, create_again])
@pytest.mark.parametrize("held_for", [10 * SECOND, -5 * SECOND], ids=["a worker runs it", "its worker has died"])
def test_a_request_that_a_worker_may_have_sent_is_in_doubt_after_its_lease(
    bench: Bench, stop: Callable[[Store, Instance], None], held_for: timedelta
) -> None:
    lease_until = bench.store.now() + held_for
    bench.change(in_flight=True, lease_token="its own", lease_until=lease_until)
    stop(bench.store, bench.record)
    now = bench.record
    assert (now.unsure_until, now.operation.in_flight) == (lease_until + 15 * SECOND, False)


def test_a_request_of_a_worker_that_has_died_is_in_doubt_for_the_next_one(bench: Bench) -> None:
    lease_until = bench.store.now() - SECOND
    bench.change(in_flight=True, lease_token="its own", lease_until=lease_until)
    claim = bench.claims.claim(bench.key, bench.operation_id)
    assert claim
    assert claim.record.unsure_until == lease_until + 15 * SECOND


@pytest.mark.parametrize("stop", [expire, cancel, delete, create_again])
def test_what_stops_an_operation_that_sends_nothing_keeps_an_earlier_doubt(
    bench: Bench, stop: Callable[[Store, Instance], None]
) -> None:
    until = doubted(bench)
    stop(bench.store, bench.record)
    assert bench.record.unsure_until == until


BROKEN_LEASES = ["soon", 7, None, [datetime.now(UTC)], DatetimeMS(2**63 - 1), Timestamp(2**31, 1)]


def test_operations_end_at_their_deadline_beside_those_with_broken_leases(bench: Bench) -> None:
    store, late = bench.store, {"operation.deadline": datetime.now(UTC) - SECOND}
    for number, lease in enumerate(BROKEN_LEASES):
        store.create({"instance_id": f"broken-{number}"}, NewOperation(Kind.PROVISION), None)
        broken = {"operation.in_flight": True, "operation.lease_token": "t", "operation.lease_until": lease}
        store.collection.update_one({"_id": instance_key(f"broken-{number}")}, {"$set": broken})
    store.collection.update_many({}, {"$set": late})
    assert len(bench.claims.expire()) == len(BROKEN_LEASES) + 1
    assert bench.record.operation.state is State.FAILED
    assert store.collection.count_documents({"operation.state": State.FAILED}) == len(BROKEN_LEASES) + 1
