"""``atlas.unbind``: removes a binding's user; gone already is done. The same steps take back a failed bind."""

from dataclasses import replace
from typing import cast

from broker_api.state.records import Binding, Instance, Phase
from workers.atlas.client import Refused
from workers.hooks import called
from workers.job import Job, binding_view
from workers.outcome import Done, Next, Outcome, Steps


def remove(job: Job[Binding]) -> Outcome:
    """Remove the user, if there is one that is ours."""
    if job.record.legacy and not job.record.cluster and (cluster := _old_cluster(job)):
        return Next("", {"cluster": cluster, "project": job.project})
    name = _username(job)
    if name is None:
        return _gone(job)
    _delete(job, name)
    if wait := job.unsure():
        return replace(wait, changes={"made": False})
    return _gone(job) if job.operation.undo else job.wait_applied("apply")


def _old_cluster(job: Job[Binding]) -> str | None:
    """Give the cluster of a binding that the old broker wrote; only the instance names it."""
    instance = job.parts.store.instance(job.record.instance_id)
    return instance.cluster if instance else None


def _username(job: Job[Binding]) -> str | None:
    """Give the user's name; the old broker did not keep it, its hook still tells."""
    binding = job.record
    if binding.username or not binding.legacy:
        return binding.username
    instance = job.parts.store.instance(binding.instance_id) or cast("Instance", binding)
    view = binding_view(job.config, binding, instance)
    return called("generate_binding_username", lambda: job.config.generate_binding_username(view))


def _delete(job: Job[Binding], name: str) -> None:
    """Delete the user; one that this binding is not known to have made only when its labels say so."""
    try:
        if job.record.made or job.record.legacy or job.is_ours(job.atlas.user(name)):
            job.atlas.delete_user(name)
    except Refused as error:
        if not error.gone:
            raise


def apply(job: Job[Binding]) -> Outcome:
    """Wait until the user cannot log in any more."""
    return job.not_applied() or _gone(job)


def give_up(_job: Job[Binding]) -> Outcome:
    """Atlas refuses to remove the user: the binding stays half removed, and can be asked to go again."""
    return Done(Phase.DELETING, "")


def _gone(job: Job[Binding]) -> Done:
    secrets = {"sealed_credentials": None, "username": None, "made": False, "unsure_until": None}
    phase = Phase.FAILED if job.operation.undo else Phase.GONE
    return Done(phase, "The database user is gone.", secrets)


STEPS: Steps = {"": remove, "apply": apply}
UNDO: Steps = {"": give_up}
UNDO_BIND: Steps = {"": remove}
