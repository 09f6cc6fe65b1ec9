"""``atlas.deprovision``: removes the users of bindings that are left and, where asked to, drops the database.

The Admin API cannot drop a database. A temporary user does it, who may do nothing else and whom Atlas removes by
itself should the broker never come back.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from broker_api.config import with_credentials
from broker_api.state.claims import Due
from broker_api.state.records import Binding, Instance, Kind, Phase, State
from broker_api.state.store import Start
from workers import databases, mongodb
from workers.atlas.client import DatabaseUser, Refused, Role
from workers.clusters import send
from workers.job import Job, labels
from workers.outcome import ClusterGoneError, Done, FailedError, Later, Next, Outcome, Steps

LOOK_SECONDS = 0.5
DROPPER_HOURS = 4


def begin(job: Job[Instance]) -> Outcome:
    """Refuse to drop what another instance uses, before anything is removed."""
    if job.record.was_ready:
        databases.remember(job)
    if _drops(job):
        if not databases.begin_drop(job):
            return _wait_for_other(job)
        with suppress(ClusterGoneError):
            _connection(job)
    return Next("unbind")


def _drops(job: Job[Instance]) -> bool:
    """Say whether the database goes too: what an instance never had ready, or does not own, is not its to drop."""
    return _is_to_drop(job) and job.record.owns_database


def _is_to_drop(job: Job[Instance]) -> bool:
    return job.record.was_ready and job.record.parameters.get("policy-on-delete") == "drop"


def _wait_for_other(job: Job[Instance]) -> Later:
    why = f"Waiting for another instance that is being deleted and drops the database {job.record.database} too."
    return Later(LOOK_SECONDS, why)


def unbind(job: Job[Instance]) -> Outcome:
    """Begin an unbind for each binding that is left, stopping binds that are under way; wait until all are gone."""
    left = job.parts.store.bindings(job.record.instance_id)
    for binding in left:
        if not binding.readable:
            raise FailedError(
                f"The broker's record of a binding cannot be read: {binding.key}. Its operator must help."
            )
        if binding.operation.kind != Kind.UNBIND or not binding.operation.open:
            _check_not_refused(job, binding)
            _begin_unbind(job, binding)
    if left:
        return Later(LOOK_SECONDS, f"Removing the users of {len(left)} bindings that are left.")
    if _drops(job):
        return Next("make dropper")
    return Next("remove dropper")  # of an attempt that failed when the database was still to be dropped


def _check_not_refused(job: Job[Instance], binding: Binding) -> None:
    """Fail with the reason when the unbind that this operation has begun failed for good."""
    last = binding.operation
    if last.kind == Kind.UNBIND and last.state is State.FAILED and last.accepted >= job.operation.accepted:
        raise FailedError(last.description or f"The binding {binding.binding_id} cannot be removed.")


def _begin_unbind(job: Job[Instance], binding: Binding) -> None:
    start = Start(Kind.UNBIND, identity=job.operation.identity, request_id=job.operation.request_id)
    begun = job.parts.store.start(binding.key, binding.operation, start, Phase.DELETING)
    if begun:
        send(job.parts.queue, Due(binding.key, Kind.UNBIND, binding.instance_id, binding.binding_id, begun.id))


def make_dropper(job: Job[Instance]) -> Outcome:
    """Make the temporary user; name and password are kept before, so that a second attempt asks for the same."""
    _check_in_time(job)
    if job.record.sealed_dropper is None:
        kept = {"username": f"atlas-broker-{job.operation.id}", "password": secrets.token_hex(16)}
        return Next("make dropper", {"sealed_dropper": job.parts.vault.seal(kept)})
    user = _dropper(job)
    try:
        job.atlas.create_user(user)
    except Refused as error:
        if not error.exists:
            raise
        job.atlas.update_user(user.username, password=user.password, roles=user.roles, labels=user.labels)
    return job.wait_applied("await dropper")


def _check_in_time(job: Job[Instance]) -> None:
    """Users are removed after the deadline, too; a database is not dropped once that has been said to have failed."""
    if job.operation.state is not State.IN_PROGRESS:
        raise FailedError("The deadline has passed: the database is not dropped any more.")


def _dropper(job: Job[Instance]) -> DatabaseUser:
    kept = job.parts.vault.open(job.record.sealed_dropper or "")
    return DatabaseUser(
        username=kept["username"],
        password=kept["password"],
        roles=(Role("dbAdmin", job.record.database or ""),),
        scopes=(job.cluster,),
        labels=labels(job.parts, job.record),
        description="Made by Atlas Broker to drop a database",
        delete_after=datetime.now(UTC) + timedelta(hours=DROPPER_HOURS),
    )


def await_dropper(job: Job[Instance]) -> Outcome:
    """Wait until the temporary user can log in."""
    _check_in_time(job)
    return job.not_applied() or Next("drop")


def drop(job: Job[Instance]) -> Outcome:
    """Drop the database, if it still is this instance's alone. Trouble on the way to the cluster is tried again."""
    name = job.record.database or ""
    _check_in_time(job)
    if not _drops(job):
        return Next("remove dropper")
    databases.remember(job)
    if not databases.begin_drop(job):
        return _wait_for_other(job)
    user = _dropper(job)
    try:
        uri = with_credentials(_connection(job), user.username, user.password or "", name)
    except ClusterGoneError:  # and the database with it
        return Next("remove dropper")
    if trouble := mongodb.drop_database(uri, name):
        # Somebody may have removed the temporary user: then it is made again.
        again = {"step": "make dropper"} if trouble == mongodb.LOG_IN_REFUSED else {}
        return Later(2.0, f"The database {name} cannot be dropped yet: {trouble}", {}, {"error": trouble, **again})
    return Next("remove dropper")


