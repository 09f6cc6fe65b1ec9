"""Faults that an engineer might make in the broker's code, each with the story that must catch it.

A fault replaces a function, method or constant, which is looked up by its name, in the processes of one broker. They
run the code of the checkout, and ``sitecustomize.py``, which Python imports first, plants the fault. A replacement that
does not fit the code any more would break the broker in another way, and would be caught for that: so the replacements
are typed, and one that raises an error of its own reports it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from broker_api.jobs.queue import JOBS
from broker_api.state.mongo import NOW
from broker_api.state.records import Kind, Phase
from tests.chaos import cluster_scenarios, scenarios, slow
from workers.atlas.client import AtlasError, UserNotFound
from workers.engine.results import Done

if TYPE_CHECKING:
    from broker_api.service.operation_start import OperationStarter
    from broker_api.state.fields import InstanceFields
    from broker_api.state.mongo import Document
    from broker_api.state.operation_claims import Claim, Claims
    from broker_api.state.records import Binding, Instance
    from tests.chaos.chaos import Chaos
    from tests.chaos.scenarios import Scenario
    from workers.atlas.client import AtlasClient, Refused
    from workers.clusters.change_status import ClusterStatus
    from workers.engine.definition import Definition
    from workers.transport import Consumer

VARIABLE, REPORTS = "PLANTED_FAULT", "PLANTED_FAULT_REPORTS"
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
T = TypeVar("T")


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

    def is_constant(self) -> bool:
        """Return whether the fault is in a value and not in a function, which could report that it was called."""
        holder, name = self.found()
        return not inspect.isfunction(getattr(holder, name))

    def plant(self) -> None:
        """Replace the target in this process, also where other modules have imported it by its name."""
        holder, name = self.found()
        original = getattr(holder, name)
        broken = self.broken(original)
        if inspect.isfunction(broken):
            broken = reporting(broken)
        setattr(holder, name, broken)
        for module in [each for key, each in sys.modules.items() if key.startswith(("broker_api", "workers"))]:
            for alias in [alias for alias, value in vars(module).items() if value is original]:
                setattr(module, alias, broken)

    def settings(self, folder: Path) -> dict[str, str]:
        """Return the settings of a process that has the fault; the folder is for its start and its reports."""
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        return {"PYTHONPATH": str(folder), VARIABLE: self.name, REPORTS: str(folder)}


def reporting(broken: Callable[..., T]) -> Callable[..., T]:
    """Return a replacement that leaves a file when it was called, and one when it raises an error of its own."""
    folder = Path(os.environ[REPORTS])

    @functools.wraps(broken)
    def run(*args: object, **options: object) -> T:
        (folder / "reached").touch()
        try:
            return broken(*args, **options)
        except Exception as error:
            if traceback.extract_tb(error.__traceback__)[-1].filename == __file__:
                (folder / "misfit").write_text(traceback.format_exc())
            raise

    return run


def returns(value: object) -> Broken:
    """Return a replacement that does nothing but to return the value."""
    return lambda _original: lambda *_args, **_options: value


def is_now(value: object) -> Broken:
    """Return a replacement for a constant."""
    return lambda _original: value


def sends_first(create: Callable[..., object]) -> Callable[..., object]:
    def broken(
        operations: OperationStarter, fields: InstanceFields, kind: Kind, *others: object, **more: object
    ) -> object:
        operations.queue.send(JOBS[kind], [fields["instance_id"], None, "early"])
        return create(operations, fields, kind, *others, **more)

    return broken


def without_fence(write: Callable[..., object]) -> Callable[..., object]:
    def broken(claims: Claims, claim: Claim[Instance] | Claim[Binding], *others: object, **more: object) -> object:
        if found := claims.store.get(claim.record.key):
            operation = found.operation
            token = cast("str", operation.lease_token)  # None when it is released, which the filter matches too
            claim = replace(claim, fence=operation.fence, token=token)
        return write(claims, claim, *others, **more)

    return broken


def another_password(update_user: Callable[..., None]) -> Callable[..., None]:
    return lambda client, *user, password="", **more: update_user(client, *user, password=f"{password}-2", **more)


def forgives(delete_user: Callable[..., None]) -> Callable[..., None]:
    def broken(client: AtlasClient, *user: str) -> None:
        with contextlib.suppress(AtlasError):
            delete_user(client, *user)

    return broken


def deletes_once(delete_cluster: Callable[..., None]) -> Callable[..., None]:
    deleted: set[str] = set()

    def broken(client: AtlasClient, name: str, *kind: str) -> None:
        if name not in deleted:
            deleted.add(name)
            delete_cluster(client, name, *kind)

    return broken


def unauthorized_is_not_found(refusal: Callable[[int, str], type[Refused]]) -> Callable[[int, str], type[Refused]]:
    return lambda status, code: UserNotFound if status == 401 else refusal(status, code)


def always_takes_the_turn(take_turn: Callable[..., object]) -> Callable[..., object]:
    def broken(status: ClusterStatus, project: str, cluster: str, stages: list[Document], burst: int) -> object:
        long_ago = {"polled_at": None, "answered_at": None, "next_poll": None, "polls_booked": None}
        status.housekeeping.collection.update_one({"_id": f"cluster/{project}/{cluster}"}, {"$set": long_ago})
        return take_turn(status, project, cluster, stages, max(burst, 1))

    return broken


def keeps_the_user(definitions: dict[str, Definition[Any]]) -> dict[str, Definition[Any]]:
    bind = definitions[Kind.BIND]
    undo = dict.fromkeys(bind.undo, reporting(lambda _: Done(Phase.FAILED, "")))
    return {**definitions, Kind.BIND: replace(bind, undo=undo)}


def loses_no_connection(init: Callable[..., None]) -> Callable[..., None]:
    def broken(consumer: Consumer, *args: object, **options: object) -> None:
        init(consumer, *args, **options)
        consumer.connection_errors = (ZeroDivisionError,)  # which no connection raises

    return broken


JOB, CLAIMS, USERS, OWN_CLUSTER = (
    "workers.operations.atlas_job:AtlasJob",
    "broker_api.state.operation_claims",
    "workers.operations.database_users",
    "workers.operations.own_cluster",
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
            f"{CLAIMS}:DUE_AND_UNHELD",
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
            "workers.clusters.change_status:is_confirmed",
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
        Planted("a failed bind keeps its user", "workers.operations:DEFINITIONS", keeps_the_user)
    ],
    scenarios.an_unbind_waits_for_a_request_that_is_still_under_way: [
        Planted("unbind does not wait for requests under way", f"{JOB}.wait_for_late_effect", returns(None))
    ],
    scenarios.a_temporary_user_made_late_is_removed: [
        Planted("a temporary user is forgotten", f"{JOB}.wait_for_late_effect", returns(None))
    ],
    scenarios.a_waiting_operation_holds_no_worker: [
        Planted("everybody polls", "workers.clusters.change_status:ClusterStatus._update", always_takes_the_turn)
    ],
    cluster_scenarios.a_cluster_made_without_an_answer_is_found_again: [
        Planted("no look before a cluster is made", f"{OWN_CLUSTER}:look", returns(None))
    ],
    cluster_scenarios.a_cluster_of_another_with_the_name_is_not_touched: [
        Planted("a cluster of that name is always ours", f"{OWN_CLUSTER}:is_own_cluster", returns(value=True))
    ],
    cluster_scenarios.a_failed_provision_leaves_no_cluster: [
        Planted("a failed provision keeps its cluster", f"{OWN_CLUSTER}:terminate", returns(None))
    ],
    cluster_scenarios.a_lost_deletion_is_repeated: [
        Planted("a deletion is requested once", "workers.atlas.client:AtlasClient.delete_cluster", deletes_once)
    ],
    cluster_scenarios.a_creation_that_arrives_late_leaves_no_cluster: [
        Planted("clusters do not wait for requests under way", f"{JOB}.wait_for_late_effect", returns(None))
    ],
    slow.atlas_down_is_left_alone_and_all_goes_on_afterwards: [
        Planted("no circuit", "workers.guard.circuit_breaker:CircuitBreaker.take_probe", returns(value=True))
    ],
    slow.a_worker_outlives_redis_with_messages_unacknowledged: [
        Planted("a lost connection ends the worker", "workers.transport:Consumer.__init__", loses_no_connection)
    ],
}
FAULTS = [fault for faults in CAUGHT.values() for fault in faults]
