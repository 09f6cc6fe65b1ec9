"""From which queues a worker takes jobs: some of its threads are kept for binds and unbinds.

Provisions of a slow Atlas would otherwise occupy all threads of a worker that serves all queues, and a bind would wait
for the end of one.
"""

import sys

from celery.worker import state
from kombu.utils.scheduling import round_robin_cycle

from broker_api.jobs.queue import QUEUES

FIRST = QUEUES["atlas.bind"]
KEPT_SHARE = 4
"""One of so many threads is kept for ``FIRST``."""


class QueueOrder(round_robin_cycle):  # type: ignore[type-arg]  # it has arguments in the stub only
    """kombu's order, in turn, for the transport option ``queue_order_strategy``."""

    threads = sys.maxsize
    """The threads of this worker, as soon as its consumer has told them."""

    def consume(self, n: int) -> list[str]:  # type: ignore[override]  # kombu also returns a list
        """Return the queues to ask for a job: only ``FIRST`` while jobs of others occupy all threads that they may.

        Args:
            n: The number of queues that the worker consumes.
        """
        queues = list(super().consume(n))
        most = max(1, self.threads - max(1, self.threads // KEPT_SHARE))  # a single thread works for all
        return [FIRST] if FIRST in queues and _jobs_of_others() >= most else queues


def _jobs_of_others() -> int:
    """Return how many jobs of other queues than ``FIRST`` this worker has."""
    # The set behind the WeakSet can be copied while pool threads remove their jobs; the WeakSet itself cannot.
    references = tuple(state.reserved_requests.data)  # type: ignore[attr-defined]  # no stub
    requests = [reference() for reference in references]
    return sum(request is not None and QUEUES[request.name] != FIRST for request in requests)
