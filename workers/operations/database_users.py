"""The database users that operations create in Atlas: labels, roles, and users that exist already (409)."""

import structlog

from broker_api.authentication import Authentication
from broker_api.state.records import AnyResource, Binding, Resource
from workers.atlas.client import AtlasRole, DatabaseUser
from workers.context import Context
from workers.engine.results import FailedError
from workers.operations.atlas_job import AtlasJob
from workers.operations.config_hooks import binding_roles, binding_view

log = structlog.get_logger(__name__)

LABEL_BROKER, LABEL_INSTANCE, LABEL_BINDING = "atlas-broker", "instance_id", "binding_id"
LABEL_OPERATION = "operation"


def labels(context: Context, record: Resource) -> dict[str, str]:
    """Return the labels of a user that is created for a record: broker, instance, binding and operation.

    The ids are those that the platform uses.
    """
    named = {LABEL_BROKER: context.housekeeping.broker_id, LABEL_INSTANCE: record.instance_id}
    if isinstance(record, Binding):
        named[LABEL_BINDING] = record.binding_id
    return named | {LABEL_OPERATION: record.operation.id}


def binding_user(context: Context, binding: Binding) -> DatabaseUser:
    """Return the user of a binding, with the name, password, roles and lifetime that are stored.

    Raises:
        UndecryptableError: No key decrypts the password.
    """
    arn_type = "ROLE" if ":role/" in (binding.username or "") else "USER"
    return DatabaseUser(
        username=binding.username or "",
        database=binding.user_database,
        password=context.vault.open(binding.sealed_credentials or "", binding.credentials_place).get("password"),
        aws_iam=arn_type if binding.auth == Authentication.AWS_IAM else "NONE",
        x509="MANAGED" if binding.auth == Authentication.X509 else "NONE",
        roles=atlas_roles(binding.roles),
        scopes=(binding.cluster or "",),
        labels=labels(context, binding),
        description="Made by Atlas Broker for a service binding",
        delete_after=binding.expires if "expires_in" in binding.parameters else None,
    )


def atlas_roles(stored: list[dict[str, str]]) -> tuple[AtlasRole, ...]:
    """Return the field ``roles`` of a binding in the form of the Atlas client."""
    return tuple(AtlasRole(role["name"], role["database"], role.get("collection")) for role in stored)


def is_ours(record: Resource, user: DatabaseUser) -> bool:
    """Return whether a user was created for this record, by any of its operations."""
    binding_id = record.binding_id if isinstance(record, Binding) else None
    return (user.labels.get(LABEL_INSTANCE), user.labels.get(LABEL_BINDING)) == (record.instance_id, binding_id)


def delete_own_user(job: AtlasJob[Binding], name: str) -> None:
    """Delete the user of a binding after a look at it in Atlas, whatever MongoDB says.

    A user with the label of another broker is deleted only if MongoDB says that it was created: this broker has a new
    id when its old one was lost. A user of atlasbroker 2.0.0 has no labels unless ``migrate`` has labelled it; without
    labels it is not deleted if it has a role on ``admin`` that the hooks of the ``Config`` do not give it, as
    administrators have.

    Raises:
        FailedError: It is not the user of this binding, although MongoDB says so.
        UserNotFound, AtlasError: Atlas did not delete it.
    """
    binding = job.record
    user = job.atlas.user(name, binding.user_database)
    created = is_ours(binding, user) and (binding.made or not _is_of_another_broker(job, user))
    if created or (binding.legacy and _is_of_atlasbroker_2(job, user)):
        job.atlas.delete_user(name, user.database)
    elif job.operation.undo:
        log.warning("user_not_removed", username=name, reason="it is not labelled as that of this binding")
    elif binding.made or binding.legacy:
        raise FailedError(
            f"The database user {name} in the Atlas project {job.project} is not labelled as that of this binding, so "
            "it was not removed. Look at it in Atlas; when it has been removed there, unbind again."
        )


def _is_of_another_broker(job: AtlasJob[AnyResource], user: DatabaseUser) -> bool:
    """Return whether another broker that uses the project has created the user; it may know the same ids."""
    broker_id = user.labels.get(LABEL_BROKER)
    return broker_id is not None and broker_id != job.context.housekeeping.broker_id


def _is_of_atlasbroker_2(job: AtlasJob[Binding], user: DatabaseUser) -> bool:
    on_admin = {role for role in user.roles if role.database == "admin"}
    if user.labels or not on_admin:
        return not user.labels
    view = binding_view(job.config, job.record, job.context.store.instance(job.record.instance_id) or job.record)
    return on_admin <= set(atlas_roles(binding_roles(job.config, view)))


def take_over(job: AtlasJob[AnyResource], user: DatabaseUser) -> None:
    """Set all that can change of a user that exists already (409) and was created for this record.

    Raises:
        FailedError: The user was not created for this record, or by another broker; it is not changed.
        LeaseLostError: Another worker has taken over the operation.
        AtlasError: Atlas did not change it.
    """
    found = job.atlas.user(user.username, user.database)
    if not is_ours(job.record, found) or _is_of_another_broker(job, found):
        if user.aws_iam != "NONE":
            raise FailedError(
                f"{user.username} is a database user of the Atlas project already, for another binding or made by "
                "other means, and Atlas allows one for each ARN. Bind with another role, or unbind the other one.",
                refused=True,
            )
        what = "binding" if isinstance(job.record, Binding) else "instance"
        sentence = f"A database user {user.username} exists in the Atlas project and was not made for this {what}."
        raise FailedError(sentence, refused=True)
    job.context.claims.renew(job.claim)  # if the lease is lost, another worker may have set the password
    if (found.delete_after is None) != (user.delete_after is None):  # Atlas refuses to change that
        job.atlas.delete_user(user.username, user.database)
        job.atlas.create_user(user)
        return
    job.atlas.update_user(
        user.username,
        user.database,
        password=user.password,
        roles=user.roles,
        labels=user.labels,
        scopes=user.scopes,
        delete_after=user.delete_after,
    )
