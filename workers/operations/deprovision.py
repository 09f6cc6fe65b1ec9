"""``atlas.deprovision``: removes the remaining bindings and, with ``policy-on-delete: drop``, drops the database."""

from contextlib import suppress
from enum import StrEnum

from broker_api.config import with_credentials
from broker_api.jobs.queue import JOBS
from broker_api.state.fields import InstanceFields
from broker_api.state.new_operation import NewOperation
from broker_api.state.records import Binding, Instance, Kind, Phase, State
from broker_api.user_passwords import new_password
from workers.atlas.client import UserAlreadyExists, UserLimitReached
from workers.clusters import database_client
from workers.clusters.connection_strings import ClusterGoneError
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, Later, Next, Result
from workers.operations.access import withdraw_access
from workers.operations.atlas_job import AtlasJob
from workers.operations.database_drop import begin_drop, delete_temporary_user, temporary_user
from workers.operations.database_ownership import ensure_reservation, with_project
from workers.operations.database_users import take_over

UNBIND_LOOK_SECONDS = 0.5
DROP_AGAIN_SECONDS = 2.0
ROOM_SECONDS = 2.0
_NO_TEMPORARY_USER = InstanceFields(sealed_dropper=None, unsure_until=None)


class Step(StrEnum):
    """check → unbind → (create temporary user → wait applied → drop database →) finish; undo: give up."""

    CHECK = "check"
    UNBIND = "unbind"
    CREATE_TEMPORARY_USER = "make dropper"
    WAIT_APPLIED = "await dropper"
    DROP_DATABASE = "drop"
    FINISH = "remove dropper"
    GIVE_UP = "give up"


