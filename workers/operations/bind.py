"""``atlas.bind``: creates the database user of a binding, and ends when the user can log in.

Name, password and roles are stored before Atlas is called. If the worker crashes, the next worker requests the same
user with the same password.
"""

from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from broker_api.authentication import DEFAULT_MONTHS, Authentication
from broker_api.catalog.catalog import Plan
from broker_api.catalog.parameter_schemas import EXPIRES_IN_SECONDS
from broker_api.config import BindingView, with_credentials
from broker_api.errors import (
    BadRequest,
    ErrStorageMongoConnection,
    ErrStorageUnreadable,
    TamperedError,
    UndecryptableError,
)
from broker_api.state.fields import BindingFields
from broker_api.state.records import Binding, Instance, Kind, Phase, State
from workers.atlas.client import AtlasError, Refused, UserAlreadyExists, UserExpired, UserLimitReached, UserNotFound
from workers.clusters import database_client
from workers.clusters.connection_strings import osb_endpoints
from workers.engine.definition import Definition
from workers.engine.results import Done, FailedError, HeldBackError, Later, Next, Result
from workers.operations.atlas_job import AtlasJob
from workers.operations.binding_credentials import new_credentials, with_certificate
from workers.operations.config_hooks import binding_roles, binding_view, instance_view
from workers.operations.database_users import LABEL_OPERATION, binding_user, take_over
from workers.operations.unbind import remove_user

log = structlog.get_logger(__name__)

_REASONS = (
    AtlasError,
    HeldBackError,
    ErrStorageMongoConnection,
    ErrStorageUnreadable,
    TamperedError,
    UndecryptableError,
)
"""Why a late user cannot be removed at once; the next reconciliation finds it."""

WORK = "The credentials work on the cluster {}."
"""The description of a bind that has succeeded."""
UNSEEN_ATTEMPTS = 20
"""How often, once a second, a user is asked for that Atlas has and does not show yet."""
CLOCK_SECONDS = 15
"""Atlas refuses an end more than a week ahead by its own clock, which may be so many seconds behind MongoDB's."""
RENEW_SHARE = 0.2
"""A binding should be renewed when this share of its lifetime is left."""


class Step(StrEnum):
    """settle credentials → create user → (create certificate) → wait applied → (verify login); undo: remove user."""

    SETTLE_CREDENTIALS = "settle"
    CREATE_USER = "create"
    CREATE_CERTIFICATE = "certificate"
    WAIT_APPLIED = "apply"
    VERIFY_LOGIN = "log in"
    REMOVE_USER = "remove"


