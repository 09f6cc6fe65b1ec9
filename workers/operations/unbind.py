"""``atlas.unbind``: removes the user of a binding, if it still exists. The undo of a bind uses the same step."""

from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

from broker_api.state.fields import BindingFields
from broker_api.state.records import Binding, Phase
from workers.atlas.client import UserNotFound
from workers.engine.definition import Definition
from workers.engine.results import Done, Next, Result
from workers.operations.atlas_job import AtlasJob
from workers.operations.config_hooks import binding_view, hook_username
from workers.operations.database_users import delete_own_user


class Step(StrEnum):
    """remove user → wait applied; undo: give up."""

    REMOVE_USER = "remove"
    WAIT_APPLIED = "apply"
    GIVE_UP = "give up"


def remove_user(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Remove the user of the binding, if it exists and was created for this binding."""
    if job.record.legacy and not job.record.cluster:
        # Only the instance names the cluster of a binding that atlasbroker 2.0.0 wrote.
        instance = job.context.store.instance(job.record.instance_id)
        if instance and instance.cluster:
            return Next(Step.REMOVE_USER, {"cluster": instance.cluster, "project": job.project})
    name = job.record.username
    if not name and job.record.legacy:  # atlasbroker 2.0.0 did not store the name; the hook returns it
        instance = job.context.store.instance(job.record.instance_id)
        view = binding_view(job.config, job.record, instance or job.record)
        name = hook_username(job.config, view)
    if name is None:
        return _gone(job)
    with suppress(UserNotFound):
        delete_own_user(job, name)
    if wait := job.wait_for_late_effect():
        return replace(wait, changes=BindingFields(made=False))
    return _gone(job) if job.operation.undo else job.users_changed(Step.WAIT_APPLIED)


def wait_applied(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Wait until the user cannot log in any more."""
    gone = _gone(job)
    return job.wait_until_applied(gone) or gone


def give_up(_job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Keep the binding, since Atlas refuses to remove its user; the platform can request the unbind again."""
    return Done(Phase.DELETING, "")


def _gone(job: AtlasJob[Binding]) -> Done[BindingFields]:
    phase = Phase.FAILED if job.operation.undo else Phase.GONE
    nothing: BindingFields = {"sealed_credentials": None, "username": None, "made": False, "unsure_until": None}
    return Done(phase, "The database user is gone.", nothing)


UNBIND = Definition[Binding](
    steps={Step.REMOVE_USER: remove_user, Step.WAIT_APPLIED: wait_applied},
    undo={Step.GIVE_UP: give_up},
)
