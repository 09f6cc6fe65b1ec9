"""The states of jobs in Flower: a job's state is that of its operation, with a sentence.

Celery announces the end of a job by an event, from the exception that the job raises or from what it returns. The
classes here are shown as their sentence, without a traceback.

The job of an operation that waits returns its sentence too, and ``Request`` announces it as a retry: Celery's own
exception for that is copied with all its frames, which took an eighth of the CPU of a busy worker.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import Ignore
from celery.worker import request

from broker_api.jobs.queue import JOBS
from broker_api.state.operation_claims import Due
from broker_api.state.records import State
from workers.engine.results import Ended, Outcome

_WAITS = "waits: "
"""Begins the result of a job whose operation waits; Celery passes results on as texts."""


class Sentence:
    """The result of a job."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def __repr__(self) -> str:
        """Return what Flower shows."""
        return self._sentence


class JobError(Exception):
    """The reason why an operation has failed."""

    def __repr__(self) -> str:
        """Return what Flower shows."""
        return str(self)


def to_celery(outcome: Outcome) -> Sentence:
    """Return the result of a job, for an operation that has succeeded or waits.

    Args:
        outcome: What has become of the operation.

    Raises:
        JobError: The operation has failed.
        Ignore: Another worker runs the operation, and announces its end.
    """
    if outcome is None:
        raise Ignore
    if isinstance(outcome, Ended):
        if outcome.state is State.SUCCEEDED:
            return Sentence(outcome.sentence)
        raise JobError(outcome.sentence)
    sentence = outcome.description
    if outcome.seconds is not None:
        at = datetime.now(UTC) + timedelta(seconds=max(0.0, outcome.seconds))
        sentence += f" Next attempt at {at:%Y-%m-%d %H:%M:%S} UTC."
    return Sentence(f"{_WAITS}{sentence}")


def announce_success(dispatcher: EventDispatcher, due: Due, sentence: str) -> None:
    """Announce that an operation has succeeded without a job.

    Args:
        dispatcher: Sends the event.
        due: The operation.
        sentence: The description of its end.
    """
    arguments = [due.instance_id, due.binding_id, due.operation_id]
    dispatcher.send(
        "task-succeeded",
        uuid=due.operation_id,
        name=JOBS[due.kind],
        args=repr(arguments),
        result=sentence,
        exception=None,
        traceback=None,
    )


class Request(request.Request):
    """A job of a worker, with events for Flower's list: ``result`` is the sentence in each state."""

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002, ANN401 - Celery's names
        """Send an event; one of the end replaces all of a run before it."""
        if type == "task-succeeded" and fields["result"].startswith(_WAITS):
            type, fields = "task-retried", {"result": fields["result"].removeprefix(_WAITS)}  # noqa: A001 - Celery's name
        if "exception" in fields or "result" in fields:
            fields = {"result": fields.get("exception"), "exception": None, "traceback": None, **fields}
        super().send_event(type, **fields)

    def on_failure(self, exc_info: ExceptionInfo, *options: bool, **more: bool) -> None:
        """Announce the failure of a job; only a defect has a traceback."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, JobError):
            exc_info.traceback = ""
        super().on_failure(exc_info, *options, **more)
