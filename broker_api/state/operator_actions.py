"""What operators change in the state: an operation is retried or cancelled, an instance or binding is purged.

Each change is one atomic update. Its filter contains the operation and the state that were read, and the update takes
a new fence: a worker that runs the operation at that moment cannot write any more.
"""

import secrets
from dataclasses import dataclass

from broker_api.state.bind_reads import UNLIMITED
from broker_api.state.database_reservations import Reservations
from broker_api.state.fields import BindingFields, InstanceFields, OperationFields, ResourceFields
from broker_api.state.mongo import NOW, Document, In, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.new_operation import OPERATION_SECONDS, PAST, UNSURE_UNTIL, NewOperation
from broker_api.state.operation_claims import ENDED, phase_fields
from broker_api.state.private_values import CONTEXT, PARAMETERS
from broker_api.state.records import CREATES, DELETES, HOLDS_NOTHING, Binding, Instance, Kind, Phase, State
from broker_api.state.store import Store

REMEMBERED_ACTIONS = 20

_PHASES: dict[str, Phase] = {
    Kind.PROVISION: Phase.CREATING,
    Kind.BIND: Phase.CREATING,
    Kind.UPDATE: Phase.READY,
    Kind.DEPROVISION: Phase.DELETING,
    Kind.UNBIND: Phase.DELETING,
}
"""The phase of an instance or binding while an operation of this kind is in progress."""


class RefusedError(Exception):
    """The change is not possible; the message says why, as a sentence for operators."""


