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
from collections.abc import Callable, Mapping
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
LATER_FIELDS: dict[type[Resource], dict[str, tuple[str, ...]]] = {
    Instance: {SETTLED: ("cluster_operation",)},
    Binding: {SETTLED: ("auth",)},
}
"""Fields that the MACs of earlier releases lack. With their default they are left out, so that those MACs fit."""

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
        return {
            group: self.vault.mac(_values(kind, group, {**_defaults(kind), **fields}.__getitem__), Place(key, group))
            for group in GROUPS[kind]
            if self.vault.has_keys
        }

    def of_record(self, record: Resource) -> dict[str, str]:
        """Return the MACs of an instance or binding as it is."""
        return {
            group: self.vault.mac(_stored(record, group), Place(record.key, group)) for group in GROUPS[type(record)]
        }

    def of_changed(self, before: Resource, changes: Mapping[str, Any]) -> dict[str, str]:
        """Return the new MACs of the groups of which a write changes a field.

        Args:
            before: The record before the write, which has been checked.
            changes: The changes.
        """
        kind = type(before)
        return {
            group: self.vault.mac(
                _values(kind, group, lambda name: changes.get(name, getattr(before, name))), Place(before.key, group)
            )
            for group, names in GROUPS[kind].items()
            if self.vault.has_keys and not changes.keys().isdisjoint([*names, *_later(kind, group)])
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
            The record with what is encrypted in MongoDB (see ``private_values``), if there are keys.

        Raises:
            TamperedError: A MAC does not fit, or is missing although it is required.
            MissingKeyError: The key of a MAC, or of what is encrypted, is not known.
            UndecryptableError: Something else has changed what is encrypted.
        """
        if not self.vault.has_keys or not stored.readable or is_gone(stored):
            return stored
        record = opened(self.vault, stored)
        for group in GROUPS[type(record)]:
            mac = getattr(record, group)
            if not self.fits(_stored(record, group), mac, Place(record.key, group)):
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


def _defaults(kind: type[Resource]) -> dict[str, Any]:
    return {name: info.get_default(call_default_factory=True) for name, info in kind.model_fields.items()}


def _later(kind: type[Resource], group: str) -> tuple[str, ...]:
    return LATER_FIELDS.get(kind, {}).get(group, ())


def _values(kind: type[Resource], group: str, value_of: Callable[[str], Any]) -> list[Any]:
    """Return the values that a MAC is of."""
    later = {name: value_of(name) for name in _later(kind, group) if value_of(name) != kind.model_fields[name].default}
    return [*map(value_of, GROUPS[kind][group]), *([later] if later else [])]


def _stored(record: Resource, group: str) -> list[Any]:
    return _values(type(record), group, lambda name: getattr(record, name))


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
