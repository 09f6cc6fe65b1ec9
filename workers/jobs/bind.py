"""``atlas.bind``: makes the binding's database user, and ends only once the user can log in.

Name, password and roles are settled and kept before Atlas is asked, so that whoever goes on after a crash asks for
the same user with the same password.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from broker_api.config import BindingView
from broker_api.errors import ErrStorageMongoConnection, ErrStorageUnreadable
from broker_api.state.records import Binding, Instance, Kind, Phase, State
from workers import mongodb
from workers.atlas.client import AtlasError, DatabaseUser, Refused
from workers.connections import Strings, endpoints
from workers.hooks import called
from workers.job import LABEL_OPERATION, Job, binding_view, roles_of, user_of
from workers.outcome import Done, FailedError, Later, Next, Outcome, Steps
from workers.room import warn_when_nearly_full

log = structlog.get_logger(__name__)

RENEW_SHARE = 0.2
"""A binding should be renewed when a fifth of its life is left."""


def settle(job: Job[Binding]) -> Outcome:
    """Settle user, password and roles, unless the instance is going away.

    The claim was a write of a majority, so this read sees every deprovision that was accepted before it. One that is
    accepted later finds this binding, and stops it.
    """
    instance = _instance(job)
    if _is_being_updated(instance):
        return Later(1.0, "Waiting until the instance has been updated.")
    where = {"project": instance.project or job.project, "cluster": instance.cluster, "database": instance.database}
    known = _connection(job, instance)
    view = binding_view(job.config, job.record, instance, known)
    credentials = _credentials(job, view)
    roles = called("generate_binding_permissions", lambda: roles_of(job.config, view))
    sealed = {"sealed_credentials": job.parts.vault.seal(credentials), "username": _username(credentials)}
    return Next("create", {**where, **sealed, "roles": roles, "endpoints": endpoints(known), **_life(job)})


def _instance(job: Job[Binding]) -> Instance:
    instance = job.parts.store.instance(job.record.instance_id)
    if instance is None or instance.phase is not Phase.READY:
        raise FailedError(f"The instance {job.record.instance_id} is being deleted.")
    return instance


def _is_being_updated(instance: Instance) -> bool:
    return instance.operation.kind == Kind.UPDATE and instance.operation.state is State.IN_PROGRESS


def _credentials(job: Job[Binding], view: BindingView) -> dict[str, Any]:
    """Make the credentials, once: a user of an earlier attempt may exist already."""
    if sealed := job.record.sealed_credentials:
        kept: dict[str, Any] = job.parts.vault.open(sealed)
        return kept
    return called("generate_binding_credentials", lambda: job.config.generate_binding_credentials(view))


def _connection(job: Job[Binding], instance: Instance) -> Strings:
    client = job.parts.projects.get(instance.project or job.project)
    if client is None:
        raise FailedError(f"The broker has no credentials for the Atlas project {instance.project}.")
    return job.parts.connections.known(client, instance.cluster or "", job.way_to_connect(instance))


def _username(credentials: Mapping[str, Any]) -> str:
    name, password = credentials.get("username"), credentials.get("password")
    if not isinstance(name, str) or not isinstance(password, str) or not name or not password:
        raise FailedError("generate_binding_credentials of this broker must give a username and a password.")
    return name


def _life(job: Job[Binding]) -> dict[str, datetime]:
    seconds = job.record.parameters.get("expires_in")
    if seconds is None:
        return {}
    expires = job.operation.accepted + timedelta(seconds=seconds)
    return {"expires": expires, "renew_before": expires - timedelta(seconds=seconds * RENEW_SHARE)}


def _check_life(job: Job[Binding]) -> None:
    """Fail when the user's life, settled at the start, is over or nearly so: nobody could use the credentials.

    Later than ``renew_before`` they would have to be renewed as soon as they are given.
    """
    binding = job.record
    if binding.expires and (binding.renew_before or binding.expires) <= job.parts.store.now():
        raise FailedError(_out_of_life(job))


def _out_of_life(job: Job[Binding]) -> str:
    return (
        f"The binding's life of {job.record.parameters.get('expires_in')} seconds, counted from the request, was over "
        f"or nearly over before its user could log in to the cluster {job.cluster}. Bind anew with a longer expires_in."
    )


def create(job: Job[Binding]) -> Outcome:
    """Make the user, or set the password of the one that an earlier attempt of ours has made.

    An update of the instance that began meanwhile either sees that the roles are settled, and waits for this binding,
    or is seen here.
    """
    if _is_being_updated(_instance(job)):
        return Next("")
    _check_life(job)
    user = user_of(job.parts, job.record)
    try:
        _make(job, user)
    except Refused as error:
        if error.users_full:
            raise FailedError(_full(job)) from None
        if error.expired and job.record.expires:
            raise FailedError(_out_of_life(job)) from None
        raise
    warn_when_nearly_full(job.parts, job.project)
    return job.wait_applied("apply", {"made": True})


def _make(job: Job[Binding], user: DatabaseUser) -> None:
    try:
        job.atlas.create_user(user)
    except Refused as error:
        if not error.exists:
            raise
        _take_over(job, user)


def _full(job: Job[Binding]) -> str:
    return (
        f"The Atlas project {job.project} of the cluster {job.cluster} holds as many database users as Atlas allows "
        "(100 by default). Remove bindings that are not needed, use a cluster of another project, "
        "or ask MongoDB's support for a higher limit."
    )


def _take_over(job: Job[Binding], user: DatabaseUser) -> None:
    """Set the password of a user that exists, if it carries the labels of this binding; else touch nothing."""
    if not job.is_ours(job.atlas.user(user.username)):
        sentence = f"A database user {user.username} exists in the Atlas project and was not made for this binding."
        raise FailedError(sentence, refused=True)
    job.parts.claims.renew(job.claim)  # still ours after all that time? Else the user may be somebody else's by now.
    job.atlas.update_user(
        user.username, password=user.password, roles=user.roles, labels=user.labels, scopes=user.scopes
    )


def apply(job: Job[Binding]) -> Outcome:
    """Wait until Atlas says that the user can log in."""
    _check_life(job)
    if wait := job.not_applied(cluster_needed=True):
        return wait
    return Next("log in") if job.parts.settings.verify_login else _done(job)


def log_in(job: Job[Binding]) -> Outcome:
    """Try the credentials on the cluster itself."""
    _check_life(job)
    credentials = job.parts.vault.open(job.record.sealed_credentials or "")
    trouble = mongodb.log_in(credentials.get("uri") or credentials.get("connectionString") or "")
    if trouble:
        return Later(1.0, f"Waiting until the new user can log in to the cluster {job.cluster}: {trouble}")
    return _done(job)


def _done(job: Job[Binding]) -> Done:
    return Done(Phase.READY, f"The credentials work on the cluster {job.cluster}.")


def take_back(job: Job[Binding]) -> None:
    """Remove the user that a worker made after it had lost its lease, when nobody waits for it any more.

    Its label says that no other operation has made or taken it over.
    """
    try:
        now = job.parts.store.binding(job.record.instance_id, job.record.binding_id)
        if now and _wanted(now):
            return
        user = job.atlas.user(job.record.username or "")
        if user.labels.get(LABEL_OPERATION) == job.operation.id:
            job.atlas.delete_user(user.username)
            log.warning("took back a user made too late", username=user.username)
    except (AtlasError, ErrStorageMongoConnection, ErrStorageUnreadable, FailedError) as error:
        log.info("nothing to take back, or not now", reason=type(error).__name__)


def _wanted(now: Binding) -> bool:
    """Say whether a binding has, or is getting, its user."""
    return now.phase in (Phase.CREATING, Phase.READY) and not now.operation.undo


STEPS: Steps = {"": settle, "create": create, "apply": apply, "log in": log_in}
