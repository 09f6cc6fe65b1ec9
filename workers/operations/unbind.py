"""``atlas.unbind``: removes a binding's user; a user that is gone already is done. A failed bind is undone alike."""

from dataclasses import replace
from enum import StrEnum

from broker_api.state.fields import BindingFields
from broker_api.state.records import Binding, Phase
from workers.atlas.client import UserNotFound
from workers.engine.definition import Definition
from workers.engine.results import Done, Next, Result
from workers.operations.atlas_job import AtlasJob
from workers.operations.config_hooks import binding_view, call_hook
from workers.operations.database_users import is_ours


class Step(StrEnum):
    """remove user → wait applied; undo: give up."""

    REMOVE_USER = "remove"
    WAIT_APPLIED = "apply"
    GIVE_UP = "give up"


def remove_user(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Remove the user, if there is one that is ours."""
    if job.record.legacy and not job.record.cluster:
        # Only the instance names the cluster of a binding that atlasbroker 2.0.0 wrote.
        instance = job.context.store.instance(job.record.instance_id)
        if instance and instance.cluster:
            return Next(Step.REMOVE_USER, {"cluster": instance.cluster, "project": job.project})
    name = job.record.username
    if not name and job.record.legacy:  # atlasbroker 2.0.0 did not store it, but its hook still gives it
        instance = job.context.store.instance(job.record.instance_id)
        view = binding_view(job.config, job.record, instance or job.record)
        name = call_hook("generate_binding_username", job.config.generate_binding_username, view)
    if name is None:
        return _gone(job)
    try:
        # A user that this binding is not known to have made is deleted only when its labels say so.
        if job.record.made or job.record.legacy or is_ours(job.record, job.atlas.user(name)):
            job.atlas.delete_user(name)
    except UserNotFound:
        pass
    if wait := job.wait_for_late_effect():
        return replace(wait, changes=BindingFields(made=False))
    return _gone(job) if job.operation.undo else job.users_changed(Step.WAIT_APPLIED)


def wait_applied(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Wait until the user cannot log in any more."""
    return job.wait_until_applied() or _gone(job)


def give_up(_job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Leave the binding half removed, since Atlas refuses to remove its user; the unbind can be asked for again."""
    return Done(Phase.DELETING, "")


def _gone(job: AtlasJob[Binding]) -> Done[BindingFields]:
    phase = Phase.FAILED if job.operation.undo else Phase.GONE
    nothing: BindingFields = {"sealed_credentials": None, "username": None, "made": False, "unsure_until": None}
    return Done(phase, "The database user is gone.", nothing)


UNBIND = Definition[Binding](
    steps={Step.REMOVE_USER: remove_user, Step.WAIT_APPLIED: wait_applied},
    undo={Step.GIVE_UP: give_up},
)