def check(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Refuse to drop a database that another instance uses, before anything is removed."""
    if job.record.was_ready:
        ensure_reservation(job)
    if job.record.drops_database:
        if not begin_drop(job):
            return _wait_for_other_drop(job)
        with suppress(ClusterGoneError):  # a cluster that cannot be used fails here, before a binding is removed
            job.connection_strings(job.record)
    return Next(Step.UNBIND)


def unbind(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the bindings of the instance first."""
    if wait := remove_bindings(job):
        return wait
    if job.record.drops_database:
        return Next(Step.CREATE_TEMPORARY_USER)
    return Next(Step.FINISH)  # an earlier attempt, which had to drop the database, may have left a temporary user


def remove_bindings(job: AtlasJob[Instance]) -> Later[InstanceFields] | None:
    """Begin an unbind for each binding of the instance, also instead of a running bind.

    Returns:
        A delay while there are any; None when all are gone.

    Raises:
        FailedError: One cannot be removed.
    """
    left = job.context.store.bindings(job.record.instance_id)
    for binding in left:
        if not binding.readable:
            sentence = f"The broker's record of a binding cannot be read: {binding.key}. Its operator must repair it."
            raise FailedError(sentence)
        if binding.operation.kind != Kind.UNBIND or not binding.operation.open:
            _begin_unbind(job, binding)
    if left:
        return Later(UNBIND_LOOK_SECONDS, f"Removing the users of {len(left)} bindings that are left.")
    return None


def _begin_unbind(job: AtlasJob[Instance], binding: Binding) -> None:
    """Begin the unbind of a binding.

    Raises:
        FailedError: An unbind that this operation has begun has failed; the message is that of the unbind.
    """
    last = binding.operation
    if last.kind == Kind.UNBIND and last.state is State.FAILED and last.accepted >= job.operation.accepted:
        raise FailedError(last.description or f"The binding {binding.binding_id} cannot be removed.")
    now = job.operation
    unbind = NewOperation(Kind.UNBIND, identity=now.identity, request_id=now.request_id, traceparent=now.traceparent)
    operation_id = job.context.store.start(binding.key, last, unbind, Phase.DELETING)
    if operation_id:
        job.context.queue.send(JOBS[Kind.UNBIND], [binding.instance_id, binding.binding_id, operation_id])


def create_temporary_user(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Create the temporary user. Its name and password are stored first, so each attempt requests the same user."""
    _check_in_time(job)
    if job.record.sealed_dropper is None:
        secret = {"username": f"atlas-broker-{job.operation.id}", "password": new_password()}
        sealed = job.context.vault.seal(secret, job.record.dropper_place)
        return Next(Step.CREATE_TEMPORARY_USER, {"sealed_dropper": sealed})
    user = temporary_user(job)
    try:
        job.atlas.create_user(user)
    except UserAlreadyExists:
        take_over(job, user)
    except UserLimitReached:
        sentence = (
            f"Waiting for room in the Atlas project {job.project}: it holds as many database users as Atlas allows, "
            "and one is needed for a moment to drop the database. Remove bindings that are not needed."
        )
        return Later(ROOM_SECONDS, sentence, operation={"error": sentence})
    return job.users_changed(Step.WAIT_APPLIED)


def wait_applied(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Wait until the temporary user can log in."""
    _check_in_time(job)
    return job.wait_until_applied() or Next(Step.DROP_DATABASE)


def drop_database(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Drop the database if no other instance uses it; try again while the cluster cannot be reached."""
    _check_in_time(job)
    if not job.record.drops_database:
        return Next(Step.FINISH)
    ensure_reservation(job)
    if not begin_drop(job):
        return _wait_for_other_drop(job)
    name, user = job.record.database or "", temporary_user(job)
    try:
        strings = job.connection_strings(job.record)
    except ClusterGoneError:  # the database does not exist any more either
        return Next(Step.FINISH)
    uri = with_credentials(strings.get("standard") or strings["srv"], user.username, user.password or "", name)
    trouble = database_client.drop_database(uri, name)
    if trouble is None:
        return Next(Step.FINISH)
    # When the log-in is refused, the temporary user may have been removed: create it again.
    again = Step.CREATE_TEMPORARY_USER if trouble == database_client.LOG_IN_REFUSED else None
    sentence = f"The database {name} cannot be dropped yet: {trouble}"
    return Later(DROP_AGAIN_SECONDS, sentence, operation={"error": trouble}, step=again)


def finish(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the temporary user and the access, end the reservation of the database, and end the operation."""
    delete_temporary_user(job)
    if wait := job.wait_for_late_effect() or withdraw_access(job):
        return wait
    instance = with_project(job)
    if instance.drops_database:
        job.context.reservations.dropped(instance)
    elif instance.was_ready:
        job.context.reservations.leave(instance)
    elif instance.database:
        job.context.reservations.withdraw(instance)
    sentence = "The instance is gone."
    if instance.asks_to_drop and not instance.drops_database:
        sentence += (
            f" The database {instance.database} on {job.cluster} was kept, since it may hold data that was not this "
            "instance's. If it is not needed, ask the cluster's administrators to drop it."
        )
    return Done(Phase.GONE, sentence, {**_NO_TEMPORARY_USER, "owned": instance.owns_database})


def give_up(job: AtlasJob[Instance]) -> Result[InstanceFields]:
    """Remove the temporary user and keep the instance; bindings that are gone already do not come back."""
    delete_temporary_user(job)
    job.context.reservations.end_drop(with_project(job), job.record.instance_id)
    phase = Phase.READY if job.record.was_ready else Phase.FAILED
    return job.wait_for_late_effect() or Done(phase, "", _NO_TEMPORARY_USER)


def _wait_for_other_drop(job: AtlasJob[Instance]) -> Later[InstanceFields]:
    database = job.record.database
    sentence = f"Waiting for another instance that is being deleted and drops the database {database} too."
    return Later(UNBIND_LOOK_SECONDS, sentence)


def _check_in_time(job: AtlasJob[Instance]) -> None:
    """Check that the deadline has not passed: the platform has then read that the operation failed.

    Raises:
        FailedError: It has passed. The users are still removed, the database is not dropped any more.
    """
    if job.operation.state is not State.IN_PROGRESS:
        raise FailedError("The deadline has passed: the database is not dropped any more.")


DEPROVISION = Definition[Instance](
    steps={
        Step.CHECK: check,
        Step.UNBIND: unbind,
        Step.CREATE_TEMPORARY_USER: create_temporary_user,
        Step.WAIT_APPLIED: wait_applied,
        Step.DROP_DATABASE: drop_database,
        Step.FINISH: finish,
    },
    undo={Step.GIVE_UP: give_up},
    late_effects=frozenset({Step.CREATE_TEMPORARY_USER}),
)
