"""The broker below HTTP, put together: the verbs of instances and bindings, the catalog, and how the broker is."""

from dataclasses import dataclass
from typing import Self

from broker_api.catalog.catalog import Catalog
from broker_api.jobs.queue import Queue
from broker_api.service.bindings import Bindings
from broker_api.service.instances import Instances
from broker_api.service.operations import Operations
from broker_api.service.status import Status
from broker_api.service.sync_wait import SyncWait
from broker_api.settings.settings import Settings
from broker_api.state.key_check import KeyCheck
from broker_api.state.store import Store
from broker_api.state.vault import Vault


@dataclass(frozen=True)
class Service:
    """What the HTTP layer serves."""

    catalog: Catalog
    instances: Instances
    bindings: Bindings
    status: Status

    @classmethod
    def compose(cls, settings: Settings, store: Store, queue: Queue) -> Self:
        """Put the service together on a store and a queue.

        Raises:
            SettingError: the catalog in the ``Config`` is wrong.
        """
        catalog = Catalog(settings.config)
        operations = Operations(store, queue)
        sync_wait = SyncWait(store, settings.sync_wait)
        return cls(
            catalog=catalog,
            instances=Instances(settings, catalog, store, operations, sync_wait),
            bindings=Bindings(settings, catalog, store, operations, sync_wait),
            status=Status(store, queue, KeyCheck(store, Vault(settings.encryption_keys))),
        )
