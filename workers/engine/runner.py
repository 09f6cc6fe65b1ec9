"""Runs an operation: claims it, runs its steps one after the other, and records the result of each.

When a step fails for good, the undo steps follow, which remove what the operation has created. After them the operation
ends as failed.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import dropwhile, islice
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from broker_api import tracing
from broker_api.errors import ErrStorageMongoConnection, MissingKeyError, TamperedError, UndecryptableError
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.fields import OperationFields
from broker_api.state.mongo import In
from broker_api.state.operation_claims import LEASE_SECONDS, Claim, Claims, LeaseLostError
from broker_api.state.records import CREATES, Binding, Instance, Operation, Phase, State, user_of
from workers import metrics
from workers.engine.backoff import LONGEST_BACKOFF_SECONDS, backoff
from workers.engine.definition import Definition
from workers.engine.job import Job, StepRun
from workers.engine.leases import Lease, LeaseKeeper
from workers.engine.results import (
    Done,
    Ended,
    FailedError,
    HeldBackError,
    Later,
    Next,
    Outcome,
    Result,
    StepTrouble,
    Waits,
)

log = structlog.get_logger(__name__)

OTHER_RELEASE_SECONDS = 5.0
UNDO_ATTEMPTS = 240
"""After how many attempts, an hour's, an undo step is left out if its definition allows that."""
INTERNAL_ERROR = "Internal error of the broker; its operator finds the cause in the log of the workers."
NOTHING_TO_DO = "Nothing to do: the operation has ended."
OTHER_KEYS = "This worker has other encryption keys than the stored data; another worker takes over."
TRACED = ("instance_id", "binding_id", "operation")
"""Those key-values of the log lines of an operation that its span has too."""
LATE_EFFECT_SECONDS = 30.0
"""How long a request whose answer was lost may still take effect."""


def _log_context(record: Instance | Binding) -> dict[str, object]:
    """Return the key-values of each log line of an operation: its ids, and the user that requested it."""
    operation = record.operation
    context = {
        "instance_id": record.instance_id,
        "binding_id": getattr(record, "binding_id", None),
        "operation": operation.id,
        "request_id": operation.request_id,
        **(user_of(operation.identity) if operation.identity else {}),
    }
    return {name: value for name, value in context.items() if value}


def _count_claim(operation: Operation) -> None:
    """Count the first claim of an operation, and a claim that is taken over from another worker."""
    if operation.claimed and operation.claimed == operation.first_claimed:
        seconds = (operation.claimed - operation.accepted).total_seconds()
        with metrics.COUNTING:
            metrics.PHASE_SECONDS.labels(operation.kind, "queued").observe(seconds)
    if operation.taken_over:
        with metrics.COUNTING:
            metrics.TAKEOVERS.labels(operation.kind).inc()
        log.warning("lease_taken_over", step=operation.step)


