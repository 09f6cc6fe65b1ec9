"""Composes everything that the HTTP layer serves: the verbs of instances and bindings, the catalog and the health."""

from dataclasses import dataclass
from typing import Self

from broker_api.catalog.catalog import Catalog
from broker_api.jobs.queue import Queue
from broker_api.service.bindings import Bindings
from broker_api.service.health import Health
from broker_api.service.instances import Instances
from broker_api.service.operation_start import OperationStarter
from broker_api.service.operation_views import OperationReader
from broker_api.service.sync_wait import SyncWait
from broker_api.settings.settings import Settings
from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.operation_counts import OperationCounts
from broker_api.state.operator_queries import OperatorQueries
from broker_api.state.store import Store


@dataclass(frozen=True)
class Service:
    """All that the HTTP layer serves."""

    catalog: Catalog
    instances: Instances
    bindings: Bindings
    health: Health
    operations: OperationReader

    @classmethod
    def compose(cls, settings: Settings, store: Store, queue: Queue) -> Self:
        """Return the service on a store and a queue.

        Raises:
            SettingError: the catalog in the ``Config`` is wrong.
        """
        catalog = Catalog(settings.config, settings.plans)
        housekeeping = Housekeeping(store)
        vault = store.macs.vault if store.macs.vault.has_keys else Vault(settings.encryption_keys)
        operations = OperationStarter(store, queue)
        sync_wait = SyncWait(store, settings.sync_wait)
        return cls(
            catalog=catalog,
            instances=Instances(settings, catalog, store, operations, sync_wait),
            bindings=Bindings(settings, catalog, store, operations, sync_wait, vault=vault),
            health=Health(
                store,
                housekeeping,
                queue,
                KeyCheck(housekeeping, vault),
                OperationCounts(store, Housekeeping(store, store.reports)),
            ),
            operations=OperationReader(OperatorQueries(store), settings.flower_url),
        )
