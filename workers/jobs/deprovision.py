"""``atlas.deprovision``: removes the users of bindings that are left and, where asked to, drops the database.

The Admin API cannot drop a database. A temporary user does it, who may do nothing else and whom Atlas removes by
itself should the broker never come back.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from broker_api.config import with_credentials
from broker_api.naming import database_problem
from broker_api.state.claims import Due
from broker_api.state.records import Binding, Instance, Kind, Phase, State
from broker_api.state.store import Start
from workers import mongodb
from workers.atlas.client import DatabaseUser, Refused, Role
from workers.clusters import send
from workers.job import Job, labels
from workers.outcome import ClusterGoneError, Done, FailedError, Later, Next, Outcome, Steps

LOOK_SECONDS = 0.5
DROPPER_HOURS = 4


def begin(job: Job[Instance]) -> Outcome:
    """Refuse to drop what must not be dropped, before anything is removed."""
    if _drops(job):
        _check_droppable(job)
        with suppress(ClusterGoneError):
            _connection(job)
    return Next("unbind")


def _drops(job: Job[Instance]) -> bool:
    """Say whether the database goes too; one that never became ready was not this instance's to drop."""
    return _was_ready(job) and job.record.parameters.get("policy-on-delete") == "drop"


def _was_ready(job: Job[Instance]) -> bool:
    return bool(job.record.connection) or job.record.legacy


def _check_droppable(job: Job[Instance]) -> None:
    """Refuse MongoDB's own databases, and what another instance uses."""
    if problem := database_problem(job.record.database):
        raise FailedError(f"{problem} It is not dropped; set policy-on-delete to retain.", refused=True)
    others = [other for other in job.parts.store.sharing(job.record) if other.phase is not Phase.DELETING]
    if others:
        raise FailedError(
            f"The database {job.record.database} on {job.cluster} is not dropped: the instance "
            f"{others[0].instance_id} uses it too. Delete that first, or set policy-on-delete to retain.",
            refused=True,
        )


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
    return remove_dropper(job)  # of an attempt that failed when the database was still to be dropped


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
    """Drop the database. Trouble on the way to the cluster is tried again like any other."""
    name = job.record.database or ""
    _check_in_time(job)
    _check_droppable(job)
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
    """Remove the temporary user, if there is one, and be done."""
    _remove_dropper(job)
    return job.unsure() or _gone()


def _remove_dropper(job: Job[Instance]) -> None:
    if not job.record.sealed_dropper:
        return
    try:
        job.atlas.delete_user(_dropper(job).username)
    except Refused as error:
        if not error.gone:
            raise


def _gone() -> Done:
    return Done(Phase.GONE, "The instance is gone.", {"sealed_dropper": None, "unsure_until": None})


def give_up(job: Job[Instance]) -> Outcome:
    """Leave the instance as it was, but for bindings that are gone already; no temporary user stays."""
    _remove_dropper(job)
    phase = Phase.READY if _was_ready(job) else Phase.FAILED
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
