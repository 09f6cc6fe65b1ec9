"""The jobs: what each kind of operation does, step by step."""

from broker_api.state.records import Kind
from workers.jobs import bind, deprovision, provision, unbind, update
from workers.outcome import Steps

STEPS: dict[str, Steps] = {
    Kind.PROVISION: provision.STEPS,
    Kind.UPDATE: update.STEPS,
    Kind.DEPROVISION: deprovision.STEPS,
    Kind.BIND: bind.STEPS,
    Kind.UNBIND: unbind.STEPS,
}

UNDO: dict[str, Steps] = {
    Kind.PROVISION: provision.UNDO,
    Kind.UPDATE: update.UNDO,
    Kind.DEPROVISION: deprovision.UNDO,
    Kind.BIND: unbind.UNDO_BIND,
    Kind.UNBIND: unbind.UNDO,
}
"""What removes that which a failed operation made, before it ends."""
