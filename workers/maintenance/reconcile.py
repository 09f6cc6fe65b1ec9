"""``maintenance.reconcile``: compares Atlas's users that carry this broker's labels with the bindings in MongoDB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from broker_api.errors import ErrStorageUnreadable, TamperedError, UndecryptableError
from broker_api.state.housekeeping import RECONCILED
from broker_api.state.mongo import In
from broker_api.state.records import Binding, Phase
from workers.atlas.client import AtlasClient, AtlasError, DatabaseUser
from workers.clusters.user_quota import DEFAULT_LIMIT, is_nearly_full, store_limit
from workers.context import Context
from workers.engine.results import HeldBackError
from workers.operations.database_users import (
    LABEL_BINDING,
    LABEL_BROKER,
    LABEL_INSTANCE,
    LABEL_OPERATION,
    binding_user,
)

KEPT_DIFFERENCES = 100

log = structlog.get_logger(__name__)


@dataclass
class Drift:
    """The differences in one project: users without a binding (orphans), and bindings without a user (missing)."""

    orphans: list[DatabaseUser]
    missing: list[Binding]


def reconcile(context: Context, *, repair: bool, run: str = "") -> None:
    """Compare all projects with MongoDB; write the differences to the log and the result to MongoDB.

    Args:
        context: The parts of the worker.
        repair: Also remove the orphans, and create the missing users.
        run: The id by which a command finds the result.
    """
    if not context.keys.passes():
        return
    orphans, missing = 0, 0
    differences: list[dict[str, str]] = []
    not_compared: dict[str, str] = {}
    for project, known in context.projects.items():
        client = known.guarded()
        try:
            drift = compare(context, client)
        except (AtlasError, HeldBackError) as error:
            log.warning("reconcile_failed", project=project, reason=str(error))
            not_compared[project] = str(error)
            continue
        orphans, missing = orphans + len(drift.orphans), missing + len(drift.missing)
        differences += [{"user_without_binding": user.username, "project": project} for user in drift.orphans]
        differences += [{"binding_without_user": each.binding_id, "project": project} for each in drift.missing]
        if repair:
            _repair(context, client, drift)
    result = {"orphans": orphans, "missing": missing, "repaired": repair, "not_compared": not_compared, "run": run}
    context.housekeeping.write(RECONCILED, {"at": In(0), **result, "differences": differences[:KEPT_DIFFERENCES]})


def compare(context: Context, client: AtlasClient) -> Drift:
    """Return the differences between the users of a project and its bindings; log each of them.

    Raises:
        AtlasError, HeldBackError: Atlas cannot be asked.
    """
    project = client.project_id
    ready = context.store.ready_bindings(project)  # before the users, else a bind in between would seem to lack one
    users = list(client.users())
    limit = client.user_limit() or DEFAULT_LIMIT
    store_limit(context.housekeeping, project, limit)
    if is_nearly_full(len(users), limit):
        log.warning("project_nearly_full_of_users", project=project, users=len(users), limit=limit)
    mine = context.housekeeping.broker_id
    labelled = [user for user in users if user.labels.get(LABEL_BROKER) == mine]
    drift = Drift(
        orphans=[user for user in labelled if _is_orphan(context, user)],
        missing=_missing(context, ready, {user.username for user in users}),
    )
    for user in drift.orphans:
        log.warning("user_without_binding", project=project, username=user.username, labels=user.labels)
    for binding in drift.missing:
        ids = {"instance_id": binding.instance_id, "binding_id": binding.binding_id}
        log.warning("binding_without_user", project=project, **ids)
    return drift


def _is_orphan(context: Context, user: DatabaseUser) -> bool:
    """Return whether no record needs the user. An operation that creates or removes the user still needs it."""
    instance_id, binding_id = user.labels.get(LABEL_INSTANCE, ""), user.labels.get(LABEL_BINDING)
    try:
        if binding_id is None:
            instance = context.store.instance(instance_id)
            operation = instance.operation if instance else None
            return not (operation and operation.open and operation.id == user.labels.get(LABEL_OPERATION))
        binding = context.store.binding(instance_id, binding_id)
    except (ErrStorageUnreadable, TamperedError, UndecryptableError):  # such a record may need the user
        return False
    return binding is None or (not binding.operation.open and binding.phase is not Phase.READY)


def _missing(context: Context, ready: list[Binding], present: set[str]) -> list[Binding]:
    """Return the bindings without a user, except those that have changed or expired in the meantime."""
    now = context.store.now()
    lacking = [binding for binding in ready if binding.made and binding.username not in present]
    living = [binding for binding in lacking if binding.expires is None or binding.expires > now]
    return [binding for binding in living if context.store.get(binding.key) == binding]


def _repair(context: Context, client: AtlasClient, drift: Drift) -> None:
    for user in drift.orphans:
        if _is_orphan(context, user):
            with _errors_logged(user.username):
                client.delete_user(user.username)
                log.warning("orphan_removed", username=user.username, labels=user.labels)
    for binding in drift.missing:
        with _errors_logged(binding.username or ""):
            context.store.macs.check(binding)
            client.create_user(binding_user(context, binding))
            ids = {"instance_id": binding.instance_id, "binding_id": binding.binding_id}
            log.warning("user_restored", username=binding.username, **ids)


@contextmanager
def _errors_logged(username: str) -> Iterator[None]:
    """Log an error of the block; the other repairs go on."""
    try:
        yield
    except (AtlasError, HeldBackError, TamperedError, UndecryptableError) as error:
        log.warning("repair_failed", username=username, reason=str(error))
