"""Works on an operation: claims it, runs its steps one after the other, and records what each has come to.

A step that fails for good is followed by the steps that remove what the operation made (``undo``); only then does the
operation end as failed.
"""

import random
import time
from datetime import timedelta
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from broker_api.errors import ErrStorageMongoConnection, ErrStorageUnreadable, UndecryptableError
from broker_api.state.claims import Claim, LeaseLostError
from broker_api.state.mongo import In
from broker_api.state.records import Kind, State
from workers import circuit
from workers.atlas.client import AtlasError, Refused
from workers.job import Job
from workers.jobs import STEPS, UNDO
from workers.jobs.bind import take_back
from workers.outcome import Done, FailedError, HeldBackError, Later, Next, Outcome
from workers.parts import Parts

log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.5
SERVER_ERRORS = 12
"""A call that Atlas answers with 500 this often while others succeed is refused in disguise (facts of the field:
some bad inputs give 500)."""
OTHERS_SUCCEED = timedelta(minutes=1)
SERVER_ERROR = 500
OTHER_RELEASE_SECONDS = 5.0
MAKING_USERS = {(Kind.BIND, "create"), (Kind.DEPROVISION, "make dropper")}
UNSURE_SECONDS = 30.0
"""For so long a request without an answer may still reach Atlas."""


def work(parts: Parts, key: str, operation_id: str) -> None:
    """Go on with an operation as far as it goes now. A message that comes late or twice finds nothing to claim."""
    try:
        _claim_and_go(parts, key, operation_id)
    except ErrStorageMongoConnection as error:
        log.warning("stopped, the lease will end by itself", error=str(error), reason=error.reason)


def _claim_and_go(parts: Parts, key: str, operation_id: str) -> None:
    if not parts.keys.fit():
        log.debug("left to workers with other keys")
        return
    began = time.monotonic()
    claim = parts.claims.claim(key, operation_id)
    if claim is None:
        log.debug("nothing to claim")
        return
    found = claim.record.operation
    who = {"request_id": found.request_id, "identity": found.identity}
    with bound_contextvars(**{name: value for name, value in who.items() if value}):
        _hold(parts, claim, began)


def _hold(parts: Parts, claim: Claim[Any], began: float) -> None:
    job = Job(parts, claim)
    try:
        with parts.keeper.holding(claim, began) as lease:
            while (again := _once(job)) is not None:
                began = again
                lease.extend(began)
    except LeaseLostError:
        log.warning("lease lost, another worker goes on", step=job.operation.step)
        _part(job)


def _part(job: Job[Any]) -> None:
    """Leave an operation that is not ours any more: let its successor go on, and take back what nobody waits for."""
    job.parts.claims.let_go(job.claim, sure=not job.unanswered)
    if job.operation.kind == Kind.BIND and job.operation.step == "create":
        take_back(job)


def _once(job: Job[Any]) -> float | None:
    """Run one step; give the moment from which the renewed lease counts, or None when the claim is given back."""
    if job.parts.stopping.is_set():
        _put_off(job, Later(0, job.operation.description or "Handed over to another worker."))
        return None
    outcome = _outcome(job)
    log.info("step", step=job.operation.step or "start", outcome=type(outcome).__name__)
    match outcome:
        case Next():
            renewed = time.monotonic()
            job.claim = job.parts.claims.advance(job.claim, outcome.step, outcome.changes, outcome.operation)
            return renewed
        case Later():
            _put_off(job, outcome)
            return None
        case Done():
            _finish(job, outcome)
            return None


def _put_off(job: Job[Any], later: Later) -> None:
    operation = {"description": later.why, "waits_on": None, **later.operation}
    if job.operation.state is not State.IN_PROGRESS:
        operation.pop("description")
    job.parts.claims.put_off(job.claim, later.seconds, later.changes, operation)


