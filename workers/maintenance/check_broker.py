"""The part of ``atlas-broker check`` that reads what the processes of the broker have reported in MongoDB."""

from collections.abc import Iterator

from broker_api.state.announcements import KEY_REFUSED, NEAR_RATE_LIMIT, RATE_LIMITED, WRONG_ENCRYPTION_KEYS
from broker_api.state.broker_state import BrokerState
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.open_operations import OpenOperations
from broker_api.state.store import Store
from workers.maintenance.findings import GOOD, WARN, Finding

_ADVICE = {
    WRONG_ENCRYPTION_KEYS: "give it the BROKER_ENCRYPTION_KEYS of the other processes, and restart it",
    KEY_REFUSED: "compare its Atlas key with that of the other workers, and restart it with the right one",
    RATE_LIMITED: "it goes on by itself; find what else uses the rate limit of the project",
    NEAR_RATE_LIMIT: "it slows down by itself; find what else uses the rate limit of the project",
}
"""What to do about the trouble of a worker."""


def check_broker(store: Store) -> Iterator[Finding]:
    """Yield the findings about workers, sends, operations that wait unusually long, circuit breakers and drift.

    Raises:
        ErrStorageMongoConnection: MongoDB cannot be used.
    """
    state = BrokerState.read(Housekeeping(store))
    yield from _workers(state)
    for failure in state.failures:
        yield WARN, f"sends: a process could not send its last message. {failure}"
    for (kind, why), number in OpenOperations.read(store).long.items():
        waiting = f"{number} of type {kind} in progress for more than 2 minutes, {why}"
        yield WARN, f"operations: {waiting}; see atlas-broker operations list --older-than 2m"
    for project, opened in state.circuits.items():
        if opened is not None:
            yield WARN, f"project {project}: its circuit breaker is open, and operations wait. {opened}"
    yield from _drift(state)


def _workers(state: BrokerState) -> Iterator[Finding]:
    idle = [queue for queue, workers in state.workers_by_queue.items() if not workers]
    for queue in idle:
        yield WARN, f"workers: no live worker consumes the queue {queue}; start one, or look at the log of those there"
    if not idle:
        yield GOOD, f"workers: {len(state.workers)} live, each queue is consumed"
    for worker in state.workers:
        for trouble, projects in worker.troubles.items():
            where = f"{worker.name}, process {worker.pid} on {worker.host}"
            of = f" (project {', '.join(projects)})" if any(projects) else ""
            yield WARN, f"workers: {where}: {trouble}{of}; {_ADVICE.get(trouble, 'look at its log')}"


def _drift(state: BrokerState) -> Iterator[Finding]:
    for kind, number in state.drift.items():
        if number:
            yield WARN, f"drift: {number} of {kind} at the last reconciliation; see atlas-broker reconcile"
    for project, why in state.not_compared.items():
        yield WARN, f"drift: the last reconciliation could not compare the project {project}. {why}"