def _connection(job: Job[Instance]) -> str:
    known = job.parts.connections.known(job.atlas, job.cluster, job.way_to_connect(job.record))
    return known.get("standard") or known["srv"]


def remove_dropper(job: Job[Instance]) -> Outcome:
    """Remove the temporary user, if there is one, give up the claim of the database, and be done."""
    _remove_dropper(job)
    if wait := job.unsure():
        return wait
    instance = databases.located(job)
    if _drops(job):
        job.parts.databases.dropped(instance)
    elif instance.was_ready:
        job.parts.databases.leave(instance)
    elif instance.database:
        job.parts.databases.withdraw(instance)
    owned = instance.owns_database
    return Done(Phase.GONE, _gone(job), {"sealed_dropper": None, "unsure_until": None, "owned": owned})


def _remove_dropper(job: Job[Instance]) -> None:
    if not job.record.sealed_dropper:
        return
    try:
        job.atlas.delete_user(_dropper(job).username)
    except Refused as error:
        if not error.gone:
            raise


def _gone(job: Job[Instance]) -> str:
    if not _is_to_drop(job) or _drops(job):
        return "The instance is gone."
    return (
        f"The instance is gone. The database {job.record.database} on {job.cluster} was kept, since it may hold data "
        "that was not this instance's. If it is not needed, ask the cluster's administrators to drop it."
    )


def give_up(job: Job[Instance]) -> Outcome:
    """Leave the instance as it was, but for bindings that are gone already; no temporary user stays."""
    _remove_dropper(job)
    job.parts.databases.end_drop(databases.located(job), job.record.instance_id)
    phase = Phase.READY if job.record.was_ready else Phase.FAILED
    return job.unsure() or Done(phase, "", {"sealed_dropper": None, "unsure_until": None})


STEPS: Steps = {
    "": begin,
    "unbind": unbind,
    "make dropper": make_dropper,
    "await dropper": await_dropper,
    "drop": drop,
    "remove dropper": remove_dropper,
}
UNDO: Steps = {"": give_up}
