"""``maintenance.reconcile``: compares what carries this broker's labels or tags in Atlas with MongoDB.

Users are compared here, clusters in ``reconcile_clusters``.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from broker_api.errors import ErrStorageUnreadable, TamperedError, UndecryptableError
from broker_api.state.bind_reads import DEFAULT_LIMIT
from broker_api.state.housekeeping import RECONCILED
from broker_api.state.mongo import In
from broker_api.state.records import Binding, Phase
from workers.atlas.client import AtlasClient, AtlasError, DatabaseUser, UserAlreadyExists, UserNotFound
from workers.clusters.user_limit import is_nearly_full, store_room, told_limit
from workers.context import Context
from workers.engine.results import HeldBackError
from workers.engine.runner import OTHER_KEYS
from workers.maintenance.reconcile_clusters import ClusterDrift, compare_clusters
from workers.operations.database_users import (
    LABEL_BINDING,
    LABEL_BROKER,
    LABEL_INSTANCE,
    LABEL_OPERATION,
    binding_user,
    is_ours,
)

T = TypeVar("T")
KEPT_DIFFERENCES = 100

log = structlog.get_logger(__name__)


UNUSABLE = (ErrStorageUnreadable, TamperedError, UndecryptableError)
"""Why a record cannot be compared: it cannot be read, was changed by something else, or is under an unknown key."""


@dataclass
class Drift:
    """The differences in one project.

    Attributes:
        orphans: The users without a binding.
        missing: The bindings without a user.
        undecided: The users whose records cannot be used, with the reason; nothing is done with them.
    """

    orphans: list[DatabaseUser] = field(default_factory=list)
    missing: list[Binding] = field(default_factory=list)
    undecided: dict[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """How many can be repaired, for the result."""
        return {"orphans": len(self.orphans), "missing": len(self.missing)}

    @property
    def differences(self) -> list[dict[str, str]]:
        """Each of them, for operators."""
        users = [{"user_without_binding": user.username} for user in self.orphans]
        bindings = [{"binding_without_user": binding.binding_id} for binding in self.missing]
        unclear = [{"user_not_compared": name, "reason": reason} for name, reason in self.undecided.items()]
        return users + bindings + unclear


class ReconcileError(Exception):
    """Projects could not be compared; the message says which ones and why."""


def reconcile(context: Context, *, repair: bool, run: str = "") -> str:
    """Compare all projects with MongoDB; write the differences to the log and the result to MongoDB.

    Args:
        context: The parts of the worker.
        repair: Also remove the orphans, and create the missing users.
        run: The id by which a command finds the result.

    Returns:
        The result as a sentence for operators.

    Raises:
        ReconcileError: A project could not be compared; the result of the others is stored all the same.
        ErrStorageMongoConnection: MongoDB cannot be used.
    """
    found = Counter(orphans=0, missing=0, clusters=0, instances=0)
    left = found.copy()
    undecided = 0
    differences: list[dict[str, str]] = []
    not_compared: dict[str, str] = {}
    if problem := _problem(context):
        not_compared = dict.fromkeys(context.projects, problem)
    for project in context.projects.keys() - not_compared:
        client = context.projects[project].guarded()
        drift, clusters = Drift(), ClusterDrift([], [])
        try:
            drift = compare(context, client)
            clusters = compare_clusters(context, client)
        except (AtlasError, HeldBackError) as error:  # of the clusters: what was found about users counts all the same
            log.warning("reconcile_failed", project=project, reason=str(error))
            not_compared[project] = str(error)
        undecided += len(drift.undecided)
        found.update(drift.numbers | clusters.numbers)
        differences += [{**each, "project": project} for each in (*drift.differences, *clusters.differences)]
        if repair:
            drift = _repair(context, client, drift)
        left.update(drift.numbers | clusters.numbers)
    result = {
        **found,
        "undecided": undecided,
        "left": dict(left),
        "repaired": repair,
        "not_compared": not_compared,
        "run": run,
    }
    context.housekeeping.write(RECONCILED, {"at": In(0), **result, "differences": differences[:KEPT_DIFFERENCES]})
    sentence = f"{found['orphans']} users without a binding, {found['missing']} bindings without a user"
    if found["clusters"] or found["instances"]:
        sentence += f", {found['clusters']} clusters without an instance"
        sentence += f", {found['instances']} instances without a cluster"
    if undecided:
        sentence += f", {undecided} users whose records cannot be used"
    if not_compared:
        reasons = " ".join(f"Project {project}: {reason}" for project, reason in not_compared.items())
        raise ReconcileError(f"{len(not_compared)} of {len(context.projects)} projects not compared. {reasons}")
    return f"{sentence}. {left.total()} are left." if repair else f"{sentence}."


def _problem(context: Context) -> str | None:
    """Return why nothing can be compared: without keys, or with another broker's id, users would seem to be orphans."""
    if not context.keys.passes():
        return OTHER_KEYS
    try:
        context.housekeeping.broker_id  # noqa: B018 - it is read from MongoDB once, and checked
    except (TamperedError, UndecryptableError) as error:
        return str(error)
    return None