class Runner:
    """Runs operations.

    Args:
        claims: Claims operations and writes their results.
        leases: Renews the lease of each claim while its steps run.
        keys: Checks the encryption keys before each operation.
        definitions: The definitions by their names (``Job.definition_name``).
        new_job: Creates the job that the steps of an operation receive.
        stopping: Set when the process stops; operations are then released after their current step.
    """

    def __init__(
        self,
        claims: Claims,
        leases: LeaseKeeper,
        keys: KeyCheck,
        *,
        definitions: Mapping[str, Definition[Any]],
        new_job: Callable[[Claim[Any], Lease], Job[Any]],
        stopping: threading.Event,
    ) -> None:
        self._claims = claims
        self._leases = leases
        self._keys = keys
        self._definitions = definitions
        self._new_job = new_job
        self._stopping = stopping

    def work(self, key: str, operation_id: str) -> Outcome:
        """Run the steps of an operation until it ends or has to wait.

        A late or repeated message does no harm, since there is no operation to claim then.

        Args:
            key: The ``_id`` of the document of the instance or binding.
            operation_id: The operation.

        Returns:
            What has become of the operation, also if an earlier message or another worker has brought it there.
        """
        try:
            if self._keys.passes():
                claim = self._claims.claim(key, operation_id)
                if claim is not None:
                    return self._run_claimed(claim)
                outcome = self._look(key, operation_id)
            else:  # a secret that is encrypted with a wrong key is lost; other workers take over
                outcome = Waits(OTHER_KEYS)
        except ErrStorageMongoConnection as error:
            outcome = _interrupted(key, error)
        log.info("job_finished", outcome=type(outcome).__name__)
        return outcome

    def _run_claimed(self, claim: Claim[Any]) -> Outcome:
        """Run the steps of a claimed operation; each line of the log has the ids of its request."""
        record, operation = claim.record, claim.record.operation
        context = _log_context(record)
        ids = {name: str(value) for name, value in context.items() if name in TRACED}
        # The span continues the trace of the request that started the operation.
        span = tracing.span(f"atlas.{operation.kind}", "CONSUMER", parent=operation.traceparent, attributes=ids)
        with bound_contextvars(**context):
            try:
                with span, self._leases.holding(claim) as lease:
                    _count_claim(operation)
                    job = self._new_job(claim, lease)
                    definition = self._definitions.get(job.definition_name)
                    try:
                        # One that only another release knows is left to its workers.
                        outcome = self._check_record(job) if definition else None
                        while outcome is None:
                            outcome = self._run_next_step(job, definition)
                    except LeaseLostError:
                        self._give_up(job, definition)
                        outcome = None
            except ErrStorageMongoConnection as error:
                outcome = _interrupted(record.key, error)
            log.info("job_finished", outcome=type(outcome).__name__)
            return outcome

    def _give_up(self, job: Job[Any], definition: Definition[Any] | None) -> None:
        """Release a lease that is lost, and undo what this worker has done after that."""
        log.warning("lease_lost", step=job.operation.step)
        # A request of an earlier attempt stays in doubt, also when this one had its answer.
        self._claims.release(job.claim, In(LATE_EFFECT_SECONDS) if job.late_effect else job.record.unsure_until)
        if definition and definition.on_lease_lost:
            definition.on_lease_lost(job)

    def _check_record(self, job: Job[Any]) -> Outcome:
        """Check the MACs of the record. If they do not fit, end the operation without running a step.

        Returns:
            The end, or the wait for the key of a MAC; None when the record is as the broker wrote it.
        """
        claim, record, operation = job.claim, job.record, job.operation
        try:
            checked = self._claims.store.macs.checked(record, runs=True)
            if checked is not record:
                job.update(replace(claim, record=checked))
        except MissingKeyError as error:
            sentence = str(error)
            fields = OperationFields(error=sentence, description=operation.description or sentence)
            self._claims.reschedule(claim, OTHER_RELEASE_SECONDS, None, fields)
            return Waits(sentence, OTHER_RELEASE_SECONDS)
        except (TamperedError, UndecryptableError) as error:
            phase, sentence = Phase.FAILED if operation.kind in CREATES else record.phase, str(error)
            self._claims.finish(claim, State.FAILED, phase, None, sentence)
            log.info("operation_finished", state=State.FAILED.value, description=sentence)
            return Ended(State.FAILED, sentence)
        return None

    def _look(self, key: str, operation_id: str) -> Outcome:
        """Return what has become of an operation that cannot be claimed."""
        store = self._claims.store
        record = store.get(key)
        is_latest = record is not None and record.readable and record.operation.id == operation_id
        log.info("operation_not_claimable", **(_log_context(record) if record and is_latest else {}))
        if record is None or not is_latest:
            return Ended(State.SUCCEEDED, NOTHING_TO_DO)
        operation, now = record.operation, store.now()
        if not operation.open:
            return Ended(State(operation.state), operation.description or "")
        if operation.lease_until > now:  # another worker runs it
            return None
        seconds = None if operation.waits_on else (operation.due - now).total_seconds()
        return Waits(operation.error or operation.description or "", seconds)

    def _run_next_step(self, job: Job[Any], definition: Definition[Any] | None) -> Outcome:
        """Run the next step and write its result; return None if another step follows at once."""
        job.lease.probes.clear()
        operation = job.operation
        if self._stopping.is_set():
            sentence = operation.description or "Handed over to another worker."
            return self._write(job, definition, operation.step, Later(0, sentence))
        steps = (definition.undo if operation.undo else definition.steps) if definition else {}
        # A new operation has the step "", so that the API does not have to know the name of the first step.
        step = next((each for each in steps if operation.step in ("", each.value)), None)
        if step is None:
            sentence = "Waiting for a worker of another release of the broker: that release has begun the operation."
            return self._write(job, definition, operation.step, Later(OTHER_RELEASE_SECONDS, sentence))
        began = time.monotonic()
        try:
            with tracing.span(f"{operation.kind}: {step}"):
                result = steps[step](job)
        except (LeaseLostError, ErrStorageMongoConnection):
            raise
        except Exception as error:  # noqa: BLE001 - the operation must end with a sentence
            result = self._result_of_error(job, step.value, error)
        job.runs.append(StepRun(step.value, began, time.monotonic(), result))
        return self._write(job, definition, step.value, result)

    def _result_of_error(self, job: Job[Any], name: str, error: Exception) -> Result[Any]:
        """Turn an exception of a step into a retry, or into the first undo step.

        An undo step that fails is retried with long pauses, and left out after ``UNDO_ATTEMPTS`` where the definition
        says so.
        """
        if isinstance(error, HeldBackError):
            return Later(error.seconds, str(error), operation={"waits_on": error.waits_on, "error": str(error)})
        trouble = StepTrouble(str(error), retry=False) if isinstance(error, FailedError) else job.classify(error)
        if trouble is None:
            log.error("step_raised", step=name, exc_info=error)
            trouble = StepTrouble(INTERNAL_ERROR)
        definition, attempts = self._definitions[job.definition_name], job.operation.attempts
        job.late_effect = trouble.late_effect and name in definition.late_effects
        doubt = {"unsure_until": In(LATE_EFFECT_SECONDS)} if job.late_effect else None
        if job.operation.undo and definition.undo_may_fail and attempts >= UNDO_ATTEMPTS:
            log.error("undo_step_left_out", step=name, reason=trouble.sentence)
            following = next(islice(dropwhile(lambda step: step.value != name, definition.undo), 1, None), None)
            return Next(following, doubt) if following else Done(job.record.phase, "", doubt)
        if trouble.retry:
            pause = max(backoff(attempts), trouble.retry_after)
            with metrics.COUNTING:
                metrics.RETRIES.labels(job.operation.kind).inc()
            log.warning("step_retried_later", reason=trouble.sentence, attempts=attempts + 1, seconds=round(pause, 1))
            return Later(
                pause,
                f"{trouble.sentence} It is tried again.",
                doubt,
                {
                    "attempts": attempts + 1,
                    "refusals": job.operation.refusals + 1 if trouble.refusal else 0,
                    "error": trouble.sentence,
                },
            )
        if job.operation.undo:
            fields = OperationFields(error=trouble.sentence, attempts=attempts + 1)
            return Later(LONGEST_BACKOFF_SECONDS, trouble.sentence, operation=fields)
        log.warning("operation_failing", reason=trouble.sentence)
        refused = isinstance(error, FailedError) and error.refused
        first = next(iter(definition.undo))
        return Next(first, doubt, {"undo": True, "failure": trouble.sentence, "refused": refused})

    def _write(self, job: Job[Any], definition: Definition[Any] | None, name: str, result: Result[Any]) -> Outcome:
        """Write the result of a step; return None if the next step follows at once, under the same claim."""
        why = {"reason": result.description, "seconds": round(result.seconds, 1)} if isinstance(result, Later) else {}
        log.info("step_finished", step=name, result=type(result).__name__, **why)
        operation, fields = job.operation, OperationFields()
        if not isinstance(result, Done):
            if result.step is not None:
                in_flight = definition is not None and result.step in definition.late_effects
                fields |= {"step": result.step.value, "in_flight": in_flight}
                fields |= {"attempts": 0, "refusals": 0, "error": None}
            fields |= {"waits_on": None, **(result.operation or {})}
        match result:
            case Next():
                if result.repeatable:
                    job.postpone_write(result.changes, fields)
                    return None
                asked_at = time.monotonic()
                changes, fields, life = job.take_unwritten(result.changes, fields, result.step.value)
                job.update(self._claims.advance(job.claim, changes, fields, steps=life))
                job.lease.until = asked_at + LEASE_SECONDS
                return None
            case Later():
                if operation.state is State.IN_PROGRESS:  # else platforms may have read its end already
                    fields["description"] = result.description
                changes, fields, life = job.take_unwritten(result.changes, fields)
                self._claims.reschedule(job.claim, result.seconds, changes, fields, steps=life)
                job.rescheduled()
                return Waits(result.description, None if fields["waits_on"] else result.seconds)
            case Done():
                state = State.FAILED if operation.undo else State.SUCCEEDED
                failure = operation.failure or "The operation failed."
                sentence = failure if operation.undo else result.description
                changes, _, life = job.take_unwritten(result.changes, fields)
                self._claims.finish(job.claim, state, result.phase, changes, sentence, steps=life)
                if operation.state is State.IN_PROGRESS and state is State.SUCCEEDED:
                    job.progress().succeeded()
                log.info("operation_finished", state=state.value, description=sentence)
                return Ended(state, sentence)


def _interrupted(key: str, error: ErrStorageMongoConnection) -> Waits:
    """Log that MongoDB failed while an operation ran; its lease expires by itself."""
    log.warning("operation_interrupted", key=key, reason=error.reason)
    return Waits(f"MongoDB cannot be used: {error.reason}.")
