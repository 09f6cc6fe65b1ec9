"""How one operation is run, in this process, on the real MongoDB."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from prometheus_client import REGISTRY
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from broker_api.errors import ErrStorageMongoConnection, TamperedError
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import LeaseLostError
from broker_api.state.records import Instance, Kind, Phase, State
from broker_api.state.store import Store
from tests.engine.conftest import Bench, Hopeless, ServiceDown, Step, raising
from workers.engine.job import Job
from workers.engine.results import Done, Ended, FailedError, HeldBackError, Later, Next, Result, Waits
from workers.engine.runner import NOTHING_TO_DO, UNDO_ATTEMPTS

AnyJob = Job[Instance]


def done(_: AnyJob) -> Result[Any]:
    return Done(Phase.READY, "It is ready.")


def test_steps_run_in_order_and_the_record_keeps_their_changes(bench: Bench) -> None:
    found = bench.work({Step.FIRST: lambda _: Next(Step.SECOND, {"database": "shop"}), Step.SECOND: done})
    assert bench.ran == ["first", "second"]
    assert (found.phase, found.database) == (Phase.READY, "shop")
    assert (found.operation.state, found.operation.description) == (State.SUCCEEDED, "It is ready.")
    assert not found.operation.open


def test_a_step_sees_what_the_one_before_it_has_written(bench: Bench) -> None:
    seen = []

    def second(job: AnyJob) -> Result[Any]:
        seen.append(job.record.database)
        return done(job)

    bench.work({Step.FIRST: lambda _: Next(Step.SECOND, {"database": "shop"}), Step.SECOND: second})
    assert seen == ["shop"]


def test_what_something_else_changes_between_two_steps_is_not_used_and_refused_later(store: Store) -> None:
    store.macs.vault.replace((Fernet.generate_key().decode(),))
    bench, seen = Bench(store), []

    def first(_: AnyJob) -> Result[Any]:
        store.collection.update_one({"_id": bench.key}, {"$set": {"cluster": "theirs"}})
        return Next(Step.SECOND, {"database": "shop"})

    def second(job: AnyJob) -> Result[Any]:
        seen.append((job.record.cluster, job.record.database))
        return done(job)

    bench.work({Step.FIRST: first, Step.SECOND: second})
    assert seen == [(None, "shop")]
    with pytest.raises(TamperedError):
        store.instance("i")


def test_a_message_that_comes_twice_finds_nothing_to_do(bench: Bench) -> None:
    bench.work({Step.FIRST: done})
    bench.work({Step.FIRST: done})
    assert bench.ran == ["first"]


def test_a_message_of_another_operation_finds_nothing_to_do(bench: Bench) -> None:
    bench.operation_id = "provision-of-before"
    bench.work({Step.FIRST: done})
    assert bench.ran == []


def test_waiting_gives_the_claim_back_and_tells_the_platform_why(bench: Bench) -> None:
    found = bench.work({Step.FIRST: lambda _: Later(60, "Waiting for a reason.", operation={"waits_on": "p/c"})})
    operation = found.operation
    assert (operation.state, operation.description) == (State.IN_PROGRESS, "Waiting for a reason.")
    assert (operation.waits_on, operation.lease_token) == ("p/c", None)
    assert operation.due > bench.store.now() + timedelta(seconds=50)
    assert operation.lease_until <= bench.store.now()


def test_what_waits_is_not_run_before_its_time(bench: Bench) -> None:
    for _ in range(2):
        bench.work({Step.FIRST: lambda _: Later(60, "Not yet.")})
    assert bench.ran == ["first"]


def test_what_waits_goes_on_with_the_same_step_or_with_the_one_it_names(bench: Bench) -> None:
    bench.work({Step.FIRST: lambda _: Later(0, "Not yet.")})
    bench.work({Step.FIRST: lambda _: Later(0, "Not yet.", step=Step.SECOND), Step.SECOND: done})
    bench.work({Step.FIRST: done, Step.SECOND: done})
    assert bench.ran == ["first", "first", "second"]


def test_a_failure_removes_what_was_made_before_the_operation_ends(bench: Bench) -> None:
    seen = []

    def clean_up(job: AnyJob) -> Result[Any]:
        seen.append((job.operation.state, job.operation.undo))
        return Done(Phase.FAILED, "")

    found = bench.work({Step.FIRST: raising(FailedError("There is no such cluster.", refused=True))}, clean_up)
    assert seen == [(State.IN_PROGRESS, True)]
    assert (found.operation.state, found.operation.description) == (State.FAILED, "There is no such cluster.")
    assert (found.phase, found.operation.refused) == (Phase.FAILED, True)


def test_a_removal_that_fails_is_tried_again(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(FailedError("No."))}, raising(FailedError("Cannot remove it.")))
    assert (found.operation.state, found.operation.open) == (State.IN_PROGRESS, True)
    assert found.operation.error == "Cannot remove it."
    bench.change(due=datetime.now(UTC) - timedelta(seconds=1))
    assert bench.work({}, None).operation.state is State.FAILED


def test_a_removal_that_fails_for_an_hour_is_left_out_where_its_definition_allows_that(bench: Bench) -> None:
    bench.work({Step.FIRST: raising(FailedError("No."))}, raising(FailedError("Cannot remove it.")))
    due = datetime.now(UTC) - timedelta(seconds=1)
    for attempts, undo_may_fail, is_open in (
        (UNDO_ATTEMPTS, False, True),
        (1, True, True),
        (UNDO_ATTEMPTS, True, False),
    ):
        bench.change(due=due, attempts=attempts)
        found = bench.work({}, raising(FailedError("Cannot remove it.")), undo_may_fail=undo_may_fail)
        assert found.operation.open is is_open
    assert (found.operation.state, found.operation.description) == (State.FAILED, "No.")


def test_known_trouble_is_tried_again_after_a_pause(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(ServiceDown())})
    operation = found.operation
    assert (operation.state, operation.attempts) == (State.IN_PROGRESS, 1)
    assert operation.description == "The service is down. It is tried again."
    assert operation.due > bench.store.now()


def test_attempts_are_counted_and_a_step_that_succeeds_begins_anew(bench: Bench) -> None:
    for expected in (1, 2, 3):
        assert bench.work({Step.FIRST: raising(ServiceDown())}).operation.attempts == expected
        bench.change(due=datetime.now(UTC) - timedelta(seconds=1))
    later = Later[Any](0, "Not yet.")
    assert bench.work({Step.FIRST: lambda _: Next(Step.SECOND), Step.SECOND: lambda _: later}).operation.attempts == 0


def test_trouble_that_no_retry_can_help_fails_the_operation(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(Hopeless())})
    assert (found.operation.state, found.operation.description) == (State.FAILED, "Impossible.")


def test_an_unknown_error_is_tried_again_and_its_text_stays_in_the_log(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(ZeroDivisionError("secret"))})
    assert found.operation.state is State.IN_PROGRESS
    assert "Internal error" in (found.operation.description or "")
    assert "secret" not in found.model_dump_json()


def test_being_held_back_costs_no_attempt(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(HeldBackError(10, "The circuit breaker is open.", "project:p"))})
    assert (found.operation.attempts, found.operation.waits_on) == (0, "project:p")
    assert found.operation.description == "The circuit breaker is open."


def test_a_lost_answer_is_remembered_where_the_step_may_have_had_an_effect(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(ServiceDown())}, late_effects=frozenset({Step.FIRST}))
    assert found.unsure_until is not None
    assert found.unsure_until > bench.store.now()


def test_a_lost_answer_of_another_step_means_nothing(bench: Bench) -> None:
    found = bench.work({Step.FIRST: raising(ServiceDown())}, late_effects=frozenset({Step.SECOND}))
    assert found.unsure_until is None


def test_the_operation_says_when_a_request_may_be_in_flight(bench: Bench) -> None:
    seen = []

    def second(job: AnyJob) -> Result[Any]:
        seen.append(job.operation.in_flight)
        return Next(Step.FIRST)

    def first(job: AnyJob) -> Result[Any]:
        seen.append(job.operation.in_flight)
        return Next(Step.SECOND) if len(seen) == 1 else done(job)

    bench.work({Step.FIRST: first, Step.SECOND: second}, late_effects=frozenset({Step.SECOND}))
    assert seen == [False, True, False]


def test_a_worker_that_is_stopping_hands_the_operation_over(bench: Bench) -> None:
    bench.stopping.set()
    found = bench.work({Step.FIRST: done})
    assert bench.ran == []
    assert found.operation.open
    assert found.operation.due <= bench.store.now()


@pytest.mark.parametrize("fields", [{"step": "polish"}, {"kind": "migrate"}])
def test_what_only_another_release_knows_is_left_to_it(bench: Bench, fields: dict[str, str]) -> None:
    bench.change(**fields)
    found = bench.work({Step.FIRST: done})
    assert bench.ran == []
    assert "another release" in (found.operation.description or "")


def test_a_worker_that_lost_its_lease_writes_nothing_and_cleans_up(bench: Bench) -> None:
    cleaned = []
    bench.on_lease_lost = lambda job: cleaned.append(job.operation.id)

    def taken_over(_: AnyJob) -> Result[Any]:
        bench.change(fence=99)
        return Next(Step.SECOND, {"database": "must not be written"})

    found = bench.work({Step.FIRST: taken_over, Step.SECOND: done})
    assert bench.ran == ["first"]
    assert found.database is None
    assert cleaned == [bench.operation_id]
    assert found.operation.lease_token is None  # given back, so the next claim is no take-over


def test_the_wait_for_the_first_claim_is_counted_once_and_so_is_each_takeover(bench: Bench) -> None:
    def counted() -> list[float]:
        phase = "atlas_broker_operation_seconds_count", {"type": "provision", "phase": "queued"}
        takeovers = "atlas_broker_lease_takeovers_total", {"type": "provision"}
        return [REGISTRY.get_sample_value(*each) or 0 for each in (phase, takeovers)]

    queued, taken_over = counted()
    for _ in range(2):
        bench.work({Step.FIRST: lambda _: Later(0, "Not yet.")})
    assert counted() == [queued + 1, taken_over]
    bench.change(lease_token="of a worker that has died")
    bench.work({Step.FIRST: done})
    assert counted() == [queued + 1, taken_over + 1]


def test_a_step_may_not_begin_a_call_that_could_end_after_the_lease(bench: Bench) -> None:
    def late(job: AnyJob) -> Result[Any]:
        job.lease.until = time.monotonic() - 40
        with pytest.raises(LeaseLostError):
            job.lease.check()
        return done(job)

    assert bench.work({Step.FIRST: late}).operation.state is State.SUCCEEDED


def test_an_operation_past_its_deadline_stays_failed_while_its_leftovers_are_removed(bench: Bench) -> None:
    bench.change(deadline=datetime.now(UTC) - timedelta(seconds=1))
    assert [each["operation"] for each in bench.claims.expire()] == [bench.operation_id]
    found = bench.work({Step.FIRST: done})
    assert bench.ran == ["clean up"]
    assert (found.operation.state, found.operation.open, found.phase) == (State.FAILED, False, Phase.FAILED)
    assert "deadline" in (found.operation.description or "")


def test_a_step_that_may_be_repeated_is_written_with_the_next_one(bench: Bench) -> None:
    seen = []

    def second(job: AnyJob) -> Result[Any]:
        seen.append((job.record.database, job.operation.step, bench.record.database, bench.record.operation.step))
        return Later(60, "Waiting.")

    bench.work({Step.FIRST: lambda _: Next(Step.SECOND, {"database": "shop"}, repeatable=True), Step.SECOND: second})
    assert seen == [("shop", "second", None, "")]
    assert (bench.record.database, bench.record.operation.step) == ("shop", "second")


def test_a_step_that_may_be_repeated_runs_again_when_the_next_one_was_not_written(bench: Bench) -> None:
    def lost(_: AnyJob) -> Result[Any]:
        raise LeaseLostError

    def first(_: AnyJob) -> Result[Any]:
        return Next(Step.SECOND, {"database": "shop"}, repeatable=True)

    bench.work({Step.FIRST: first, Step.SECOND: lost})
    assert bench.record.database is None
    found = bench.work({Step.FIRST: first, Step.SECOND: done})
    assert bench.ran == ["first", "second", "first", "second"]
    assert (found.database, found.operation.state) == ("shop", State.SUCCEEDED)


def test_trouble_after_a_step_that_may_be_repeated_keeps_its_changes(bench: Bench) -> None:
    bench.work(
        {
            Step.FIRST: lambda _: Next(Step.SECOND, {"database": "shop"}, {"attempts": 0}, repeatable=True),
            Step.SECOND: raising(ServiceDown()),
        }
    )
    operation = bench.record.operation
    assert (bench.record.database, operation.step, operation.attempts) == ("shop", "second", 1)


# --- the state of the job, which Flower shows -------------------------------------------------------------------


def test_a_job_ends_as_its_operation(bench: Bench) -> None:
    bench.work({Step.FIRST: done})
    assert bench.outcome == Ended(State.SUCCEEDED, "It is ready.")


def test_a_failure_is_a_failed_job_with_the_sentence_of_the_operation(bench: Bench) -> None:
    bench.work({Step.FIRST: raising(FailedError("There is no such cluster."))})
    assert bench.outcome == Ended(State.FAILED, "There is no such cluster.")


def test_what_is_put_off_says_why_and_for_how_long(bench: Bench) -> None:
    bench.work({Step.FIRST: lambda _: Later(60, "Not yet.")})
    assert bench.outcome == Waits("Not yet.", 60)
    bench.change(due=datetime.now(UTC) - timedelta(seconds=1))
    bench.work({Step.FIRST: raising(ServiceDown())})
    assert isinstance(bench.outcome, Waits)
    assert bench.outcome.description == "The service is down. It is tried again."
    assert bench.outcome.seconds is not None
    bench.change(due=datetime.now(UTC) - timedelta(seconds=1))
    bench.work({Step.FIRST: lambda _: Later(60, "Until Atlas is done.", operation={"waits_on": "p/c"})})
    assert bench.outcome == Waits("Until Atlas is done.")


def test_a_repeated_message_finds_the_end_that_the_first_one_brought(bench: Bench) -> None:
    bench.work({Step.FIRST: raising(FailedError("There is no such cluster."))})
    first = bench.outcome
    bench.work({Step.FIRST: done})
    assert bench.outcome == first


def test_a_repeated_message_finds_why_the_operation_waits(bench: Bench) -> None:
    for _ in range(2):
        bench.work({Step.FIRST: lambda _: Later(60, "Not yet.")})
    assert isinstance(bench.outcome, Waits)
    assert bench.outcome.description == "Not yet."
    assert 50 < (bench.outcome.seconds or 0) <= 60


def test_a_message_of_another_operation_ends_with_nothing_to_do(bench: Bench) -> None:
    bench.operation_id = "provision-of-before"
    bench.work({Step.FIRST: done})
    assert bench.outcome == Ended(State.SUCCEEDED, NOTHING_TO_DO)


def test_a_message_for_an_operation_that_another_worker_runs_says_nothing_of_its_state(bench: Bench) -> None:
    bench.change(lease_until=datetime.now(UTC) + timedelta(seconds=60))
    bench.work({Step.FIRST: done})
    assert bench.outcome is None


def test_each_job_logs_its_end_once_and_from_its_claim_on_the_request(bench: Bench) -> None:
    bench.change(request_id="a-request")
    with capture_logs(processors=[merge_contextvars]) as lines:
        bench.work({Step.FIRST: raising(ErrStorageMongoConnection("a step", "it is away"))})
        interrupted = [*lines]
        bench.work({Step.FIRST: done})
        bench.keys = KeyCheck(Housekeeping(bench.store), Vault((Fernet.generate_key().decode(),)))
        bench.work({Step.FIRST: done})
    assert [line["event"] for line in lines if line["event"] != "encryption_keys_wrong"] == [
        *("operation_interrupted", "job_finished"),
        *("operation_not_claimable", "job_finished"),
        "job_finished",
    ]
    assert [line["request_id"] for line in interrupted] == ["a-request", "a-request"]
    assert [line["outcome"] for line in lines if line["event"] == "job_finished"] == ["Waits", "NoneType", "Waits"]


# --- the life of the operation, which operators read ------------------------------------------------------------


def test_each_step_leaves_its_times_its_runs_and_its_last_reason(bench: Bench) -> None:
    before = bench.store.now()
    bench.work({Step.FIRST: raising(ServiceDown())})
    bench.change(due=datetime.now(UTC) - timedelta(seconds=1))
    waiting = bench.work(
        {Step.FIRST: lambda _: Next(Step.SECOND), Step.SECOND: lambda _: Later(0, "Not yet.")}
    ).operation
    assert waiting.worker == bench.claims.worker
    assert waiting.claimed is not None
    ended = bench.work({Step.FIRST: done, Step.SECOND: done}).operation
    for steps in (waiting.steps, ended.steps):
        assert list(steps) == ["first", "second"]
    first, second = ended.steps.values()
    assert (first.runs, first.result, first.reason) == (2, "done", "The service is down.")
    assert (second.runs, second.result, second.reason) == (2, "done", "Not yet.")
    assert waiting.steps["second"].result == "put off"
    assert first.worker == second.worker == bench.claims.worker
    earliest = before - timedelta(milliseconds=50)
    times = [time for time in (earliest, first.first, first.last, second.last, ended.finished) if time is not None]
    assert len(times) == 5
    assert times == sorted(times)
    assert second.first == waiting.steps["second"].first


def test_a_step_that_runs_is_seen_before_it_has_ended(bench: Bench) -> None:
    seen: list[Any] = []

    def second(job: AnyJob) -> Result[Any]:
        seen.append(bench.record.operation.steps["second"])
        return done(job)

    bench.work({Step.FIRST: lambda _: Next(Step.SECOND), Step.SECOND: second})
    assert (seen[0].result, seen[0].last, seen[0].runs) == (None, None, 0)
    assert seen[0].first is not None


def test_a_step_written_with_the_next_one_keeps_its_own_times(bench: Bench) -> None:
    def second(job: AnyJob) -> Result[Any]:
        time.sleep(0.05)
        return done(job)

    steps = bench.work({Step.FIRST: lambda _: Next(Step.SECOND, repeatable=True), Step.SECOND: second}).operation.steps
    first, second_life = steps["first"], steps["second"]
    assert first.last is not None
    assert second_life.last is not None
    assert second_life.last - first.last >= timedelta(milliseconds=45)
    assert (first.runs, second_life.runs) == (1, 1)


def test_a_failure_stays_in_the_life_of_its_step_and_in_the_past(bench: Bench) -> None:
    failed = bench.work({Step.FIRST: raising(FailedError("There is no such cluster."))})
    assert [(name, each.result) for name, each in failed.operation.steps.items()] == [
        ("first", "failed"),
        ("clean up", "done"),
    ]
    assert failed.operation.steps["first"].reason == "There is no such cluster."
    assert bench.store.start(bench.key, failed.operation, NewOperation(Kind.DEPROVISION), Phase.DELETING)
    now = bench.record
    assert now.operation.steps == {}
    assert now.past[0].steps == failed.operation.steps
    assert (now.past[0].accepted, now.past[0].finished) == (failed.operation.accepted, failed.operation.finished)


def test_a_long_reason_is_cut_and_a_thousand_runs_take_no_more_room(bench: Bench) -> None:
    def put_off(_: AnyJob) -> Result[Any]:
        return Later(0, "x" * 10_000)

    bench.work({Step.FIRST: put_off})
    bench.change(**{"steps.first.runs": 999})
    steps = bench.work({Step.FIRST: put_off}).operation.steps
    assert (steps["first"].runs, len(steps["first"].reason or "")) == (1000, 500)
    assert len(steps) == 1


def test_handing_over_is_no_run(bench: Bench) -> None:
    bench.stopping.set()
    assert bench.work({Step.FIRST: done}).operation.steps == {}
