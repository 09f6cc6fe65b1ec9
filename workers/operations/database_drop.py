"""Dropping a database: whether another instance has it or drops it too, and the temporary user that drops it.

The Admin API cannot drop a database. A temporary user does it that may do nothing else, and that Atlas removes by
itself should the broker never come back.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from broker_api.state.databases import DatabaseRecord
from broker_api.state.records import HOLDS_NOTHING, Instance, Phase
from workers.atlas.client import AtlasRole, DatabaseUser, UserNotFound
from workers.engine.results import FailedError
from workers.operations.atlas_job import AtlasJob
from workers.operations.database_ownership import with_project
from workers.operations.database_users import labels

TEMPORARY_USER_HOURS = 4


def begin_drop(job: AtlasJob[Instance]) -> bool:
    """Take the database for dropping it; False while another instance that has it too is dropping it.

    Raises:
        FailedError: another instance uses it.
    """
    instance = with_project(job)
    others = _others_with_database(job, instance)
    if user := next((other for other in others if other.phase is not Phase.DELETING), None):
        raise FailedError(
            f"The database {instance.database} on {job.cluster} is not dropped: the instance "
            f"{user.instance_id} uses it too. Delete that first, or set policy-on-delete to retain.",
            refused=True,
        )
    if job.context.databases.begin_drop(instance, [other.instance_id for other in others]):
        return True
    if reserved := job.context.databases.find(instance):
        another_drops(job, reserved)
    return False


def _others_with_database(job: AtlasJob[Instance], instance: Instance) -> list[Instance]:
    """Return the other instances that have the database, and forget those that are gone."""
    others = {other.instance_id: other for other in job.context.store.sharing(instance)}
    reserved = job.context.databases.find(instance)
    for user in reserved.users if reserved else ():
        if user == instance.instance_id or user in others:
            continue
        found = job.context.store.instance(user)
        if (
            found
            and found.phase not in HOLDS_NOTHING
            and found.cluster == instance.cluster
            and (found.database or "").lower() == (instance.database or "").lower()
        ):
            others[user] = found
        else:
            job.context.databases.forget(instance, user)
    return list(others.values())


def another_drops(job: AtlasJob[Instance], reserved: DatabaseRecord) -> bool:
    """Return whether another instance drops the database now; one that has stopped is noted."""
    if reserved.dropping in (None, job.record.instance_id):
        return False
    dropper = job.context.store.instance(reserved.dropping or "")
    if dropper and dropper.phase is Phase.DELETING:
        return True
    job.context.databases.end_drop(with_project(job), reserved.dropping or "")
    return False


def another_will_drop(job: AtlasJob[Instance], instance: Instance) -> bool:
    """Return whether another instance is about to drop the very database: what is written now would be lost."""
    return any(
        other.phase is Phase.DELETING and other.parameters.get("policy-on-delete") == "drop" and other.owns_database
        for other in job.context.store.sharing(instance)
    )


def temporary_user(job: AtlasJob[Instance]) -> DatabaseUser:
    """Return the temporary user that drops the database, with the name and password that are stored."""
    secret = job.context.vault.open(job.record.sealed_dropper or "")
    return DatabaseUser(
        username=secret["username"],
        password=secret["password"],
        roles=(AtlasRole("dbAdmin", job.record.database or ""),),
        scopes=(job.cluster,),
        labels=labels(job.context, job.record),
        description="Made by Atlas Broker to drop a database",
        delete_after=datetime.now(UTC) + timedelta(hours=TEMPORARY_USER_HOURS),
    )


def delete_temporary_user(job: AtlasJob[Instance]) -> None:
    """Delete the temporary user, if this operation has made one."""
    if job.record.sealed_dropper:
        with suppress(UserNotFound):
            job.atlas.delete_user(temporary_user(job).username)
