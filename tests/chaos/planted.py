"""Faults that an engineer might make in the broker's code, each with the story that must catch it.

A fault replaces a function, method or constant, which is looked up by its name, in the processes of one broker. They
run the code of the checkout, and ``sitecustomize.py``, which Python imports first, plants the fault.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker_api.jobs.queue import JOBS
from broker_api.state.mongo import NOW
from broker_api.state.records import Kind, Phase
from tests.chaos import scenarios, slow
from tests.chaos.chaos import Chaos
from tests.chaos.scenarios import Scenario
from workers.engine.results import Done

VARIABLE = "PLANTED_FAULT"
SITECUSTOMIZE = f"""
import os, traceback
try:
    from tests.chaos import planted
    next(fault for fault in planted.FAULTS if fault.name == os.environ["{VARIABLE}"]).plant()
except BaseException:
    traceback.print_exc()
    os._exit(70)  # else Python would go on without the fault
"""
Broken = Callable[[Any], Any]


@dataclass(frozen=True)
class Planted:
    """``target`` is ``module:name``; ``broken`` makes the replacement of what is there; ``quick`` ones always run."""

    name: str
    target: str
    broken: Broken
    quick: bool = False

    def caught_by(self, chaos: Chaos) -> None:
        """Tell the story that must catch the fault."""
        next(story for story, faults in CAUGHT.items() if self in faults)(chaos)

    def found(self) -> tuple[Any, str]:
        """Return what holds the target, and its name there; AssertionError when there is no such thing any more."""
        module, _, path = self.target.partition(":")
        *holders, name = path.split(".")
        held: Any = importlib.import_module(module)
        for each in (*holders, name):
            holder, held = held, getattr(held, each, None)
            assert held is not None, f"{self.target} is gone: name in tests/chaos/planted.py what has taken its place"
        return holder, name

    def plant(self) -> None:
        """Replace the target in this process, also where other modules have imported it by its name."""
        holder, name = self.found()
        original = getattr(holder, name)
        broken = self.broken(original)
        setattr(holder, name, broken)
        for module in [each for key, each in sys.modules.items() if key.startswith(("broker_api", "workers"))]:
            for alias in [alias for alias, value in vars(module).items() if value is original]:
                setattr(module, alias, broken)

    def settings(self, folder: Path) -> dict[str, str]:
        """Return the settings of a process that has the fault; the folder is for what Python reads at its start."""
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        return {"PYTHONPATH": str(folder), VARIABLE: self.name}


def returns(value: object) -> Broken:
    """Return a replacement that does nothing but to return the value."""
    return lambda _original: lambda *_args, **_options: value


def is_now(value: object) -> Broken:
    """Return a replacement for a constant."""
    return lambda _original: value


def sends_first(create: Any) -> Any:  # noqa: ANN401 - as the other replacements: what is found by its name
    def broken(operations: Any, fields: Any, kind: Kind, *others: Any) -> Any:  # noqa: ANN401
        operations._queue.send(JOBS[kind], [fields["instance_id"], None, "early"])  # noqa: SLF001
        return create(operations, fields, kind, *others)

    return broken


def without_fence(filter_and_write: Any) -> Any:  # noqa: ANN401
    def broken(claims: Any, claim: Any, *others: Any, **options: Any) -> Any:  # noqa: ANN401
        with contextlib.suppress(TypeError):
            now = claims._collection.find_one({"_id": claim.record.key})["operation"]  # noqa: SLF001
            claim = replace(claim, fence=now["fence"], token=now["lease_token"])
        return filter_and_write(claims, claim, *others, **options)

    return broken


def another_password(update_user: Any) -> Any:  # noqa: ANN401
    return lambda client, name, *, password="", **more: update_user(client, name, password=f"{password}-2", **more)


def forgives(delete_user: Any) -> Any:  # noqa: ANN401
    def broken(*args: object) -> None:
        with contextlib.suppress(Exception):
            delete_user(*args)

    return broken


def unauthorized_is_not_found(refusal: Any) -> Any:  # noqa: ANN401
    from workers.atlas import errors  # noqa: PLC0415 - planted while that module's name may be in the making

    return lambda status, code: errors.UserNotFound if status == 401 else refusal(status, code)


def always_takes_the_turn(take_turn: Any) -> Any:  # noqa: ANN401
    def broken(status: Any, project: str, cluster: str) -> Any:  # noqa: ANN401
        long_ago = {"polled_at": None, "answered_at": None, "next_poll": None}
        status.housekeeping.collection.update_one({"_id": f"cluster/{project}/{cluster}"}, {"$set": long_ago})
        return take_turn(status, project, cluster)

    return broken


def keeps_the_user(bind: Any) -> Any:  # noqa: ANN401
    bind.undo.update(dict.fromkeys(bind.undo, lambda _: Done(Phase.FAILED, "")))
    return bind


def loses_no_connection(init: Any) -> Any:  # noqa: ANN401
    def broken(consumer: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
        init(consumer, *args, **options)
        consumer.connection_errors = ()

    return broken


JOB, CLAIMS, USERS = (
    "workers.operations.atlas_job:AtlasJob",
    "broker_api.state.operation_claims",
    "workers.operations.database_users",
)

CAUGHT: dict[Scenario, list[Planted]] = {
    scenarios.nothing_is_sent_before_it_is_written: [
        Planted("send before write", "broker_api.service.operation_start:OperationStarter.create", sends_first)
    ],
    scenarios.what_redis_lost_is_sent_by_the_sweep: [
        Planted("a send without bounds", "broker_api.jobs.queue:SOCKET_SECONDS", is_now(60.0)),
        Planted("no sweep", "workers.engine.sweeper:Sweeper.start", returns(None)),
    ],
    scenarios.two_workers_never_work_on_the_same_operation: [
        Planted(
            "a claim that ignores the lease",
            f"{CLAIMS}:_DUE_AND_UNHELD",
            is_now({"$lte": ["$operation.due", NOW]}),
            quick=True,
        )
    ],
    scenarios.a_worker_that_lost_its_lease_writes_nothing: [
        Planted("no fence", f"{CLAIMS}:Claims._write", without_fence)
    ],
    scenarios.credentials_come_when_they_work: [
        Planted("credentials before APPLIED", f"{JOB}.wait_until_applied", returns(None))
    ],
    scenarios.an_applied_of_before_is_not_believed: [
        Planted(
            "an old APPLIED is believed",
            "workers.clusters.status:is_confirmed",
            lambda _: lambda change, status, _seconds: (status.get("applied_at") or change.at) > change.at,
        )
    ],
    scenarios.a_user_made_without_an_answer_gets_the_given_password: [
        Planted(
            "another password at the second attempt", "workers.atlas.client:AtlasClient.update_user", another_password
        )
    ],
    scenarios.a_user_left_with_our_labels_gets_the_given_password: [
        Planted("409 is success", f"{USERS}:take_over", returns(None))
    ],
    scenarios.a_user_of_somebody_else_is_not_touched: [
        Planted("409 is always ours", f"{USERS}:is_ours", returns(value=True))
    ],
    scenarios.a_refused_delete_is_no_success: [
        Planted("unbind forgets failures", "workers.atlas.client:AtlasClient.delete_user", forgives),
        Planted("401 means gone", "workers.atlas.errors:refusal", unauthorized_is_not_found),
    ],
    scenarios.a_failed_bind_leaves_no_user: [
        Planted("a failed bind keeps its user", "workers.operations.bind:BIND", keeps_the_user)
    ],
    scenarios.an_unbind_waits_for_a_request_that_is_still_under_way: [
        Planted("unbind does not wait for requests under way", f"{JOB}.wait_for_late_effect", returns(None))
    ],
    scenarios.a_temporary_user_made_late_is_removed: [
        Planted("a temporary user is forgotten", f"{JOB}.wait_for_late_effect", returns(None))
    ],
    scenarios.a_waiting_operation_holds_no_worker: [
        Planted("everybody polls", "workers.clusters.status:ClusterStatus._take_turn", always_takes_the_turn)
    ],
    slow.atlas_down_is_left_alone_and_all_goes_on_afterwards: [
        Planted("no circuit", "workers.guard.circuit_breaker:CircuitBreaker.take_probe", returns(value=True))
    ],
    slow.a_worker_outlives_redis_with_messages_unacknowledged: [
        Planted("a lost connection ends the worker", "workers.transport:Consumer.__init__", loses_no_connection)
    ],
}
FAULTS = [fault for faults in CAUGHT.values() for fault in faults]
