"""The states of jobs in Flower: a job's state is that of its operation, with a sentence.

Celery announces the end of a job by an event, from the exception that the job raises or from what it returns. The
classes here are shown as their sentence, without a traceback.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.events.dispatcher import EventDispatcher
from celery.exceptions import Ignore, Retry
from celery.worker import request

from broker_api.jobs.queue import JOBS
from broker_api.state.operation_claims import Due
from broker_api.state.records import State
from workers.engine.results import Ended, Outcome


class Sentence:
    """The result of a job that has succeeded."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def __repr__(self) -> str:
        """Return what Flower shows."""
        return self._sentence


class JobError(Exception):
    """The reason why an operation has failed or waits."""

    def __repr__(self) -> str:
        """Return what Flower shows."""
        return str(self)


class PutOff(Retry):
    """The operation waits. Celery would show its exception inside the names of classes."""

    def __repr__(self) -> str:
        """Return what Flower shows."""
        return repr(self.exc)


def to_celery(outcome: Outcome) -> Sentence:
    """Return the result of a job, for an operation that has succeeded.

    Args:
        outcome: What has become of the operation.

    Raises:
        JobError: The operation has failed.
        PutOff: The operation waits.
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
    raise PutOff(exc=JobError(sentence))


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
        if "exception" in fields or "result" in fields:
            fields = {"result": fields.get("exception"), "exception": None, "traceback": None, **fields}
        super().send_event(type, **fields)

    def on_failure(self, exc_info: ExceptionInfo, *options: bool, **more: bool) -> None:
        """Announce the failure of a job; only a defect has a traceback."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)  # Celery may wrap it
        if isinstance(error, JobError | PutOff):
            exc_info.traceback = ""
        super().on_failure(exc_info, *options, **more)
