"""Carries out a verb, for platforms that can poll and for platforms that cannot.

The request of a platform that cannot poll waits for its operation. If the wait ends before the operation fails, the
next identical request gets the failure.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext

from broker_api.errors import AsyncRequired, BadRequest, ConcurrencyError, OperationFailed, OutOfTime
from broker_api.json_types import JsonObject
from broker_api.service.operation_watcher import OperationWatcher
from broker_api.service.schemas import Accepted, Caller, Complete
from broker_api.state.private_values import opened
from broker_api.state.records import Binding, Instance, Kind, Operation, PastOperation, State
from broker_api.state.store import Store

RACES = 20
"""How often a request decides again because other requests changed the same document meanwhile."""
SERVICE_CATALOG = "kubernetes"
"""The name of Service Catalog's platform in contexts and originating identities (OSB profile)."""


class SyncWait:
    """Lets requests of platforms that cannot poll wait for their operations, up to ``seconds``."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._watcher = OperationWatcher(store)

    def carry_out(
        self,
        decide: Callable[[], Accepted | Complete | None],
        caller: Caller,
        key: str,
        completed: Callable[[], Complete],
        context: JsonObject | None = None,
    ) -> Accepted | Complete:
        """Start an operation, and wait for its end if the platform cannot poll.

        Args:
            decide: reads, checks and starts the operation; returns None when another request has changed the document
                meanwhile, and is called again then.
            caller: the platform, and whether it can poll.
            key: the document of the instance or binding.
            completed: returns the answer when the operation has succeeded.
            context: the request's context.

        Raises:
            AsyncRequired: the platform cannot poll, and waiting is turned off or too many requests wait already.
            ConcurrencyError: other requests changed the document each time, or the wait is over (see ``_wait``).
            OutOfTime: the wait is over.
            BadRequest, OperationFailed: the operation has failed.
        """
        if not caller.accepts_incomplete and self._seconds <= 0:
            raise AsyncRequired
        with nullcontext() if caller.accepts_incomplete else self._watcher.place():
            for _ in range(RACES):
                if decision := decide():
                    break
            else:
                raise ConcurrencyError
            if caller.accepts_incomplete or isinstance(decision, Complete):
                return decision
            self._wait(decision.operation, caller, key, context)
            return completed()

    def _wait(self, operation_id: str, caller: Caller, key: str, context: JsonObject | None) -> None:
        """Return when the operation has succeeded.

        Raises:
            BadRequest, OperationFailed: it has failed.
            ConcurrencyError: it is still running, and the platform is Service Catalog, which repeats the request after
                this error and so waits again; after a 504 it would delete the instance or binding.
            OutOfTime: it is still running, and the platform is another one. Cloud Foundry deletes the instance or
                binding after a 5xx, and would leave it behind after any other error.
        """
        began = time.monotonic()
        self._watcher.wait(key, operation_id, self._seconds)
        found, operation = self._latest(key, operation_id)
        if operation and operation.state == State.FAILED:
            raise _failure(operation)
        if operation and operation.state == State.SUCCEEDED:
            return
        instance = self._store.instance(found.instance_id) if isinstance(found, Binding) else None
        stored = found and opened(self._store.macs.vault, found)
        sources = (context, caller.identity, stored and stored.context, instance and instance.context)
        platform = next((each["platform"] for each in sources if each and each.get("platform")), None)
        raise ConcurrencyError if platform == SERVICE_CATALOG else OutOfTime(time.monotonic() - began)

    def _latest(
        self, key: str, operation_id: str
    ) -> tuple[Instance | Binding | None, Operation | PastOperation | None]:
        """Return the document and the operation. Mark a running operation: the next request gets its failure."""
        while found := self._store.get(key):
            operation = found.known_operation(operation_id)
            is_running = operation is found.operation and operation.state == State.IN_PROGRESS
            if not is_running or self._store.change(found, operation={"untold": True}):
                return found, operation
        return None, None

    def raise_untold_failure(self, found: Instance | Binding, kind: Kind, caller: Caller) -> None:
        """Raise the failure of an operation that failed after the request that waited for it had ended. Raise it once.

        Otherwise a platform that cannot poll would start the same operation again and again, and never see the reason.

        Raises:
            BadRequest, OperationFailed: the failure.
        """
        operation = found.operation
        is_untold = operation.untold and operation.kind == kind and operation.state == State.FAILED
        if is_untold and not caller.accepts_incomplete:
            self._store.change(found, operation={"untold": False})
            raise _failure(operation)


def _failure(operation: Operation | PastOperation) -> Exception:
    refused = isinstance(operation, Operation) and operation.refused
    return (BadRequest if refused else OperationFailed)(operation.description or "The operation failed.")