def _finish(job: Job[Any], done: Done) -> None:
    undone = job.operation.undo
    state = State.FAILED if undone else State.SUCCEEDED
    description = (job.operation.failure or "The operation failed.") if undone else done.description
    job.parts.claims.finish(job.claim, state, done.phase, done.changes, description)
    log.info("finished", state=state.value, description=description)


def _outcome(job: Job[Any]) -> Outcome:
    try:
        return _run(job)
    except FailedError as error:
        return _failed(job, str(error), refused=error.refused)
    except HeldBackError as error:
        return Later(error.seconds, str(error), operation={"waits_on": error.waits_on, "error": str(error)})
    except UndecryptableError as error:
        return _again(job, str(error), None)
    except AtlasError as error:
        return _trouble(job, error)
    except (LeaseLostError, ErrStorageMongoConnection):
        raise
    except Exception:  # a defect of ours must not leave the operation to its deadline without a word
        log.exception("step failed unexpectedly", step=job.operation.step)
        sentence = "The broker has met an error of its own; its operator finds it in the workers' log."
        return _again(job, sentence, None)


def _run(job: Job[Any]) -> Outcome:
    """Run the step that is next; one that only another release knows is left to its workers."""
    steps = (UNDO if job.operation.undo else STEPS).get(job.operation.kind, {})
    step = steps.get(job.operation.step)
    if step is None:
        return Later(OTHER_RELEASE_SECONDS, "Left to workers of another release, which began it.")
    circuit.not_probing()
    try:
        return step(job)
    except ErrStorageUnreadable as error:
        return Later(OTHER_RELEASE_SECONDS, str(error), operation={"error": str(error)})


def _failed(job: Job[Any], sentence: str, *, refused: bool) -> Outcome:
    """Turn to removing what was made; a removal that itself can never succeed is tried again rarely, for ever."""
    if job.operation.undo:
        return Later(LONGEST_PAUSE_SECONDS, sentence, operation={"error": sentence})
    log.warning("failed, removing what was made", reason=sentence)
    return Next("", operation={"undo": True, "failure": sentence, "refused": refused})


def _trouble(job: Job[Any], error: AtlasError) -> Outcome:
    """Whether an error may be retried is the error's own property; this adds how often, and when."""
    if not error.retryable:
        return _failed(job, _sentence(job, error), refused=False)
    if _refused_in_disguise(job, error):
        return _failed(job, _sentence(job, error), refused=False)
    return _again(job, _sentence(job, error), error)


def _refused_in_disguise(job: Job[Any], error: AtlasError) -> bool:
    if not isinstance(error, Refused) or error.status != SERVER_ERROR or job.operation.attempts < SERVER_ERRORS:
        return False
    return job.parts.circuits[job.project].works_otherwise(OTHERS_SUCCEED)


def _again(job: Job[Any], sentence: str, error: AtlasError | None) -> Outcome:
    attempts = job.operation.attempts
    pause = max(backoff(attempts), (error and error.retry_after) or 0.0)
    log.warning("will be tried again", reason=sentence, attempts=attempts + 1, seconds=round(pause, 1))
    job.unanswered = _may_have_made(job, error)
    changes = {"unsure_until": In(UNSURE_SECONDS)} if job.unanswered else {}
    return Later(pause, f"{sentence} It is tried again.", changes, {"attempts": attempts + 1, "error": sentence})


def _may_have_made(job: Job[Any], error: AtlasError | None) -> bool:
    """Say whether a user may yet come into being by a request that had no answer."""
    lost = error is not None and error.sent and not isinstance(error, Refused)
    return lost and (job.operation.kind, job.operation.step) in MAKING_USERS


def backoff(attempts: int) -> float:
    """Give the seconds to wait after so many failures: doubling, with jitter, up to a cap."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


def _sentence(job: Job[Any], error: AtlasError) -> str:
    """Say what Atlas's error means to the platform's user, and what it is about."""
    where = f"the cluster {job.cluster}" if job.cluster else "the Atlas project"
    if error.unauthorized:
        return f"Atlas refuses the broker's key for {where}; the broker's operator must look at it. {error}"
    return f"{error} (for {where})"
