"""What operators read about operations, for the commands and the page. Every field is named; none holds a secret."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from broker_api.errors import BadRequest, NotFound
from broker_api.json_types import JsonObject
from broker_api.state.operator_queries import CANDIDATES, Cursor, OperationFilter, OperatorQueries
from broker_api.state.records import (
    EPOCH,
    Binding,
    Instance,
    Operation,
    OperatorAction,
    PastOperation,
    State,
    StepLife,
    user_of,
)

Found = TypeVar("Found")

STATES = {state.replace(" ", "-"): state for state in State}
"""The states by the names that filters have."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def operation(found: Instance | Binding, now: datetime) -> JsonObject:
    """Return what a list tells about the latest operation of an instance or binding.

    ``activity`` of an open operation is ``running`` (a worker holds it), ``waiting`` (for its time, or for what
    ``waits_on`` names) or ``queued`` (due, and no worker has taken it).
    """
    known = found.operation
    running, put_off = known.lease_until > now, known.waits_on is not None or known.due > now
    activity = "running" if running else "waiting" if put_off else "queued"
    return {
        "operation": known.id,
        "type": str(known.kind),
        "state": state(known),
        "activity": activity if known.open and found.readable else None,
        "instance": found.instance_id,
        "binding": found.binding_id if isinstance(found, Binding) else None,
        "project": found.project,
        "cluster": found.cluster,
        "accepted": moment(known.accepted),
        "age_seconds": round((now - known.accepted).total_seconds()),
        "waits_on": known.waits_on,
        "worker": known.worker,
        "next_look": moment(known.due) if known.open else None,
        "description": known.description,
    }


def operation_life(found: Instance | Binding, now: datetime) -> JsonObject:
    """Return everything about the latest operation of an instance or binding."""
    known = found.operation
    held = known.lease_until > now
    return operation(found, now) | {
        "phase": str(found.phase),
        "step": known.step or None,
        "undo": known.undo,
        "attempts": known.attempts,
        "last_error": known.error,
        "failure": known.failure,
        "claimed": moment(known.claimed),
        "held_by_worker_until": moment(known.lease_until) if held else None,
        "claims": known.fence,
        "deadline": moment(known.deadline),
        "finished": moment(known.finished),
        "asked_by": user_of(known.identity) if known.identity else None,
        "request_id": known.request_id,
        "steps": steps(known.steps, running=known.step if held else None),
        "actions": actions(known.actions),
        "earlier": [
            {
                "operation": past.id,
                "type": past.kind,
                "state": past.state,
                "accepted": moment(past.accepted),
                "finished": moment(past.finished),
                "description": past.description,
            }
            for past in found.past
        ],
    }


def past_operation(found: Instance | Binding, past: PastOperation) -> JsonObject:
    """Return what is remembered of an operation that another one has followed."""
    return {
        "operation": past.id,
        "type": past.kind,
        "state": past.state,
        "activity": None,
        "instance": found.instance_id,
        "binding": found.binding_id if isinstance(found, Binding) else None,
        "project": found.project,
        "cluster": found.cluster,
        "accepted": moment(past.accepted),
        "finished": moment(past.finished),
        "description": past.description,
        "steps": steps(past.steps, running=None),
        "actions": actions(past.actions),
        "followed_by": found.operation.id,
    }


def steps(known: Mapping[str, StepLife], *, running: str | None) -> list[JsonObject]:
    """Return the life of each step.

    Args:
        known: The steps by their names.
        running: The name of the step that a worker runs now.
    """
    return [
        {
            "step": name,
            "result": "running" if name == running else each.result or "interrupted",
            "runs": each.runs,
            "first": moment(each.first),
            "last": moment(each.last),
            "worker": each.worker,
            "reason": each.reason,
        }
        for name, each in known.items()
    ]


def actions(noted: Iterable[OperatorAction]) -> list[JsonObject]:
    """Return the commands with which operators have changed an operation."""
    return [{"at": moment(each.at), "user": each.user, "command": each.command} for each in noted]


def state(known: Operation) -> str:
    """Return the state as platforms see it, and whether workers still remove what a failed operation has made."""
    return f"{known.state}, still removing" if known.open and known.state == State.FAILED else str(known.state)


def moment(when: datetime | None) -> str | None:
    """Return a moment in UTC; None when it is not set."""
    if when is None or when == EPOCH:
        return None
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration_text(seconds: float) -> str:
    """Return a duration in the two largest units, such as ``3m 20s``."""
    left = max(0, round(seconds))
    parts = []
    for name, unit in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, unit)
        if number:
            parts.append(f"{number}{name}")
    return " ".join(parts[:2]) or "0s"


def duration(text: str) -> timedelta:
    """Return a duration such as ``30s``, ``5m``, ``2h`` or ``1d``.

    Raises:
        BadRequest: It is not in this form.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise BadRequest(f"{text!r} is no duration; write 30s, 5m, 2h or 1d.")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def find_operation(queries: OperatorQueries, start: str) -> tuple[Instance | Binding, str]:
    """Return the record with the operation whose id begins with ``start``, and the whole id.

    Raises:
        NotFound: There is none, or there are several.
    """
    found = [
        (each, operation_id)
        for each in queries.by_operation(start)
        for operation_id in (each.operation.id, *(past.id for past in each.past))
        if operation_id.startswith(start)
    ]
    exact = [(each, operation_id) for each, operation_id in found if operation_id == start]
    return the_one(exact or found, start, "operation", lambda each: each[1])


def life(found: Instance | Binding, operation_id: str, now: datetime) -> JsonObject:
    """Return everything that is known about an operation of an instance or binding."""
    if operation_id == found.operation.id:
        return operation_life(found, now)
    return past_operation(found, next(each for each in found.past if each.id == operation_id))


def the_one(found: Sequence[Found], start: str, what: str, name: Callable[[Found], str]) -> Found:
    """Return the only one that was found.

    Args:
        found: Those whose id begins with ``start``.
        start: What the operator has given.
        what: What was looked for, such as ``operation``.
        name: Returns the name that distinguishes one of them from the others.

    Raises:
        NotFound: There is none, or there are several.
    """
    if not found:
        raise NotFound(f"There is no {what} {start}, and none whose id begins so.")
    if len(found) > 1:
        names = ", ".join(name(each) for each in found[: CANDIDATES - 1])
        more = ", …" if len(found) == CANDIDATES else ""
        raise NotFound(f"Several {what}s fit {start}: {names}{more}. Give more of the id.")
    return found[0]


@dataclass(frozen=True)
class OperationReader:
    """What the page reads. Each method raises ErrStorageMongoConnection when MongoDB cannot be used.

    Attributes:
        queries: The queries of operators.
        flower_url: The address of Flower; empty when it is not known.
    """

    queries: OperatorQueries
    flower_url: str = ""

    def now(self) -> datetime:
        """Return MongoDB's time, from which ages are told."""
        return self.queries.store.now()

    def listed(
        self, wanted: OperationFilter, limit: int, after: Cursor | None, now: datetime
    ) -> tuple[list[JsonObject], Cursor | None]:
        """Return operations, those accepted last first, and the place of the next page if there is one."""
        page = self.queries.operations(wanted, limit, after)
        return [operation(each, now) for each in page.records], page.following

    def life(self, start: str, now: datetime) -> JsonObject:
        """Return everything about the operation whose id is, or begins with, ``start``.

        Raises:
            NotFound: There is none, or there are several.
        """
        return life(*find_operation(self.queries, start), now)
