"""``atlas.update``: changes parameters, and the roles of existing bindings where those follow from them."""

import json
from typing import Any

from broker_api.state.records import Binding, Instance, Phase
from workers.atlas.client import Refused
from workers.hooks import called
from workers.job import Job, atlas_roles, binding_view, roles_of
from workers.outcome import Done, FailedError, Later, Next, Outcome, Steps

LOOK_SECONDS = 1.0


def change(job: Job[Instance]) -> Outcome:
    """See what the new parameters mean: for the way to connect, and for the roles of bindings that exist."""
    bindings = job.parts.store.bindings(job.record.instance_id)
    if any(_has_its_roles(binding) for binding in bindings):
        return Later(LOOK_SECONDS, "Waiting until bindings that are being made are done.")
    updated = _updated(job)
    if job.way_to_connect(updated) != job.way_to_connect(job.record):
        job.parts.connections.known(job.atlas, job.cluster, job.way_to_connect(updated))
    return Next("roles") if _changes(job, bindings, updated) else _done(job)


def set_roles(job: Job[Instance]) -> Outcome:
    """Bring the roles of all bindings to what the new parameters give, then wait until that is applied.

    A step of its own: whoever goes on after a crash waits too, though it finds no role left to change.
    """
    _set_roles(job, job.parts.store.bindings(job.record.instance_id), _updated(job))
    return job.wait_applied("apply")


def _has_its_roles(binding: Binding) -> bool:
    """Say whether a binding in the making has settled its roles; one that has not waits for the update."""
    return binding.phase is Phase.CREATING and binding.operation.open and binding.operation.step != ""


def _asked(job: Job[Instance]) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(job.operation.request)
    return asked


def _updated(job: Job[Instance]) -> Instance:
    asked = _asked(job)
    changes: dict[str, Any] = {name: asked[name] for name in ("parameters", "plan_id", "plan") if name in asked}
    return job.record.model_copy(update=changes)


Change = tuple[Binding, list[dict[str, str]]]


def _changes(job: Job[Instance], bindings: list[Binding], instance: Instance) -> list[Change]:
    """Give the bindings whose user has other roles than follow from ``instance``, with those roles."""
    now = job.parts.store.now()
    changed = []
    for binding in bindings:
        if binding.phase is not Phase.READY or binding.username is None or (binding.expires and binding.expires <= now):
            continue
        view = binding_view(job.config, binding, instance)
        roles = called("generate_binding_permissions", lambda view=view: roles_of(job.config, view))  # type: ignore[misc]
        if roles != binding.roles:
            changed.append((binding, roles))
    return changed


def _set_roles(job: Job[Instance], bindings: list[Binding], instance: Instance) -> None:
    """Give each user its roles; all are worked out before: a hook that fails leaves nothing half done."""
    for binding, roles in _changes(job, bindings, instance):
        _patch(job, binding, roles)


def _patch(job: Job[Instance], binding: Binding, roles: list[dict[str, str]]) -> None:
    """Change Atlas first, then what is remembered: if this is interrupted, the next attempt does both again."""
    try:
        job.atlas.update_user(binding.username or "", roles=atlas_roles(roles))
    except Refused as error:
        if not error.gone and not error.expired:
            raise
    job.parts.store.change(binding.key, binding.operation, {"roles": roles})


def apply(job: Job[Instance]) -> Outcome:
    """Wait until the roles hold on the cluster."""
    return job.not_applied() or _done(job)


def _done(job: Job[Instance]) -> Done:
    asked = _asked(job)
    if asked.get("context") is None:
        asked.pop("context", None)
    return Done(Phase.READY, "The instance has been updated.", asked)


def put_back(job: Job[Instance]) -> Outcome:
    """Give the users the roles that they had: a failed update changes nothing (spec: Updating)."""
    try:
        _set_roles(job, job.parts.store.bindings(job.record.instance_id), job.record)
    except FailedError as error:
        return Later(LOOK_SECONDS, str(error))
    return Done(Phase.READY, "")


STEPS: Steps = {"": change, "roles": set_roles, "apply": apply}
UNDO: Steps = {"": put_back}
