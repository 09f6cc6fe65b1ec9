"""Message authentication codes (MACs) of records, by which a document is refused that something else has changed.

An instance or binding has two MACs: ``request_mac`` of what the platform has asked for, which the API writes, and
``settled_mac`` of what the workers have decided since. Its operation has a third one. Each is of the named fields and
of the document's ``_id``, so that no field can be changed and nothing be copied to another document. What changes with
every step (phase, lease, times) has no MAC: with it one can delay or repeat an operation, but not aim it elsewhere.

Documents of earlier releases have no MACs. They are accepted until ``required`` is set: from the start of a new broker,
otherwise when ``atlas-broker keys rotate`` has given MACs to all documents. Those of atlasbroker 2.0.0 get theirs when
they are converted.
"""

import hmac
from collections.abc import Mapping
from typing import Any

import structlog

from broker_api.errors import TamperedError
from broker_api.state.encryption import Vault
from broker_api.state.private_values import opened
from broker_api.state.records import AnyResource, Binding, Instance, Operation, Phase, Place, Resource

REQUEST, SETTLED, OPERATION = "request_mac", "settled_mac", "operation.mac"
GROUPS: dict[type[Resource], dict[str, tuple[str, ...]]] = {
    Instance: {
        REQUEST: (
            "instance_id",
            "service_id",
            "plan_id",
            "plan",
            "organization_guid",
            "space_guid",
            "parameters",
            "legacy",
        ),
        SETTLED: ("project", "cluster", "database", "owned", "connection"),
    },
    Binding: {
        REQUEST: (
            "instance_id",
            "binding_id",
            "service_id",
            "plan_id",
            "app_guid",
            "bind_resource",
            "predecessor",
            "parameters",
            "legacy",
        ),
        SETTLED: ("project", "cluster", "database", "username", "roles", "endpoints", "expires"),
    },
}
"""The fields of each MAC of a record."""

log = structlog.get_logger(__name__)


class RecordMacs:
    """Makes and checks the MACs of records.

    Args:
        vault: The encryption keys. Without any, nothing gets a MAC and nothing is checked: commands that only show.
    """

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.required = False
        """Whether documents without MACs are refused."""

    def of_new(self, key: str, fields: Mapping[str, Any]) -> dict[str, str]:
        """Return the MACs of a new instance or binding.

        Args:
            key: The ``_id`` of its document.
            fields: Its fields; the others have their defaults.
        """
        kind = Binding if "binding_id" in fields else Instance
        defaults = {name: info.get_default(call_default_factory=True) for name, info in kind.model_fields.items()}
        return {
            group: self.vault.mac([fields.get(name, defaults[name]) for name in names], Place(key, group))
            for group, names in GROUPS[kind].items()
            if self.vault.has_keys
        }

    def of_record(self, record: Resource) -> dict[str, str]:
        """Return the MACs of an instance or binding as it is."""
        return {
            group: self.vault.mac([getattr(record, name) for name in names], Place(record.key, group))
            for group, names in GROUPS[type(record)].items()
        }

    def of_changed(self, before: Resource, changes: Mapping[str, Any]) -> dict[str, str]:
        """Return the new MACs of the groups of which a write changes a field.

        Args:
            before: The record before the write, which has been checked.
            changes: The changes.
        """
        return {
            group: self.vault.mac(
                [changes.get(name, getattr(before, name)) for name in names], Place(before.key, group)
            )
            for group, names in GROUPS[type(before)].items()
            if self.vault.has_keys and not changes.keys().isdisjoint(names)
        }

    def of_operation(self, key: str, operation: Operation) -> str | None:
        """Return the MAC of an operation."""
        return self.of_value(_operation_values(operation), Place(key, OPERATION))

    def checked(self, stored: AnyResource) -> AnyResource:
        """Check the MACs of an instance or binding, but not that of its operation.

        One that is gone is not checked: only its operation could use its fields, and that has ended.

        Args:
            stored: The record as it was read from MongoDB.

        Returns:
            The record with what is encrypted in MongoDB (see ``private_values``).

        Raises:
            TamperedError: A MAC does not fit, or is missing although it is required.
            MissingKeyError: The key of a MAC, or of what is encrypted, is not known.
            UndecryptableError: Something else has changed what is encrypted.
        """
        if not stored.readable or is_gone(stored):
            return stored
        record = opened(self.vault, stored)
        for group, names in GROUPS[type(record)].items():
            mac = getattr(record, group)
            if not self.fits([getattr(record, name) for name in names], mac, Place(record.key, group)):
                raise _tampered(record, group, mac)
        return record

    def all_checked(self, stored: AnyResource) -> AnyResource:
        """Check the MACs of an instance or binding and of its operation, before a worker runs it.

        Returns:
            The record, as ``checked`` returns it.

        Raises:
            TamperedError, UndecryptableError: As in ``checked``.
        """
        record = self.checked(stored)
        self._check_operation(record)
        return record

    def renewed(self, stored: Resource) -> dict[str, str]:
        """Return the MACs of a record by the first key; a record of an earlier release gets its first ones.

        Raises:
            TamperedError, UndecryptableError: As in ``checked``.
        """
        if is_gone(stored):
            return {}
        record = self.checked(stored)
        key, operation = record.key, record.operation
        begun_by_older = operation.mac is None and not self.required
        if operation.open or operation.mac:
            self._check_operation(record)
        own = self.of_record(record)
        if operation.mac or begun_by_older:
            own[OPERATION] = self.vault.mac(_operation_values(operation), Place(key, OPERATION))
        return own

    def of_value(self, value: object, place: Place) -> str | None:
        """Return the MAC of values of another document; None without keys."""
        return self.vault.mac(value, place) if self.vault.has_keys else None

    def fits(self, value: object, mac: str | None, place: Place) -> bool:
        """Return whether a MAC fits; also if there is none and none is required.

        Raises:
            MissingKeyError: Its key is not known.
        """
        if not self.vault.has_keys or (mac is None and not self.required):
            return True
        return mac is not None and hmac.compare_digest(mac.encode(), self.vault.mac(value, place, mac).encode())

    def _check_operation(self, record: Resource) -> None:
        mac = record.operation.mac
        if not self.fits(_operation_values(record.operation), mac, Place(record.key, OPERATION)):
            raise _tampered(record, OPERATION, mac)


def _tampered(record: Resource, group: str, mac: str | None) -> TamperedError:
    why = "its MAC does not fit" if mac else "it has no MAC"
    log.error("record_tampered", document=record.key, mac=group, reason=why)
    return TamperedError(_name(record), why)


def is_gone(record: Resource) -> bool:
    """Return whether an instance or binding is gone; the phase has no MAC, so an open operation counts more."""
    return record.phase is Phase.GONE and not record.operation.open


def _operation_values(operation: Operation) -> list[Any]:
    return [operation.id, str(operation.kind), operation.request]


def _name(record: Resource) -> str:
    if isinstance(record, Binding):
        return f"the binding {record.binding_id}"
    return f"the instance {record.instance_id}"
