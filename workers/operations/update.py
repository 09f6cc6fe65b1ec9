"""``atlas.update``: changes the parameters, and what depends on them.

That is the project's access list, the roles of the bindings' users, and the instance's own cluster.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypedDict

import structlog

from broker_api.errors import MissingKeyError, TamperedError, UndecryptableError
from broker_api.state.fields import InstanceFields
from broker_api.state.records import Binding, Instance, Phase
from workers.atlas.client import Cluster, Refused, UserExpired, UserNotFound
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, Later, Next, Result
from workers.operations.access import allow_access, wait_for_access, withdraw_access
from workers.operations.atlas_job import AtlasJob
from workers.operations.bind import Step as BindStep
from workers.operations.cluster_changes import idle_cluster, request, requested_changes, take_back
from workers.operations.config_hooks import binding_roles, binding_view
from workers.operations.database_users import atlas_roles, is_ours
from workers.operations.own_cluster import look_again

log = structlog.get_logger(__name__)

BIND_LOOK_SECONDS = 1.0


class Step(StrEnum):
    """check → (access) → (roles → wait applied →) (cluster → wait →) finish; undo: restore cluster → roles → access."""

    CHECK = "check"
    ALLOW_ACCESS = "allow access"
    WAIT_FOR_ACCESS = "wait for access"
    CHANGE_ROLES = "roles"
    WAIT_APPLIED = "apply"
    CHANGE_CLUSTER = "change cluster"
    WAIT_FOR_CLUSTER = "wait for cluster"
    FINISH = "finish"
    RESTORE_CLUSTER = "restore cluster"
    RESTORE_ROLES = "restore"
    WITHDRAW_ACCESS = "withdraw access"


class Requested(TypedDict, total=False):
    """The JSON in the operation's ``request``: the values after the update."""

    plan_id: str
    plan: dict[str, object]
    parameters: dict[str, object]
    maintenance_version: str | None
    context: dict[str, object] | None


