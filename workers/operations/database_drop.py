"""Dropping a database: the check for other instances that use or drop it, and the temporary user that drops it.

The Admin API cannot drop a database, so the broker logs in as a temporary user that has rights on this database only.
Atlas deletes that user at the end of its lifetime if the broker does not.
"""

from contextlib import suppress
from datetime import timedelta

from broker_api.state.database_reservations import Reservation
from broker_api.state.records import HOLDS_NOTHING, Instance, Phase
from workers.atlas.client import AtlasRole, DatabaseUser, UserNotFound
from workers.engine.results import FailedError
from workers.operations.atlas_job import AtlasJob
from workers.operations.database_ownership import with_project
from workers.operations.database_users import labels

TEMPORARY_USER_HOURS = 4


def begin_drop(job: AtlasJob[Instance]) -> bool:
    """Reserve the database for the drop.

    Returns:
        False while another instance is dropping it.

    Raises:
        FailedError: Another instance that is not being deleted uses the database.
    """
    instance = with_project(job)
    others = _others_with_database(job, instance)
    if user := next((other for other in others if other.phase is not Phase.DELETING), None):
        # A tenant reads nothing about another one, also where Config.DATABASES lets both use a database.
        name = f"the instance {user.instance_id}" if user.owner == instance.owner else "an instance of another owner"
        raise FailedError(
            f"The database {instance.database} on {job.cluster} is not dropped: {name} uses it too. "
            "Delete that first, or set policy-on-delete to retain.",
            refused=True,
        )
    if job.context.reservations.begin_drop(instance, [other.instance_id for other in others]):
        return True
    if reserved := job.context.reservations.find(instance):
        another_drops(job, reserved)  # removes the mark of an instance that has stopped
    return False


def _others_with_database(job: AtlasJob[Instance], instance: Instance) -> list[Instance]:
    """Return the other instances that have the database; remove from its reservation those that are gone."""
    others = {other.instance_id: other for other in job.context.store.sharing(instance)}
    reserved = job.context.reservations.find(instance)
    for other_id in reserved.instance_ids if reserved else ():
        if other_id == instance.instance_id or other_id in others:
            continue
        found = job.context.store.instance(other_id)
        if (
            found
            and found.phase not in HOLDS_NOTHING
            and found.cluster == instance.cluster
            and (found.database or "").lower() == (instance.database or "").lower()
        ):
            others[other_id] = found
        else:
            job.context.reservations.forget(instance, other_id)
    return list(others.values())


def another_drops(job: AtlasJob[Instance], reserved: Reservation) -> bool:
    """Return whether another instance is dropping the database now.

    If that instance has stopped dropping it, remove its mark from the reservation.
    """
    if reserved.dropping in (None, job.record.instance_id):
        return False
    other = job.context.store.instance(reserved.dropping or "")
    if other and other.phase is Phase.DELETING:
        return True
    job.context.reservations.end_drop(with_project(job), reserved.dropping or "")
    return False


def another_will_drop(job: AtlasJob[Instance], instance: Instance) -> bool:
    """Return whether another instance that is being deleted will drop the database of ``instance``.

    Data that is written to it before the drop would be lost.
    """
    return any(other.phase is Phase.DELETING and other.drops_database for other in job.context.store.sharing(instance))


def temporary_user(job: AtlasJob[Instance]) -> DatabaseUser:
    """Return the temporary user that drops the database, with the stored name and password.

    Raises:
        UndecryptableError: No key decrypts them.
    """
    secret = job.context.vault.open(job.record.sealed_dropper or "", job.record.dropper_place)
    return DatabaseUser(
        username=secret["username"],
        password=secret["password"],
        roles=(AtlasRole("dbAdmin", job.record.database or ""),),
        scopes=(job.cluster,),
        labels=labels(job.context, job.record),
        description="Made by Atlas Broker to drop a database",
        delete_after=job.context.store.now() + timedelta(hours=TEMPORARY_USER_HOURS),
    )


def delete_temporary_user(job: AtlasJob[Instance]) -> None:
    """Delete the temporary user, if this operation has created one.

    Raises:
        AtlasError: Atlas did not delete it.
    """
    if job.record.sealed_dropper:
        with suppress(UserNotFound):
            job.atlas.delete_user(temporary_user(job).username)
