"""More provisions than a worker has threads do not keep it from working for bindings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import celeryconfig
from tests.books import held
from tests.dev.stack import Stack
from tests.integration.redis.gated_config import closed_gate
from tests.tenant import CLUSTER, Tenant, eventually, together
from workers.queue_order import KEPT_SHARE

THREADS = celeryconfig.worker_concurrency
OTHERS = THREADS - THREADS // KEPT_SHARE


@contextmanager
def running_operations(stack: Stack) -> Iterator[Callable[[], int]]:
    """A count of the operations that the worker runs now."""
    with held(stack) as documents:
        yield lambda: documents.count_documents({"operation.open": True, "operation.lease_token": {"$ne": None}})


def test_a_bind_ends_while_provisions_occupy_all_threads_that_they_may(fragile: Stack, tmp_path: Path) -> None:
    with fragile.client() as client, running_operations(fragile) as running:
        bound = Tenant(client).provision()
        tenants = [Tenant(client) for _ in range(THREADS + 2)]
        with closed_gate(tmp_path) as gate:
            parameters = {"cluster": CLUSTER, "gate": gate}
            accepted = together(*[partial(client.provision, each.instance_id, parameters) for each in tenants])
            eventually(lambda: running() == OTHERS, "provisions occupy their share of the threads")
            bound.bind("b")
            bound.unbind("b")
            assert running() == OTHERS
        for tenant, answer in zip(tenants, accepted, strict=True):
            tenant.succeed(answer)
