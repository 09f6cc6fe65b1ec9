"""What a command works with: the state and the queue, from the settings of the environment."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import click
from pymongo.errors import PyMongoError

from broker_api.errors import BrokerError, ErrStorageMongoConnection, ErrStorageUnreadable
from broker_api.jobs.queue import JOBS, Queue
from broker_api.settings.redis_settings import RedisSettings
from broker_api.settings.settings import load
from broker_api.state.database_reservations import Reservations
from broker_api.state.encryption import Vault
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.mongo_errors import reason
from broker_api.state.operator_actions import OperatorActions, RefusedError
from broker_api.state.operator_queries import OperatorQueries
from broker_api.state.records import Binding, Instance
from broker_api.state.store import Store

_UNUSABLE = "MongoDB cannot be used: {}; look at BROKER_MONGO_URI, the network and the user."


@dataclass(frozen=True)
class Session:
    """The parts of the broker that commands use."""

    store: Store
    redis: RedisSettings

    @cached_property
    def housekeeping(self) -> Housekeeping:
        """The small documents by name."""
        return Housekeeping(self.store)

    @cached_property
    def queries(self) -> OperatorQueries:
        """The queries of operators."""
        return OperatorQueries(self.store)

    @cached_property
    def actions(self) -> OperatorActions:
        """The changes of operators, with the user of the system in their entries."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user id has no name
            user = f"uid {os.getuid()}"
        return OperatorActions(self.store, Reservations(self.housekeeping), f"{user}@{socket.gethostname()}")

    @cached_property
    def queue(self) -> Queue:
        """Sends jobs to the workers."""
        return Queue(self.redis, self.store.report)

    def send(self, changed: Instance | Binding) -> None:
        """Send the job of the latest operation, and print what happens next."""
        binding_id = changed.binding_id if isinstance(changed, Binding) else None
        operation = changed.operation
        sent = self.queue.send(JOBS[operation.kind], [changed.instance_id, binding_id, operation.id])
        later = "Redis did not take the message; workers look for such operations themselves, within seconds."
        click.echo("A worker takes it now." if sent else later, err=True)


@contextmanager
def opened() -> Iterator[Session]:
    """Open the state for a command.

    Raises:
        SettingError: A setting is missing or wrong.
        ClickException: MongoDB cannot be used, or the state does not allow what the command asks for.
    """
    settings = load(os.environ, "operator")
    try:
        client = connect(settings.mongo_uri, settings.mongo_timeout_ms)
    except (PyMongoError, ValueError) as error:  # the DNS record of mongodb+srv:// is read at once
        raise click.ClickException(_UNUSABLE.format(reason(error))) from None
    try:
        with client:
            vault = Vault(settings.encryption_keys)
            store = Store(client, settings.mongo_db, settings.mongo_collection, vault)
            try:
                yield Session(store, settings.redis)
            finally:
                with suppress(ErrStorageMongoConnection):
                    store.report.flush()
    except ErrStorageMongoConnection as error:
        raise click.ClickException(_UNUSABLE.format(error.reason)) from None
    except (RefusedError, BrokerError, ErrStorageUnreadable) as error:
        raise click.ClickException(str(error)) from None
