"""Completes what atlasbroker 2.0.0 has left: its documents in MongoDB, and the labels of its users in Atlas.

First each old document is converted as on its first use (see ``broker_api.state.legacy``). Then each converted record,
also one that requests have converted before, gets the fields that it lacks, and its user gets labels. Each of these is
one atomic write that is not made when the record has changed since it was read, and each run looks at what there is.
Therefore a run can end at any moment and be repeated, while this broker and atlasbroker 2.0.0 serve.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from broker_api.errors import TamperedError, UndecryptableError
from broker_api.json_types import JsonObject
from broker_api.state.fields import BindingFields, Fields, InstanceFields
from broker_api.state.legacy import OLD_FORM, as_record, is_old, written_before
from broker_api.state.mongo import Document, in_batches
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import HOLDS_NOTHING, Binding, Instance, Phase, instance_key, record
from workers.atlas.client import AtlasClient, AtlasError, DatabaseUser, MemoryTokens, Unauthorized, UserNotFound
from workers.context import Context, credentials
from workers.engine.results import FailedError, HeldBackError
from workers.operations.config_hooks import binding_roles, binding_view, hook_username
from workers.operations.database_users import LABEL_BROKER, atlas_roles, is_ours, labels

T = TypeVar("T")

CONVERTED: Document = {"legacy": True, "phase": {"$nin": [*HOLDS_NOTHING]}}
INCOMPLETE: Document = {**CONVERTED, "project": None}
KEPT_FINDINGS = 1000
ATLAS_SECONDS = 60.0
"""How long a call to Atlas is tried again."""


class AtlasUnusableError(Exception):
    """Atlas cannot be asked for the users of a project; the message says why."""


@dataclass
class MigrationProgress:
    """What a run has done and found so far; in a dry run, what it would do.

    Attributes:
        old_documents: The number of documents of atlasbroker 2.0.0 at the beginning.
        looked_at: The documents and records that it has read.
        converted: The documents that are records now; ``duplicates`` of them were removed.
        completed: The records that got fields which they lacked.
        labelled: The users that got labels.
        findings: What an operator should know, by kind; of each kind the first ``KEPT_FINDINGS``.
        unfinished: How many of the findings say that something could not be done.
        left: The number of documents of the old form, and of records that lack fields, at the end.
    """

    old_documents: int = 0
    looked_at: int = 0
    converted: int = 0
    duplicates: int = 0
    completed: int = 0
    labelled: int = 0
    findings: dict[str, list[JsonObject]] = field(default_factory=dict)
    unfinished: int = 0
    left: int = 0

    def note(self, kind: str, found: Instance | Binding, why: str = "") -> None:
        """Add a finding about an instance or binding."""
        binding = {"binding": found.binding_id} if isinstance(found, Binding) else {}
        self.add(kind, {"instance": found.instance_id, **binding, **({"why": why} if why else {})})

    def add(self, kind: str, finding: JsonObject) -> None:
        """Add a finding; those named ``not_...`` say that something could not be done."""
        self.unfinished += kind.startswith("not_")
        kept = self.findings.setdefault(kind, [])
        if len(kept) < KEPT_FINDINGS:
            kept.append(finding)


class Migration:
    """One run.

    Args:
        context: The parts of a worker.
        batch: How many documents are read at a time.
        dry_run: Write nothing, neither to MongoDB nor to Atlas.
    """

    def __init__(self, context: Context, batch: int, *, dry_run: bool) -> None:
        self.progress = MigrationProgress()
        self._context, self._batch, self._dry_run = context, batch, dry_run
        self._store, self._config = context.store, context.settings.config
        self._first_project = next(iter(context.projects))
        self._clients = {name: self._client(name) for name in context.projects}
        self._broker_id: object = (
            context.housekeeping.read("broker").get("value") if dry_run else context.housekeeping.broker_id
        )

    def run(self) -> Iterator[MigrationProgress]:
        """Convert, complete and label, and yield the progress after each batch.

        Raises:
            AtlasUnusableError: Atlas cannot be asked; what is done stays done.
            ErrStorageMongoConnection: MongoDB cannot be used.
        """
        self.progress.old_documents = self._count(OLD_FORM)
        for documents in in_batches(self._store.collection, OLD_FORM, self._batch):
            made = [converted for found in documents if (converted := self._convert(found))]
            if self._dry_run:
                self._complete(made)
            self.progress.looked_at += len(documents)
            yield self.progress
        for documents in in_batches(self._store.collection, CONVERTED, self._batch):
            self._complete(map(record, documents))
            self.progress.looked_at += len(documents)
            yield self.progress
        self.progress.left = self._count(OLD_FORM) + self._count(INCOMPLETE)

    # --- documents ------------------------------------------------------------------------------------------------

    @storage_errors("convert documents")
    def _convert(self, found: Document) -> Instance | Binding | None:
        """Convert a document with its duplicates, unless it is one of them; return the record."""
        made = as_record(found)
        if made is None:
            ids = {name: found.get(f"{name}_id") for name in ("instance", "binding") if f"{name}_id" in found}
            why = "An id, the cluster, the database or the parameters have another type than atlasbroker 2.0.0 writes."
            self.progress.add("not_converted", {**ids, "document": str(found["_id"]), "why": why})
            return None
        binding_id = made.binding_id if isinstance(made, Binding) else None
        query = written_before(made.instance_id, binding_id)
        same = list(self._store.collection.find(query).sort("_id", 1))
        if not same or same[0]["_id"] != found["_id"]:  # a request was faster, or it is done with the first one
            return None
        before = self._store.get(made.key)
        if before and before.phase in HOLDS_NOTHING and not before.operation.open:
            why = (
                "This broker has a record of this id that is gone, so atlasbroker 2.0.0 has made it again afterwards. "
                "Delete it there, or wait until the record is forgotten (two days) and run this again."
            )
            self.progress.note("not_converted", made, why)
            return None
        self.progress.converted += before is None
        if doubles := len(same) - (before is None):
            self.progress.duplicates += doubles
            different = sum(each | {"_id": 0} != found | {"_id": 0} for each in same)
            self.progress.note("duplicates", made, f"{doubles} more, {different} with other contents")
        if not self._dry_run and (before or not self._store.legacy.convert(found)):
            self._store.legacy.remove(found)
        return None if before else made

    @storage_errors("count documents")
    def _count(self, query: Document) -> int:
        return self._store.collection.count_documents(query)

    @storage_errors("find instances")
    def _instances(self, ids: set[str]) -> dict[str, Instance | None]:
        """Return instances by id, also those that are not converted; None for one that something else has changed."""
        old = {"instance_id": {"$in": [*ids]}, "binding_id": {"$exists": False}, "operation": {"$exists": False}}
        found: dict[str, Instance | None] = {}
        query = {"$or": [{"_id": {"$in": [*map(instance_key, ids)]}}, old]}
        for document in self._store.collection.find(query).sort("_id", 1):  # records come first
            instance = as_record(document) if is_old(document) else Instance.read(document)
            if isinstance(instance, Instance) and instance.phase not in HOLDS_NOTHING:
                try:
                    usable = instance if is_old(document) else self._store.macs.checked(instance)
                except (TamperedError, UndecryptableError):
                    usable = None
                found.setdefault(instance.instance_id, usable)
        return found

    # --- records --------------------------------------------------------------------------------------------------

    def _complete(self, records: Iterable[Instance | Binding]) -> None:
        """Complete records, and label the users of bindings."""
        found = [checked for each in records if (checked := self._checked(each))]
        instances = self._instances({each.instance_id for each in found if isinstance(each, Binding)})
        completed = [changed for each in found if (changed := self._completed(each, instances))]
        bindings = [each for each in completed if isinstance(each, Binding)]
        users = self._users(bindings)
        for binding in bindings:
            user = users.get((binding.project or "", binding.username or ""))
            if user is None:
                self.progress.note("without_user", binding)
            elif binding.instance_id in instances and self._is_to_label(binding, user):
                self._label(binding)

    def _checked(self, found: Instance | Binding) -> Instance | Binding | None:
        """Return a record with what is encrypted in it; note why it cannot be completed now, and return None."""
        if found.phase is Phase.DELETING and found.operation.open:
            return None
        why = None
        if not found.understood:
            why = "It cannot be read, or only by another release."
        elif found.operation.open:
            why = "An operation works on it."
        elif (project := found.project or self._first_project) not in self._clients:
            why = f"There are no credentials for its Atlas project {project}."
        try:
            if why is None:  # a record that has just been converted in a dry run has no MACs
                return found if self._dry_run and not found.request_mac else self._store.macs.checked(found)
        except (TamperedError, UndecryptableError) as error:
            why = str(error)
        self.progress.note("not_completed", found, why)
        return None

    def _completed(
        self, found: Instance | Binding, instances: Mapping[str, Instance | None]
    ) -> Instance | Binding | None:
        """Write the fields that a record lacks; return the record with them, or None when they cannot be written."""
        try:
            if isinstance(found, Instance):
                fields: Fields = self._fields_of_instance(found)
            else:
                fields = self._fields_of_binding(found, instances)
        except FailedError as error:
            self.progress.note("not_completed", found, str(error))
            return None
        if not fields:
            return found
        if not self._dry_run and not self._store.change(found, fields):
            self.progress.note("not_completed", found, "An operation works on it.")
            return None
        self.progress.completed += 1
        return found.model_copy(update={**fields, **self._store.macs.of_changed(found, fields)})

    def _fields_of_instance(self, found: Instance) -> InstanceFields:
        fields: InstanceFields = {}
        if found.project is None:
            fields["project"] = self._first_project
        if not found.plan and found.plan_id in self._context.catalog.kept:
            fields["plan"] = self._context.catalog.kept[found.plan_id]
        return fields

    def _fields_of_binding(self, found: Binding, instances: Mapping[str, Instance | None]) -> BindingFields:
        """Return the fields that a binding lacks; note it if it has no instance.

        Raises:
            FailedError: A hook failed, or the record of the instance cannot be used.
        """
        instance = instances.get(found.instance_id)
        if instance is None:
            if found.instance_id in instances:
                raise FailedError("The record of its instance is not as the broker wrote it.")
            self.progress.note("without_instance", found)
        view, config = binding_view(self._config, found, instance or found), self._config
        fields: BindingFields = {}
        if found.project is None:
            fields["project"] = (instance and instance.project) or self._first_project
        if found.username is None:
            fields["username"] = hook_username(config, view)
        if instance and found.cluster is None:
            fields["cluster"], fields["database"] = instance.cluster, instance.database
        if instance and not found.roles and not found.made:  # without roles later: an update that has not ended
            fields["roles"] = binding_roles(config, view)
        return fields

    # --- users in Atlas -------------------------------------------------------------------------------------------

    def _client(self, project: str) -> AtlasClient:
        """Return the client of a project. A dry run keeps its token and what it observes to itself."""
        if not self._dry_run:
            return self._context.projects[project].guarded()
        (found,) = (each for each in self._context.settings.projects if each.project_id == project)
        return AtlasClient(self._context.settings.base_url, project, credentials(found, MemoryTokens()))

    def _users(self, bindings: list[Binding]) -> dict[tuple[str, str], DatabaseUser]:
        """Return the users of bindings by project and name.

        Raises:
            AtlasUnusableError: Atlas cannot be asked.
        """
        names = {(each.user_database, each.username) for each in bindings}

        def listed(client: AtlasClient) -> list[DatabaseUser]:
            return [each for each in client.users() if (each.database, each.username) in names]

        projects = {each.project or "" for each in bindings}
        return {
            (project, user.username): user
            for project in projects
            for user in _patiently(listed, self._clients[project])
        }

    def _is_to_label(self, binding: Binding, user: DatabaseUser) -> bool:
        """Return whether a user has no labels and is that of a binding; note it if it is not."""
        if user.labels:
            if not is_ours(binding, user) or user.labels.get(LABEL_BROKER) != self._broker_id:
                self.progress.note("user_of_others", binding, f"The user {user.username} has labels of something else.")
            return False
        if set(user.roles) != set(atlas_roles(binding.roles)):
            why = f"The user {user.username} has other roles than the hooks of the Config give it."
            self.progress.note("user_of_others", binding, why)
            return False
        return True

    def _label(self, binding: Binding) -> None:
        """Note in MongoDB that a binding has a user, and label the user after another look at it."""
        self.progress.labelled += 1
        if self._dry_run:
            return
        client, name, wanted = (
            self._clients[binding.project or ""],
            binding.username or "",
            labels(self._context, binding),
        )
        try:
            user = _patiently(lambda client: client.user(name), client)
            if self._is_to_label(binding, user) and self._store.change(binding, BindingFields(made=True)):
                _patiently(lambda client: client.update_user(name, labels=wanted), client)
                return
        except UserNotFound:  # it was unbound meanwhile
            pass
        except AtlasError as error:
            self.progress.note("not_labelled", binding, str(error))
        self.progress.labelled -= 1


def _patiently(call: Callable[[AtlasClient], T], client: AtlasClient) -> T:
    """Call Atlas, again and again while a retry can help.

    Raises:
        AtlasUnusableError: No retry has helped.
        AtlasError: Atlas refuses the call for good.
    """
    deadline = time.monotonic() + ATLAS_SECONDS
    while True:
        try:
            return call(client)
        except (AtlasError, HeldBackError) as error:
            if isinstance(error, AtlasError) and not error.retryable:
                raise
            pause = error.seconds if isinstance(error, HeldBackError) else error.retry_after or 1.0
            if isinstance(error, Unauthorized) or time.monotonic() + pause > deadline:
                raise AtlasUnusableError(f"Atlas project {client.project_id}: {error}") from None
        time.sleep(pause)
