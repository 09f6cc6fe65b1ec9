"""Runs an operation: claims it, runs its steps one after the other, and records the result of each.

When a step fails for good, the steps that remove what the operation made follow (``undo``); only then does the
operation end as failed.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from broker_api.errors import ErrStorageMongoConnection
from broker_api.state.fields import OperationFields
from broker_api.state.key_check import KeyCheck
from broker_api.state.mongo import In
from broker_api.state.operation_claims import Claim, Claims, LeaseLostError
from broker_api.state.records import State
from workers.engine.definition import Definition
from workers.engine.job import Job
from workers.engine.leases import Lease, LeaseKeeper
from workers.engine.results import Done, FailedError, HeldBackError, Later, Next, Result, Trouble

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
OTHER_RELEASE_SECONDS = 5.0
UNANSWERED_SECONDS = 30.0
"""How long a request whose answer was lost may still reach Atlas."""


def backoff(attempts: int) -> float:
    """Return the seconds to wait after so many failures: doubling, with jitter, up to a cap."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def _about(claim: Claim[Any]) -> dict[str, object]:
    """Return what each log line of an operation tells: its ids, and its author."""
    record, operation = claim.record, claim.record.operation
    about = {
        "instance_id": record.instance_id,
        "binding_id": getattr(record, "binding_id", None),
        "operation": operation.id,
        "request_id": operation.request_id,
        "identity": operation.identity,
    }
    return {name: value for name, value in about.items() if value}


class Runner:
    """Runs operations by their ``definitions``. ``new_job`` makes what steps are given; ``stopping`` ends the work."""

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

    def work(self, key: str, operation_id: str) -> None:
        """Carry an operation on until it ends or has to wait. A late or repeated message finds nothing to claim."""
        try:
            if not self._keys.fit():  # what is sealed with a wrong key is lost; workers with the right ones go on
                return
            asked_at = time.monotonic()
            claim = self._claims.claim(key, operation_id)
            if claim is None:
                log.debug("operation_not_claimable", key=key)
                return
            definition = self._definitions.get(claim.record.operation.kind)
            with bound_contextvars(**_about(claim)), self._leases.holding(claim, asked_at) as lease:
                job = self._new_job(claim, lease)
                try:
                    while self._record(job, definition, self._step(job, definition)):
                        pass
                except LeaseLostError:
                    log.warning("lease_lost", step=job.operation.step)
                    self._claims.release(job.claim, sure=not job.unanswered)
                    if definition:
                        definition.abandoned(job)
        except ErrStorageMongoConnection as error:
            log.warning("operation_interrupted", key=key, reason=error.reason)  # its lease ends by itself

    def _step(self, job: Job[Any], definition: Definition[Any] | None) -> Result[Any]:
        """Run the next step and return its result; an error becomes a retry or a failure."""
        if self._stopping.is_set():
            return Later(0, job.operation.description or "Handed over to another worker.")
        declared = definition.step(job.operation) if definition else None
        if definition is None or declared is None:
            return Later(OTHER_RELEASE_SECONDS, "Left to workers of another release, which began it.")
        name, step = declared
        try:
            job.begin_step()
            return step(job)
        except FailedError as error:
            return self._failed(job, definition, str(error), refused=error.refused)
        except HeldBackError as error:
            return Later(error.seconds, str(error), operation={"waits_on": error.waits_on, "error": str(error)})
        except (LeaseLostError, ErrStorageMongoConnection):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the operation must end with a sentence
            return self._troubled(job, definition, name, error)

    def _record(self, job: Job[Any], definition: Definition[Any] | None, result: Result[Any]) -> bool:
        """Write the result of a step; return whether the operation goes on under the same claim."""
        log.info("step_finished", step=job.operation.step or "first", result=type(result).__name__)
        match result:
            case Next():
                asked_at = time.monotonic()
                operation = OperationFields(in_flight=bool(definition and result.step in definition.unanswered))
                operation.update(result.operation or {})
                job.update(self._claims.advance(job.claim, result.step.value, result.changes, operation))
                job.lease.extend(asked_at)
                return True
            case Later():
                self._reschedule(job, result)
            case Done():
                self._finish(job, result)
        return False

    def _troubled(self, job: Job[Any], definition: Definition[Any], step: str, error: Exception) -> Result[Any]:
        """Retry after a pause, or fail when no retry can help."""
        trouble = job.trouble(error)
        if trouble is None:
            log.error("step_raised", step=step, exc_info=error)
            trouble = Trouble("Internal error of the broker; its operator finds the cause in the log of the workers.")
        if not trouble.retry:
            return self._failed(job, definition, trouble.sentence, refused=False)
        attempts = job.operation.attempts
        pause = max(backoff(attempts), trouble.retry_after)
        log.warning("step_retried_later", reason=trouble.sentence, attempts=attempts + 1, seconds=round(pause, 1))
        job.unanswered = trouble.unanswered and step in definition.unanswered
        return Later(
            pause,
            f"{trouble.sentence} It is tried again.",
            {"unsure_until": In(UNANSWERED_SECONDS)} if job.unanswered else None,
            {"attempts": attempts + 1, "error": trouble.sentence},
        )

    def _failed(self, job: Job[Any], definition: Definition[Any], sentence: str, *, refused: bool) -> Result[Any]:
        """Turn to the steps that remove what was made; a removal that fails is tried again for ever, but rarely."""
        if job.operation.undo:
            return Later(LONGEST_PAUSE_SECONDS, sentence, operation={"error": sentence})
        log.warning("operation_failing", reason=sentence)
        first = next(iter(definition.undo))
        return Next(first, operation={"undo": True, "failure": sentence, "refused": refused})

    def _reschedule(self, job: Job[Any], later: Later[Any]) -> None:
        operation = OperationFields(description=later.why, waits_on=None)
        operation.update(later.operation or {})
        if later.step is not None:
            operation["step"] = later.step.value
        if job.operation.state is not State.IN_PROGRESS:
            operation.pop("description", None)  # the platform has been told already how it ended
        self._claims.reschedule(job.claim, later.seconds, later.changes, operation)

    def _finish(self, job: Job[Any], done: Done[Any]) -> None:
        undone = job.operation.undo
        state = State.FAILED if undone else State.SUCCEEDED
        sentence = (job.operation.failure or "The operation failed.") if undone else done.description
        self._claims.finish(job.claim, state, done.phase, done.changes, sentence)
        log.info("operation_finished", state=state.value, description=sentence)
