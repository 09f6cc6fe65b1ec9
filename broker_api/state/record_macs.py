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
from broker_api.state.records import AnyResource, Binding, Instance, Operation, Place, Resource

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
OPERATION_FIELDS = ("id", "kind", "request")
"""The fields of the MAC of an operation."""
LATER_FIELDS: dict[type[Resource], dict[str, tuple[str, ...]]] = {
    Instance: {SETTLED: ("cluster_operation",)},
    Binding: {SETTLED: ("auth",)},
}
"""Fields that the MACs of earlier releases lack. With their default they are left out, so that those MACs fit."""
DEFAULTS: dict[type[Resource], dict[str, Any]] = {
    kind: {name: info.get_default(call_default_factory=True) for name, info in kind.model_fields.items()}
    for kind in GROUPS
}

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

    def of_new(self, key: str, fields: Mapping[str, Any] | None, operation: Operation | None = None) -> dict[str, str]:
        """Return the MACs of an instance or binding, and of its operation.

        Args:
            key: The ``_id`` of its document.
            fields: Its fields; the others have their defaults. None for the MAC of the operation alone.
            operation: The operation; None for no MAC of it.
        """
        if not self.vault.has_keys:
            return {}
        covered: dict[str, list[Any]] = {}
        if fields is not None:
            kind = Binding if "binding_id" in fields else Instance
            covered |= _covered(kind, {**DEFAULTS[kind], **fields})
        if operation is not None:
            covered[OPERATION] = [str(getattr(operation, name)) for name in OPERATION_FIELDS]
        return self.vault.macs(key, covered)

    def of_changed(self, before: Resource, changes: Mapping[str, Any]) -> dict[str, str]:
        """Return the new MACs of the groups of which a write changes a field.

        Args:
            before: The record before the write, which has been checked.
            changes: The changes.
        """
        kind, names = type(before), changes.keys()
        later = LATER_FIELDS[kind]
        changed = [group for group, own in GROUPS[kind].items() if names & {*own, *later.get(group, ())}]
        if not changed or not self.vault.has_keys:
            return {}
        covered = _covered(kind, {**vars(before), **changes})
        return self.vault.macs(before.key, {group: covered[group] for group in changed})

    def checked(self, stored: AnyResource, *, runs: bool = False) -> AnyResource:
        """Check the MACs of an instance or binding, unless its fields are not used (``Resource.is_used``).

        Args:
            stored: The record as it was read from MongoDB.
            runs: A worker is about to run its operation, so the MAC of that is checked too.

        Returns:
            The record with what is encrypted in MongoDB (see ``private_values``), if there are keys.

        Raises:
            TamperedError: A MAC does not fit, or is missing although it is required.
            MissingKeyError: The key of a MAC, or of what is encrypted, is not known.
            UndecryptableError: Something else has changed what is encrypted.
        """
        if not self.vault.has_keys or not (runs or stored.is_used):
            return stored
        sealed = stored.sealed_parameters or stored.sealed_context or stored.operation.sealed_request
        record = opened(self.vault, stored) if sealed else stored
        stored_macs = {REQUEST: record.request_mac, SETTLED: record.settled_mac, OPERATION: record.operation.mac}
        covered = _covered(type(record), vars(record))
        if runs:
            covered[OPERATION] = [str(getattr(record.operation, name)) for name in OPERATION_FIELDS]
        for group, fitting in self.vault.macs(record.key, covered, stored_macs).items():
            mac = stored_macs[group]
            if (mac is None and not self.required) or (mac and hmac.compare_digest(mac.encode(), fitting.encode())):
                continue
            why = "it has no MAC" if mac is None else "its MAC does not fit"
            log.error("record_tampered", document=record.key, mac=group, reason=why)
            binding_id = getattr(record, "binding_id", None)
            what = f"the binding {binding_id}" if binding_id else f"the instance {record.instance_id}"
            raise TamperedError(what, why)
        return record

    def renewed(self, stored: Resource) -> dict[str, str]:
        """Return the MACs of a record by the first key; a record of an earlier release gets its first ones.

        Raises:
            TamperedError, UndecryptableError: As in ``checked``.
        """
        if not stored.is_used:
            return {}
        record = self.checked(stored, runs=stored.operation.open or bool(stored.operation.mac))
        has_operation_mac = record.operation.mac or not self.required
        return self.of_new(record.key, vars(record), record.operation if has_operation_mac else None)

    def of_value(self, value: object, place: Place) -> str | None:
        """Return the MAC of values of another document; None without keys."""
        return self.vault.macs(place.document, {place.field: value})[place.field] if self.vault.has_keys else None

    def fits(self, value: object, mac: str | None, place: Place) -> bool:
        """Return whether the MAC of a value fits; also if there is none and none is required.

        Raises:
            MissingKeyError: Its key is not known.
        """
        if not self.vault.has_keys:
            return True
        if mac is None:
            return not self.required
        fitting = self.vault.macs(place.document, {place.field: value}, {place.field: mac})[place.field]
        return hmac.compare_digest(mac.encode(), fitting.encode())


def _covered(kind: type[Resource], fields: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values that each MAC of an instance or binding with these fields covers."""
    covered = {group: [fields[name] for name in names] for group, names in GROUPS[kind].items()}
    for group, names in LATER_FIELDS[kind].items():
        if later := {name: fields[name] for name in names if fields[name] != DEFAULTS[kind][name]}:
            covered[group].append(later)
    return covered