def compare(context: Context, client: AtlasClient) -> Drift:
    """Return the differences between the users of a project and its bindings; log each of them.

    Raises:
        AtlasError, HeldBackError: Atlas cannot be asked.
    """
    project = client.project_id
    ready = context.store.ready_bindings(project)  # before the users, else a bind in between would seem to lack one
    users = list(client.users())
    limit = told_limit(client)
    mine = context.housekeeping.broker_id
    labelled = [user for user in users if user.labels.get(LABEL_BROKER) == mine]
    others = max(0, len(users) - context.store.count_users(project))
    store_room(context.housekeeping, project, limit, others)
    if is_nearly_full(len(users), limit or DEFAULT_LIMIT):
        log.warning("project_nearly_full_of_users", project=project, users=len(users), limit=limit or DEFAULT_LIMIT)
    drift = Drift(missing=_missing(context, ready, {(user.database, user.username) for user in users}))
    for user in labelled:
        try:
            if _is_orphan(context, user):
                drift.orphans.append(user)
        except UNUSABLE as error:  # such a record may need the user
            log.warning("user_not_compared", project=project, username=user.username, reason=str(error))
            drift.undecided[user.username] = str(error)
    for user in drift.orphans:
        log.warning("user_without_binding", project=project, username=user.username, labels=user.labels)
    for binding in drift.missing:
        ids = {"instance_id": binding.instance_id, "binding_id": binding.binding_id}
        log.warning("binding_without_user", project=project, **ids)
    return drift


def _is_orphan(context: Context, user: DatabaseUser) -> bool:
    """Return whether no record needs the user. An operation that creates or removes the user still needs it.

    Raises:
        ErrStorageUnreadable, TamperedError, UndecryptableError: The record cannot be used.
    """
    instance_id, binding_id = user.labels.get(LABEL_INSTANCE, ""), user.labels.get(LABEL_BINDING)
    if binding_id is None:
        instance = context.store.instance(instance_id)
        operation = instance.operation if instance else None
        return not (operation and operation.open and operation.id == user.labels.get(LABEL_OPERATION))
    binding = context.store.binding(instance_id, binding_id)
    return binding is None or (not binding.operation.open and binding.phase is not Phase.READY)


def _missing(context: Context, ready: list[Binding], present: set[tuple[str, str]]) -> list[Binding]:
    """Return the bindings without a user, except those that have changed or expired in the meantime."""
    now = context.store.now()
    lacking = [
        binding for binding in ready if binding.made and (binding.user_database, binding.username) not in present
    ]
    living = [binding for binding in lacking if binding.expires is None or binding.expires > now]
    return [binding for binding in living if context.store.get(binding.key) == binding]


def _repair(context: Context, client: AtlasClient, drift: Drift) -> Drift:
    """Repair the differences in a project; return those that are left."""
    left = Drift()
    for user in drift.orphans:
        with _failed_into(left.orphans, user, user.username):
            if not _is_orphan(context, user):
                continue
            with suppress(UserNotFound):
                client.delete_user(user.username, user.database)
            log.warning("orphan_removed", username=user.username, labels=user.labels)
    for binding in drift.missing:
        if binding.sealed_credentials is None:
            reason = "atlasbroker 2.0.0 made this binding and did not keep its password. Create a new binding."
            log.warning("repair_failed", username=binding.username, reason=reason)
            left.missing.append(binding)
            continue
        with _failed_into(left.missing, binding, binding.username or ""):
            if context.store.get(binding.key) != binding:  # it was unbound, or has changed, since it was compared
                continue
            user = binding_user(context, context.store.macs.checked(binding))
            try:
                client.create_user(user)
            except UserAlreadyExists:
                if not is_ours(binding, client.user(binding.username or "", binding.user_database)):
                    raise
            now = context.store.get(binding.key)
            if now is None or now.phase not in (Phase.CREATING, Phase.READY):  # its unbind may have found no user
                with suppress(UserNotFound):
                    client.delete_user(user.username, user.database)
                continue
            ids = {"instance_id": binding.instance_id, "binding_id": binding.binding_id}
            log.warning("user_restored", username=binding.username, **ids)
    return left


@contextmanager
def _failed_into(left: list[T], each: T, username: str) -> Iterator[None]:
    """Log an error of the block and add the difference to those that are left; the other repairs go on."""
    try:
        yield
    except (AtlasError, HeldBackError, *UNUSABLE) as error:
        log.warning("repair_failed", username=username, reason=str(error))
        left.append(each)