def check(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Check the new connection strings, and find out whether the roles of bindings change."""
    now = job.context.store.now()
    for binding in job.context.store.bindings(job.record.instance_id):
        # A bind that no worker has claimed reads this update when one does, and waits for it.
        operation = binding.operation
        unsettled = operation.undo or operation.step in ("", BindStep.SETTLE_CREDENTIALS)
        waits = unsettled and operation.lease_until <= now
        if binding.phase is Phase.CREATING and operation.open and not waits:
            return Later(BIND_LOOK_SECONDS, "Waiting until bindings that are being made are done.")
    updated = _updated(job)
    if job.connection_choice(updated) != job.connection_choice(job.record):
        job.connection_strings(updated)
    if job.plan_of(updated).access_list:
        return Next(Step.ALLOW_ACCESS)
    return _roles_or_end(job)


def add_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Add the entries of the plan after the update to the access list of the project."""
    allow_access(job, _access_list(job))
    return Next(Step.WAIT_FOR_ACCESS)


def await_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until the entries are active."""
    return wait_for_access(job, _access_list(job), Step.ALLOW_ACCESS) or _roles_or_end(job)


def _access_list(job: AtlasJob[Instance]) -> Sequence[str]:
    return job.plan_of(_updated(job)).access_list


def _roles_or_end(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    return Next(Step.CHANGE_ROLES) if _role_changes(job, _updated(job)) else _cluster_or_end(job)


def _cluster_or_end(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    return Next(Step.CHANGE_CLUSTER) if requested_changes(job.record, _updated(job)) else finish(job)


def change_roles(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Set the roles of all bindings by the new parameters.

    This is a step of its own: after a crash the next worker waits for the change, although it has no role to set.
    """
    _set_roles(job, _updated(job))
    return job.users_changed(Step.WAIT_APPLIED)


def wait_applied(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until Atlas has applied the new roles on the cluster."""
    return job.wait_until_applied() or _cluster_or_end(job)


def change_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Request the change of the instance's own cluster; wait while Atlas still works on an earlier one."""
    cluster = idle_cluster(job)
    if isinstance(cluster, Later):
        return cluster
    if request(job, cluster, requested_changes(job.record, _updated(job))):
        return replace(look_again(job, "UPDATING"), step=Step.WAIT_FOR_CLUSTER)
    return _changed(job, cluster)  # by an earlier attempt


def wait_for_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until Atlas has changed the cluster."""
    cluster = idle_cluster(job)
    if isinstance(cluster, Later):
        return cluster
    return _changed(job, cluster)


def _changed(job: AtlasJob[Instance], cluster: Cluster) -> Next[InstanceFields]:
    job.context.connection_strings.store(job.project, cluster)
    job.context.cluster_polls.forget(job.project, job.cluster)
    return Next(Step.FINISH)


def finish(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the entries of the access list that the instance does not need any more, and end the operation."""
    return withdraw_access(job, keep=_access_list(job)) or _done(job)


def restore_cluster(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Set the values of the cluster from before the update, if they were changed."""
    if Step.CHANGE_CLUSTER in job.operation.steps:
        take_back(job, requested_changes(job.record, _updated(job)))
    return Next(Step.RESTORE_ROLES, repeatable=True)


def restore_roles(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Set the roles from before the update: a failed update changes nothing (spec: Updating a Service Instance).

    It also sets roles that an earlier update has left, whose undo this update has replaced. Bindings that are not as
    the broker wrote them are left out: the steps before have not changed them. So are those whose roles a hook or Atlas
    refuses.
    """
    _set_roles(job, job.record)
    return Next(Step.WITHDRAW_ACCESS, repeatable=True)


def remove_access(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the entries of the access list that the update has added."""
    return withdraw_access(job, keep=job.plan_of(job.record).access_list) or Done(Phase.READY, "")


def _updated(job: AtlasJob[Instance]) -> Instance:
    """Return the instance with the plan and the parameters that the update requests."""
    requested: Requested = json.loads(job.operation.request)
    changed = ("parameters", "plan_id", "plan")
    return job.record.model_copy(update={name: value for name, value in requested.items() if name in changed})


def _role_changes(job: AtlasJob[Instance], instance: Instance) -> list[tuple[Binding, list[dict[str, str]]]]:
    """Return each binding whose roles change with the parameters of ``instance``, and its new roles."""
    now, undo = job.context.store.now(), job.operation.undo
    changes = []
    for binding in job.context.store.bindings(instance.instance_id):
        expired = binding.expires is not None and binding.expires <= now
        unknown = binding.username is None or (binding.legacy and not binding.made)
        if binding.phase is not Phase.READY or unknown or expired:
            continue
        try:
            checked = job.context.store.macs.checked(binding)
        except (TamperedError, UndecryptableError) as error:
            if undo and not isinstance(error, MissingKeyError):
                continue
            raise
        try:
            roles = binding_roles(job.config, binding_view(job.config, checked, instance))
        except FailedError as error:
            if not undo:
                raise
            log.warning("roles_not_restored", username=checked.username, reason=str(error))
            continue
        if roles != checked.roles or not checked.roles:  # without roles: Atlas may have any (see ``_set_roles``)
            changes.append((checked, roles))
    return changes


def _set_roles(job: AtlasJob[Instance], instance: Instance) -> None:
    """Set the roles of each user in Atlas and in MongoDB.

    Until Atlas has answered, MongoDB has no roles. So the next attempt, the undo or another update does it again.
    All new roles are computed first, so that a hook that fails stops the update before the first change.
    """
    for binding, roles in _role_changes(job, instance):
        name = binding.username or ""
        # The write gives the document a MAC, so the user of one without is looked at before.
        if not _is_known_user(job, binding):
            continue
        job.lease.check()  # the write has no fence of its own
        if not job.context.store.change(binding, {"roles": []}):
            continue  # it is being unbound
        try:
            job.atlas.update_user(name, binding.user_database, roles=atlas_roles(roles))
        except (UserNotFound, UserExpired):
            pass
        except Refused as error:
            if error.retryable or not job.operation.undo:
                raise
            log.warning("roles_not_restored", username=name, reason=str(error))
            continue
        job.context.store.change(binding, {"roles": roles})


def _is_known_user(job: AtlasJob[Instance], binding: Binding) -> bool:
    """Return whether the user is that of the binding, by its labels where no MAC says so (earlier releases)."""
    if binding.settled_mac:
        return True
    try:
        known = is_ours(binding, job.atlas.user(binding.username or "", binding.user_database))
    except (UserNotFound, UserExpired):
        return False
    if not known and not job.operation.undo:
        raise FailedError(f"The database user {binding.username} is not that of {binding.binding_id}.")
    return known


def _done(job: AtlasJob[Instance]) -> Done[InstanceFields]:
    requested: Requested = json.loads(job.operation.request)
    changes: InstanceFields = {
        "plan_id": requested["plan_id"],
        "parameters": requested["parameters"],
        "maintenance_version": requested["maintenance_version"],
    }
    if "plan" in requested:
        changes["plan"] = requested["plan"]
    if (context := requested.get("context")) is not None:
        changes["context"] = context
    return Done(Phase.READY, "The instance has been updated.", changes)


UPDATE = Definition[Instance](
    steps={
        Step.CHECK: check,
        Step.ALLOW_ACCESS: add_access,
        Step.WAIT_FOR_ACCESS: await_access,
        Step.CHANGE_ROLES: change_roles,
        Step.WAIT_APPLIED: wait_applied,
        Step.CHANGE_CLUSTER: change_cluster,
        Step.WAIT_FOR_CLUSTER: wait_for_cluster,
        Step.FINISH: finish,
    },
    undo={
        Step.RESTORE_CLUSTER: restore_cluster,
        Step.RESTORE_ROLES: restore_roles,
        Step.WITHDRAW_ACCESS: remove_access,
    },
    late_effects=frozenset({Step.ALLOW_ACCESS}),
    undo_may_fail=True,
)
