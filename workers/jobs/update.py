"""``atlas.update``: changes parameters, and the roles of existing bindings where those follow from them."""

import json
from typing import Any

from broker_api.state.records import Binding, Instance, Phase
from workers.atlas.client import Refused
from workers.hooks import called
from workers.job import Job, atlas_roles, binding_view, roles_of
from workers.outcome import Done, FailedError, Later, Outcome, Steps

LOOK_SECONDS = 1.0


def change(job: Job[Instance]) -> Outcome:
    """Bring the roles of all bindings to what the new parameters give, then wait until that is applied."""
    bindings = job.parts.store.bindings(job.record.instance_id)
    if any(binding.phase is not Phase.READY and binding.operation.open for binding in bindings):
        return Later(LOOK_SECONDS, "Waiting until bindings that are being worked on are done.")
    if _set_roles(job, bindings, _updated(job)):
        return job.wait_applied("apply")
    return _done(job)


def _asked(job: Job[Instance]) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(job.operation.request)
    return asked


def _updated(job: Job[Instance]) -> Instance:
    asked = _asked(job)
    return job.record.model_copy(update={"parameters": asked["parameters"], "plan_id": asked["plan_id"]})


def _set_roles(job: Job[Instance], bindings: list[Binding], instance: Instance) -> bool:
    """Give each user the roles that follow from ``instance``; say whether any had others.

    All roles are worked out before the first is changed: a hook that fails leaves nothing half done.
    """
    changed = []
    for binding in bindings:
        if binding.phase is not Phase.READY or binding.username is None:
            continue
        view = binding_view(job.config, binding, instance)
        roles = called("generate_binding_permissions", lambda view=view: roles_of(job.config, view))  # type: ignore[misc]
        if roles != binding.roles:
            changed.append((binding, roles))
    for binding, roles in changed:
        _patch(job, binding, roles)
    return bool(changed)


def _patch(job: Job[Instance], binding: Binding, roles: list[dict[str, str]]) -> None:
    """Change Atlas first, then what is remembered: if this is interrupted, the next attempt does both again."""
    try:
        job.atlas.update_user(binding.username or "", roles=atlas_roles(roles))
    except Refused as error:
        if not error.gone:
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


STEPS: Steps = {"": change, "apply": apply}
UNDO: Steps = {"": put_back}