def settle_credentials(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Choose and store the user name, the credentials and the roles, unless the instance is being deleted.

    The claim was written with write concern ``majority``, so the instance read here shows every deprovision and every
    update accepted before the claim. A deprovision that is accepted later finds this binding and removes it; an update
    that is accepted later waits for this binding, whose roles are settled now.
    """
    found = _instance_and_plan(job)
    if found is None:
        return Later(1.0, "Waiting until the instance has been updated.")
    instance, plan = found
    strings = job.connection_strings(instance, plan)
    auth = job.record.parameters.get("auth", plan.authentication[0])
    of_instance = instance_view(job.config, instance, strings)
    view = BindingView(job.record.binding_id, of_instance, job.record.parameters, auth)
    if job.record.sealed_credentials:  # of an earlier attempt, whose user may exist already
        credentials = job.context.vault.open(job.record.sealed_credentials, job.record.credentials_place)
    else:
        credentials = new_credentials(job.config, view)
    changes: BindingFields = {
        "project": instance.project or job.project,
        "cluster": instance.cluster,
        "database": instance.database,
        "username": job.record.username or credentials["username"],  # with a certificate, they hold its subject instead
        "auth": auth,
        "sealed_credentials": job.context.vault.seal(credentials, job.record.credentials_place),
        "roles": binding_roles(job.config, view),
        "endpoints": osb_endpoints(strings),
    }
    if seconds := job.record.parameters.get("expires_in"):
        seconds = min(seconds, EXPIRES_IN_SECONDS[1] - CLOCK_SECONDS)
        changes["expires"] = expires = job.operation.accepted + timedelta(seconds=seconds)
        changes["renew_before"] = expires - timedelta(seconds=seconds * RENEW_SHARE)
    return Next(Step.CREATE_USER, changes)


def create_user(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Create the user, or take over the one that an earlier attempt has created."""
    if job.record.expires:
        _check_life(job, job.record.expires)
    if not job.record.settled_mac:
        _check_roles(job)
    user = binding_user(job.context, job.record)
    try:
        try:
            job.atlas.create_user(user)
        except UserAlreadyExists:
            take_over(job, user)
    except (UserNotFound, UserAlreadyExists) as error:
        return _look_for_user(job, error)
    except UserLimitReached:
        raise FailedError(
            f"The Atlas project {job.project} of the cluster {job.cluster} holds as many database users as Atlas "
            "allows (100 by default). Remove bindings that are not needed, use a cluster of another project, or ask "
            "MongoDB's support for a higher limit."
        ) from None
    except UserExpired:
        if job.record.expires is None:
            raise
        raise _out_of_life(job) from None
    certified = job.record.auth == Authentication.X509
    return job.users_changed(Step.CREATE_CERTIFICATE if certified else Step.WAIT_APPLIED, BindingFields(made=True))


def _look_for_user(job: AtlasJob[Binding], error: Refused) -> Later[BindingFields]:
    """Return a delay until the next attempt: what Atlas says of a new user may be some seconds old.

    Raises:
        Refused: It has said so for too long.
    """
    attempts = job.operation.attempts + 1
    if attempts > UNSEEN_ATTEMPTS:
        raise error
    sentence = f"Waiting until Atlas shows the database user {job.record.username}."
    return Later(1.0, sentence, operation={"attempts": attempts, "error": str(error)})


def create_certificate(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Create the certificate of an X.509 user, whose key Atlas shows only once.

    If this is interrupted, the next attempt creates another certificate; nothing has the key of the first one.
    """
    binding = job.record
    credentials = job.context.vault.open(binding.sealed_credentials or "", binding.credentials_place)
    months = binding.parameters.get("expires_in_months", DEFAULT_MONTHS)
    try:
        certificate = job.atlas.create_certificate(binding.username or "", months)
    except UserNotFound as error:
        return _look_for_user(job, error)
    certified, end = with_certificate(credentials, certificate)
    changes: BindingFields = {"sealed_credentials": job.context.vault.seal(certified, binding.credentials_place)}
    if binding.expires is None:
        changes["expires"] = end
        changes["renew_before"] = end - (end - job.operation.accepted) * RENEW_SHARE
    return Next(Step.WAIT_APPLIED, changes)


def wait_applied(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Wait until Atlas has applied the new user on the cluster."""
    if job.record.expires:
        _check_life(job, job.record.expires)
    # As an IAM role the broker cannot log in.
    verify_login = job.context.settings.verify_login and job.record.auth != Authentication.AWS_IAM
    done = Done[BindingFields](Phase.READY, WORK.format(job.cluster))
    is_last = not verify_login and job.record.expires is None
    if wait := job.wait_until_applied(done if is_last else None, cluster_needed=True):
        return wait
    return Next(Step.VERIFY_LOGIN) if verify_login else done


def verify_login(job: AtlasJob[Binding]) -> Result[BindingFields]:
    """Log in to the cluster itself with the new credentials."""
    if job.record.expires:
        _check_life(job, job.record.expires)
    credentials = job.context.vault.open(job.record.sealed_credentials or "", job.record.credentials_place)
    uri = credentials.get("uri") or credentials.get("connectionString")
    if not uri:  # a hook returns no more than a name and a password
        strings, database = job.connection_strings(_ready_instance(job)), job.record.database or ""
        any_string = strings.get("standard") or strings["srv"]
        uri = with_credentials(any_string, credentials["username"], credentials["password"], database)
    trouble = database_client.log_in(uri, credentials.get("certificate", "") + credentials.get("private-key", ""))
    if trouble:
        return Later(1.0, f"Waiting until the new user can log in to the cluster {job.cluster}: {trouble}")
    return Done(Phase.READY, WORK.format(job.cluster))


def remove_late_user(job: AtlasJob[Binding]) -> None:
    """Remove the user that this worker created after it had lost its lease, unless the binding still needs it.

    The user's label shows that no other operation has created it or taken it over.
    """
    if job.operation.step not in (Step.CREATE_USER, Step.CREATE_CERTIFICATE, Step.WAIT_APPLIED):
        return
    try:
        now = job.context.store.binding(job.record.instance_id, job.record.binding_id)
        if now and now.phase in (Phase.CREATING, Phase.READY) and not now.operation.undo:
            return
        atlas = job.context.projects[job.project].guarded()  # without the lease, which is lost
        user = atlas.user(job.record.username or "", job.record.user_database)
        if user.labels.get(LABEL_OPERATION) == job.operation.id:
            atlas.delete_user(user.username, user.database)
            log.warning("late_user_removed", username=user.username)
    except _REASONS as error:
        log.info("late_user_not_removed", reason=type(error).__name__)


def _instance_and_plan(job: AtlasJob[Binding]) -> tuple[Instance, Plan] | None:
    """Return the binding's instance and its plan; None while the instance is being updated.

    The parameters are checked as the API has done: a document of an earlier release has no MAC of them.

    Raises:
        FailedError: The instance is being deleted or does not exist, or the plan does not allow the parameters.
    """
    instance = _ready_instance(job)
    if instance.operation.kind == Kind.UPDATE and instance.operation.state is State.IN_PROGRESS:
        return None
    catalog = job.context.catalog
    plan = catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)
    try:
        catalog.check_binding(plan, job.record.parameters)
    except BadRequest as error:
        raise FailedError(str(error), refused=True) from None
    return instance, plan


def _ready_instance(job: AtlasJob[Binding]) -> Instance:
    instance = job.context.store.instance(job.record.instance_id)
    if instance is None or instance.phase is not Phase.READY:
        raise FailedError(f"The instance {job.record.instance_id} is being deleted.")
    return instance


def _check_roles(job: AtlasJob[Binding]) -> None:
    """Check that the roles that an earlier release has stored, without a MAC, are those of the hooks.

    Raises:
        FailedError: They are not.
    """
    instance = job.context.store.instance(job.record.instance_id)
    view = binding_view(job.config, job.record, instance or job.record)
    if job.record.roles != binding_roles(job.config, view):
        raise FailedError(f"The stored roles of the binding {job.record.binding_id} are not those that it may have.")


def _check_life(job: AtlasJob[Binding], expires: datetime) -> None:
    """Check that the lifetime of the user (``expires_in``) is not over or nearly over.

    After ``renew_before`` the platform would have to renew the credentials as soon as it gets them.

    Raises:
        FailedError: It is.
    """
    if (job.record.renew_before or expires) <= job.context.store.now():
        raise _out_of_life(job)


def _out_of_life(job: AtlasJob[Binding]) -> FailedError:
    return FailedError(
        f"The binding's life of {job.record.parameters.get('expires_in')} seconds, counted from the request, was over "
        f"or nearly over before its user could log in to the cluster {job.cluster}. Create a new binding with a longer "
        "expires_in."
    )


BIND = Definition[Binding](
    steps={
        Step.SETTLE_CREDENTIALS: settle_credentials,
        Step.CREATE_USER: create_user,
        Step.CREATE_CERTIFICATE: create_certificate,
        Step.WAIT_APPLIED: wait_applied,
        Step.VERIFY_LOGIN: verify_login,
    },
    undo={Step.REMOVE_USER: remove_user},
    late_effects=frozenset({Step.CREATE_USER}),
    on_lease_lost=remove_late_user,
)