@dataclass(frozen=True)
class OperatorActions:
    """The changes, each with an entry about the operator.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used.

    Attributes:
        store: The instances and bindings.
        reservations: The reservations of databases.
        user: The user of the system, for the entry on the operation.
    """

    store: Store
    reservations: Reservations
    user: str

    def retry(self, found: Instance | Binding) -> None:
        """Let the latest operation of an instance or binding, which has failed, begin again with a new deadline.

        Raises:
            RefusedError: The operation has not failed, is being undone, or its instance does not allow it.
        """
        operation = found.operation
        _require_understood(found)
        if operation.state is not State.FAILED:
            raise RefusedError(f"{operation.id} is {operation.state}; only a failed operation can be retried.")
        if operation.open and operation.undo:
            raise RefusedError(f"{operation.id} is still removing what it made; retry it when that has ended.")
        phase = _PHASES.get(operation.kind)
        if phase is None:
            raise RefusedError(f"{operation.id} is of a kind that only another release of the broker knows.")
        if found.phase is Phase.GONE:
            raise RefusedError(f"{operation.id} cannot be retried: what it was to delete is gone.")
        if isinstance(found, Binding) and operation.kind is Kind.BIND:
            instance = self.store.instance(found.instance_id)
            if instance is None or instance.phase is not Phase.READY:
                raise RefusedError(f"{operation.id} cannot be retried: the instance {found.instance_id} is not ready.")
        again: OperationFields = {
            "state": State.IN_PROGRESS,
            "open": True,
            "undo": False,
            "refused": False,
            "step": "",
            "description": None,
            "error": None,
            "failure": None,
            "finished": None,
            "changed": None,
            "overlapped": False,
            "warned": 0,
            "accepted": In(0),
            "deadline": In(max(OPERATION_SECONDS, (operation.deadline - operation.accepted).total_seconds())),
        }
        fields = assignments(ResourceFields(phase=phase, expire_at=None))
        if operation.kind is Kind.BIND:  # it counts for the quota, which does not bind the operator
            fields |= assignments(ResourceFields(slot=secrets.randbelow(UNLIMITED)))
        self._write(found, "operations retry", fields | assignments({**again, **_DUE}, "operation."))

    def cancel(self, found: Instance | Binding) -> None:
        """Fail the latest operation of an instance or binding, which is in progress; workers run its undo steps.

        Raises:
            RefusedError: The operation is not in progress.
        """
        operation = found.operation
        _require_understood(found)
        if operation.state is not State.IN_PROGRESS:
            raise RefusedError(f"{operation.id} is {operation.state}; only one in progress can be cancelled.")
        sentence = " ".join(filter(None, ["The operator of the broker has cancelled the operation.", operation.error]))
        failed: OperationFields = {
            "state": State.FAILED,
            "finished": In(0),
            "description": sentence,
            "failure": sentence,
            "undo": True,
            "step": "",
            "in_flight": False,
        }
        fields = assignments({**failed, **_DUE}, "operation.") | {"unsure_until": UNSURE_UNTIL}
        if operation.kind in CREATES:
            fields |= assignments(ResourceFields(phase=Phase.FAILED, slot=None))
        self._write(found, "operations cancel", fields)
        self.store.report.ended(operation.kind, State.FAILED)

    def purge_instance(self, found: Instance, *, with_bindings: bool) -> int:
        """Forget an instance, its bindings and its reservation of a database, without a call to Atlas.

        Of an instance that is gone, only the bindings that an interrupted purge has left are purged.

        Args:
            found: The instance.
            with_bindings: Also if it has bindings that are not gone.

        Returns:
            The number of bindings that were purged.

        Raises:
            RefusedError: It is gone, or it has bindings and ``with_bindings`` is not set.
        """
        bindings = self._bindings_that_hold_users(found)
        if bindings and not with_bindings:
            sentence = (
                f"The instance {found.instance_id} has {len(bindings)} bindings; purge them too: --with-bindings."
            )
            raise RefusedError(sentence)
        if found.phase is not Phase.GONE or not bindings:
            self._purge(found, Kind.DEPROVISION, InstanceFields(sealed_dropper=None, owned=found.owns_database))
            self.reservations.end_drop(found, found.instance_id)
            if found.was_ready:
                self.reservations.leave(found)
            elif found.database:
                self.reservations.withdraw(found)
        bindings = self._bindings_that_hold_users(found)  # with those that began meanwhile; from now on none can
        for binding in bindings:
            self.purge_binding(binding)
        return len(bindings)

    def _bindings_that_hold_users(self, instance: Instance) -> list[Binding]:
        found = self.store.bindings(instance.instance_id)
        return [each for each in found if each.phase not in HOLDS_NOTHING or each.operation.open]

    def purge_binding(self, found: Binding) -> None:
        """Forget a binding, without a call to Atlas.

        Raises:
            RefusedError: It is gone already.
        """
        self._purge(found, Kind.UNBIND, BindingFields(sealed_credentials=None, username=None, made=False))

    def _purge(self, found: Instance | Binding, kind: Kind, fields: InstanceFields | BindingFields) -> None:
        """End the latest operation and write a delete that has succeeded, or end a delete that is in progress."""
        _require_understood(found)
        if found.phase is Phase.GONE:
            raise RefusedError(f"{_name(found)} is gone already.")
        ended: OperationFields = {
            **ENDED,
            "state": State.SUCCEEDED,
            "description": "The operator of the broker has removed the record; Atlas was not asked.",
            "finished": In(0),
        }
        unread = dict.fromkeys((PARAMETERS, CONTEXT))  # the key that wrote them may be lost
        values = assignments({**fields, **unread, "unsure_until": None, **phase_fields(Phase.GONE)})
        in_progress = found.operation.state is State.IN_PROGRESS
        if in_progress and found.operation.kind in DELETES:
            values |= assignments(ended, "operation.")
        else:
            values |= {"operation": NewOperation(kind).fields() | assignments(ended), "past": PAST}
        if found.legacy:
            self.store.legacy.forget(found)
        self._write(found, "purge", values)
        if in_progress and found.operation.kind not in DELETES:  # it is stopped (see PAST)
            self.store.report.ended(found.operation.kind, State.FAILED)
        self.store.report.ended(kind, State.SUCCEEDED)

    @storage_errors("change an operation")
    def _write(self, found: Instance | Binding, command: str, fields: Document) -> None:
        """Write fields and the entry about the operator, if the operation is still as it was read.

        Raises:
            RefusedError: It has changed meanwhile.
        """
        operation = found.operation
        unchanged = {
            "_id": found.key,
            "phase": str(found.phase),
            "operation.id": operation.id,
            "operation.state": str(operation.state),
            "operation.open": operation.open,
            "operation.undo": operation.undo,
        }
        entry = {"at": NOW, **assignments({"user": self.user, "command": command})}
        entries = {"$concatArrays": [{"$ifNull": ["$operation.actions", []]}, [entry]]}
        noted = {
            "operation.fence": {"$add": ["$operation.fence", 1]},
            "operation.actions": {"$slice": [entries, -REMEMBERED_ACTIONS]},
        }
        if not self.store.collection.update_one(unchanged, [{"$set": fields}, {"$set": noted}]).matched_count:
            raise RefusedError(f"{_name(found)} has changed at this moment. Look at it, and try again.")


_DUE: OperationFields = {"due": In(0), "dispatched": In(0), "sends": 0, "waits_on": None, "attempts": 0, "refusals": 0}
"""The operation is sent now; the sweeper sends it again if that message is lost."""


def _name(found: Instance | Binding) -> str:
    kind, name = ("binding", found.binding_id) if isinstance(found, Binding) else ("instance", found.instance_id)
    return f"The {kind} {name}"


def _require_understood(found: Instance | Binding) -> None:
    if not found.understood:
        raise RefusedError(f"{_name(found)} is in a state that only another release of the broker knows.")
