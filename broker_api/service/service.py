"""One method for each verb of the OSB API: checks, one atomic write, one send. Knows nothing of HTTP.

A decision is made from what was read and written with a filter that repeats it; when that finds the document changed,
the verb reads again and decides anew.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.catalog.parameters import check_databases_of_roles, check_size, same
from broker_api.config import Config
from broker_api.errors import (
    AsyncRequired,
    BadRequest,
    ConcurrencyError,
    Conflict,
    ErrPlanUnsupported,
    ErrStorageFindInstance,
    ErrStorageMongoConnection,
    Gone,
    MaintenanceInfoConflict,
    NotFound,
    OperationFailed,
    OutOfTime,
    UpdateNotSupported,
)
from broker_api.jobs.queue import JOBS, Queue
from broker_api.json_types import JsonObject
from broker_api.service import serializers
from broker_api.service.schemas import (
    Accepted,
    BindRequest,
    Caller,
    Complete,
    LastOperation,
    MaintenanceInfo,
    ProvisionRequest,
    RotateRequest,
    UpdateRequest,
)
from broker_api.service.sync_wait import Waiting
from broker_api.settings.settings import Settings
from broker_api.state.fields import BindingFields, InstanceFields
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.key_check import KeyCheck
from broker_api.state.records import (
    CREATES,
    DELETES,
    Binding,
    Instance,
    Kind,
    Operation,
    PastOperation,
    Phase,
    State,
    binding_key,
    canonical,
    instance_key,
)
from broker_api.state.store import Start, Store
from broker_api.state.vault import Vault

SERVICE_CATALOG = "kubernetes"
"""Its name as a platform (profile.md, "Context Object")."""
RACES = 20
"""How often a verb decides anew when others change the same document at that moment."""

Decision = Accepted | Complete | None
AnyFound = Instance | Binding | None
AnyResource = TypeVar("AnyResource", Instance, Binding)


class Service:
    """What the broker does for platforms."""

    def __init__(self, settings: Settings, catalog: Catalog, store: Store, queue: Queue) -> None:
        self.catalog = catalog
        self.waiting = Waiting(store)
        self._settings = settings
        self._store = store
        self._queue = queue
        self._vault = Vault(settings.encryption_keys)
        self._keys = KeyCheck(store, self._vault)

    # --- instances --------------------------------------------------------------------------------------------

    def provision(self, instance_id: str, request: ProvisionRequest, caller: Caller) -> Accepted | Complete:
        """Make an instance: 202 new or still being made, 200 there already, 409 when it differs."""
        self._check_known(request, lambda: self._store.instance(instance_id))
        plan = self.catalog.find_plan(request.plan_id)
        if plan:
            self.catalog.check_create(plan, request.parameters or {})

        def decide() -> Decision:
            found = self._store.instance(instance_id)
            asked = _instance_fields(instance_id, request)
            if found and (answer := _repeated(found, asked, _instance_identity)):
                about = self._about(found)
                return Accepted(answer.operation, about) if isinstance(answer, Accepted) else Complete(about)
            if found:
                self._tell_failure(found, Kind.PROVISION, caller)
            if plan is None:
                raise ErrPlanUnsupported(request.plan_id)
            _check_maintenance(plan, request.maintenance_info)
            asked["plan"] = self.catalog.kept(plan)
            begun = self._store.create(asked, _start(Kind.PROVISION, caller), found.operation if found else None)
            return self._accepted(begun, instance_id, None, self._dashboard(plan, asked["parameters"]))

        def made() -> Complete:
            return Complete(self._about(self._existing_instance(instance_id)), created=True)

        return self._carry_out(decide, caller, made, instance_key(instance_id), request.context)

    def update(self, instance_id: str, request: UpdateRequest, caller: Caller) -> Accepted | Complete:
        """Change what may change of an instance."""
        known = self._store.instance(instance_id)
        self._check_known(request, lambda: known)
        if known and request.plan_id in (None, known.plan_id):
            self.catalog.check_update(self._plan_of(known), request.parameters or {})
        elif request.plan_id:
            self.catalog.check_update(self.catalog.plan(request.service_id, request.plan_id), request.parameters or {})

        def decide() -> Decision:
            found = self._standing_instance(instance_id)
            current = self._plan_of(found)
            if request.service_id != current.service_id:
                raise BadRequest(f"service_id must be that of the instance: {current.service_id}.")
            moves = request.plan_id not in (None, current.id)
            plan = self.catalog.plan(request.service_id, request.plan_id or "") if moves else current
            changed = request.model_copy(update={"parameters": self._changed(found, request.parameters or {})})
            return self._update(found, current, plan, changed, caller)

        def made() -> Complete:
            return Complete(self._about(self._existing_instance(instance_id)))

        return self._carry_out(decide, caller, made, instance_key(instance_id), request.context)

    def _update(self, found: Instance, current: Plan, plan: Plan, request: UpdateRequest, caller: Caller) -> Decision:
        kept = found.maintenance_version if plan.id == current.id else None
        version = (request.maintenance_info and request.maintenance_info.version) or kept
        parameters = request.parameters or {}
        wanted = {"plan_id": plan.id, "parameters": parameters, "maintenance_version": version}
        moved = {"plan": self.catalog.kept(plan)} if plan.id != current.id else {}
        asked = canonical({**wanted, "context": request.context, **moved})
        running = found.operation if found.operation.state is State.IN_PROGRESS else None
        about = self._about(found)
        if running and running.kind is Kind.UPDATE and running.request == asked:
            return Accepted(running.id, about)
        if running:
            raise ConcurrencyError
        _check_maintenance(plan, request.maintenance_info)
        if plan.id != current.id:
            self._check_move(found, current, plan, parameters)
        if same(wanted, found.model_dump(include=set(wanted))):
            return self._change_context(found, request.context)
        if found.operation.request == asked:
            self._tell_failure(found, Kind.UPDATE, caller)
        begun = self._store.start(found.key, found.operation, _start(Kind.UPDATE, caller, asked), Phase.READY)
        return self._accepted(begun, found.instance_id, None, about)

    def _check_move(self, found: Instance, current: Plan, plan: Plan, parameters: JsonObject) -> None:
        """Let an instance pass to a plan that decides nothing else than what it is.

        Raises:
            UpdateNotSupported: the plan cannot be left, or pins another cluster or project (data does not move), or
                does not take the instance's parameters.
        """
        if not current.updateable:
            raise UpdateNotSupported(f"The plan {current.name} cannot be changed into another one.")
        cluster, projects = self._settings.config.PARAMETER_CLUSTER, self._settings.projects
        own = {
            "cluster": found.cluster or current.cluster or found.parameters.get(cluster),
            "project": found.project or current.project or found.parameters.get("project"),
        }
        if found.legacy and not own["project"] and projects:
            own["project"] = projects[0].project_id  # where the workers look for what the old broker wrote
        for name, pin in (("cluster", plan.cluster), ("project", plan.project)):
            if pin is not None and own[name] != pin:
                raise UpdateNotSupported(
                    f"The plan {plan.name} is for another {name}, and the data of an instance does not move with its "
                    "plan. Make a new instance of that plan, and copy the data."
                )
        try:
            self.catalog.check_update(plan, parameters)
        except BadRequest as error:
            raise UpdateNotSupported(f"The plan {plan.name} does not take the instance as it is: {error}") from None

    def _change_context(self, found: Instance, context: JsonObject | None) -> Decision:
        if context is not None and not same(context, found.context):
            changes: InstanceFields = {"context": context}
            if not self._store.change(found.key, found.operation, changes):
                return None
        return Complete(self._about(found))

    def _changed(self, found: Instance, parameters: Mapping[str, Any]) -> JsonObject:
        """Return the parameters after an update; naming the cluster or database that it has changes nothing.

        Raises:
            BadRequest: another cluster or database is named: data does not move with a parameter; or they are too many.
        """
        config = self._settings.config
        fixed = {config.PARAMETER_CLUSTER: found.cluster, config.PARAMETER_DATABASE: found.database}
        fixed |= {"project": found.project}
        for name, value in fixed.items():
            if name in parameters and parameters[name] not in (value, found.parameters.get(name)):
                raise BadRequest(f"parameters.{name} cannot be changed; it is {value or 'not set'}.")
        changes = {name: value for name, value in parameters.items() if name not in fixed}
        if changes:
            check_size({**found.parameters, **changes})
        return {**found.parameters, **changes}

    def deprovision(self, instance_id: str, service_id: str, plan_id: str, caller: Caller) -> Accepted | Complete:
        """Delete an instance, also one that is still being made or whose create failed. Ids of plans are only hints."""
        del service_id, plan_id
        _check_exists(self._store.instance(instance_id))

        def decide() -> Decision:
            return self._delete(self._store.instance(instance_id), Kind.DEPROVISION, caller)

        return self._carry_out(decide, caller, Complete, instance_key(instance_id))

    def _delete(self, found: Instance | Binding | None, kind: Kind, caller: Caller) -> Decision:
        if found is None or found.phase is Phase.GONE:
            raise Gone
        running = found.operation if found.operation.state is State.IN_PROGRESS else None
        if running and running.kind is kind:
            return Accepted(running.id)
        if running and running.kind not in CREATES:  # an update, or what only another release knows
            raise ConcurrencyError
        self._tell_failure(found, kind, caller)
        begun = self._store.start(found.key, found.operation, _start(kind, caller), Phase.DELETING)
        return self._accepted(begun, found.instance_id, _binding_id(found))

    def instance(self, instance_id: str) -> JsonObject:
        """Describe an instance that is there."""
        found = self._existing_instance(instance_id)
        if found.operation.kind is Kind.UPDATE and found.operation.state is State.IN_PROGRESS:
            raise ConcurrencyError
        return serializers.instance(found, self._about(found))

    def instance_operation(self, instance_id: str, operation: str | None) -> LastOperation:
        """Report how an instance's operation stands; the latest one when the asked one is not known."""
        found = self._store.instance(instance_id, any_release=True)
        if found is None:
            raise _forgotten(operation, f"There is no instance {instance_id}.")
        return serializers.last_operation(found, operation)

    def _existing_instance(self, instance_id: str) -> Instance:
        found = self._store.instance(instance_id)
        if found is None or found.phase is not Phase.READY:
            raise NotFound(f"There is no instance {instance_id}, or not yet.")
        return found

    def _plan_of(self, found: Instance) -> Plan:
        return self.catalog.plan_of(found.service_id, found.plan_id, found.plan)

    def _about(self, found: Instance) -> JsonObject:
        return self._dashboard(self._plan_of(found), found.parameters, found.project, found.cluster)

    def _dashboard(
        self, plan: Plan | None, parameters: Mapping[str, Any], project: str | None = None, cluster: str | None = None
    ) -> JsonObject:
        cluster = cluster or (plan and plan.cluster) or parameters.get(self._settings.config.PARAMETER_CLUSTER)
        project = project or (plan and plan.project) or parameters.get("project") or self._only_project()
        return serializers.dashboard(self._settings.base_url, project, cluster)

    def _only_project(self) -> str | None:
        projects = self._settings.projects
        return projects[0].project_id if len(projects) == 1 else None

    # --- bindings ---------------------------------------------------------------------------------------------

    def bind(
        self, instance_id: str, binding_id: str, request: BindRequest | RotateRequest, caller: Caller
    ) -> Accepted | Complete:
        """Make a binding: 202 new or still being made, 200 with its credentials when it is there, 409 if it differs."""
        self._check_known(
            request, lambda: self._store.instance(instance_id), lambda: self._store.binding(instance_id, binding_id)
        )
        if isinstance(request, BindRequest) and (plan := self.catalog.find_plan(request.plan_id)):
            self.catalog.check_bind(plan, request.parameters or {})

        def decide() -> Decision:
            instance = self._standing_instance(instance_id)
            found = self._store.binding(instance_id, binding_id)
            asked = self._binding_fields(instance, binding_id, request, found)
            if found and (answer := _repeated(found, asked, _binding_identity)):
                return answer if isinstance(answer, Accepted) else Complete(self._credentials(found))
            if found:
                self._tell_failure(found, Kind.BIND, caller)
            self._check_bind(instance, request, asked["parameters"])
            begun = self._store.create(asked, _start(Kind.BIND, caller), found.operation if found else None)
            return self._accepted(begun, instance_id, binding_id)

        def made() -> Complete:
            return Complete(self._credentials(self._existing_binding(instance_id, binding_id)), created=True)

        return self._carry_out(decide, caller, made, binding_key(instance_id, binding_id), request.context)

    def _standing_instance(self, instance_id: str) -> Instance:
        """Return an instance that may be bound to and changed; not one that is being made or deleted."""
        found = self._store.instance(instance_id)
        if found is None or found.phase in (Phase.GONE, Phase.FAILED):
            raise ErrStorageFindInstance(instance_id)
        if found.phase is not Phase.READY:
            raise ConcurrencyError
        return found

    def _check_bind(self, instance: Instance, request: BindRequest | RotateRequest, parameters: JsonObject) -> None:
        """Let a new binding pass that the instance's own plan allows, with these parameters.

        Raises:
            BadRequest: the plan has no bindings, it is not the one that the request names, or a parameter is wrong.
        """
        plan = self._own_plan(instance, request)
        if not plan.bindable:
            raise BadRequest(f"Instances of the plan {plan.name} cannot be bound.")
        self.catalog.check_bind(plan, parameters)
        config = self._settings.config
        by_default = type(config).generate_binding_permissions is Config.generate_binding_permissions
        if instance.database and by_default:  # a hook of the operator's may give roles elsewhere
            check_databases_of_roles(config, parameters, instance.database)

    def _own_plan(self, instance: Instance, request: BindRequest | RotateRequest) -> Plan:
        service_id, plan_id = request.service_id or instance.service_id, request.plan_id or instance.plan_id
        if instance.legacy:  # the old broker noted no plan, and the catalog need not have the default one
            offered = self.catalog.find_plan(instance.plan_id) or self.catalog.find_plan(plan_id)
            return offered or self._plan_of(instance)
        if (service_id, plan_id) != (instance.service_id, instance.plan_id):
            own = f"{instance.service_id} and {instance.plan_id}"
            raise BadRequest(f"service_id and plan_id must be those of the instance: {own}.")
        return self._plan_of(instance)

    def _binding_fields(
        self, instance: Instance, binding_id: str, request: BindRequest | RotateRequest, found: Binding | None
    ) -> BindingFields:
        common: BindingFields = {
            "instance_id": instance.instance_id,
            "binding_id": binding_id,
            "context": request.context or {},
        }
        if isinstance(request, RotateRequest):
            return {**common, **self._rotated_fields(instance, request, found)}
        resource = request.bind_resource
        return {
            **common,
            "service_id": request.service_id,
            "plan_id": request.plan_id,
            "parameters": request.parameters or {},
            "app_guid": request.app_guid,
            "bind_resource": resource.model_dump(exclude_none=True) if resource else None,
        }

    def _rotated_fields(self, instance: Instance, request: RotateRequest, found: Binding | None) -> BindingFields:
        """Take over what the predecessor was made with (spec: Rotating a Service Binding).

        A repeated request may come when the predecessor is gone already; then the binding itself tells.
        """
        predecessor = request.predecessor_binding_id
        repeated = found and found.phase is not Phase.GONE and found.predecessor == predecessor
        old = found if repeated else self._store.binding(instance.instance_id, predecessor)
        if old is None or (not repeated and (old.phase is not Phase.READY or self._has_expired(old))):
            raise BadRequest(
                "predecessor_binding_id must name a binding of this instance that exists and is not expired."
            )
        parameters = old.parameters if request.parameters is None else request.parameters
        return {
            "service_id": instance.service_id,
            "plan_id": instance.plan_id,
            "parameters": parameters,
            "app_guid": old.app_guid,
            "bind_resource": old.bind_resource,
            "predecessor": predecessor,
        }

    def unbind(
        self, instance_id: str, binding_id: str, service_id: str, plan_id: str, caller: Caller
    ) -> Accepted | Complete:
        """Delete a binding, also one that is still being made or whose create failed. Ids of plans are only hints."""
        del service_id, plan_id
        _check_exists(self._store.binding(instance_id, binding_id))

        def decide() -> Decision:
            return self._delete(self._store.binding(instance_id, binding_id), Kind.UNBIND, caller)

        return self._carry_out(decide, caller, Complete, binding_key(instance_id, binding_id))

    def binding(self, instance_id: str, binding_id: str) -> JsonObject:
        """Describe a binding that is there, with its credentials."""
        found = self._existing_binding(instance_id, binding_id)
        return {**self._credentials(found), "parameters": found.parameters}

    def binding_operation(self, instance_id: str, binding_id: str, operation: str | None) -> LastOperation:
        """Report how a binding's operation stands; the latest one when the asked one is not known."""
        found = self._store.binding(instance_id, binding_id, any_release=True)
        if found is None:
            raise _forgotten(operation, f"There is no binding {binding_id} of the instance {instance_id}.")
        return serializers.last_operation(found, operation)

    def _existing_binding(self, instance_id: str, binding_id: str) -> Binding:
        found = self._store.binding(instance_id, binding_id)
        if found and found.phase is Phase.DELETING and not found.operation.open:
            raise NotFound(f"The removal of the binding {binding_id} has failed; ask for it again.")
        if found is None or found.phase is not Phase.READY:
            raise NotFound(f"There is no binding {binding_id} of the instance {instance_id}, or not yet.")
        return found

    def _credentials(self, found: Binding) -> JsonObject:
        if found.sealed_credentials is None:
            raise NotFound("The old broker made this binding and did not keep its password. Bind anew, or rotate it.")
        if self._has_expired(found):
            raise NotFound(f"The binding {found.binding_id} has expired. Bind anew.")
        return serializers.binding(found, self._vault.open(found.sealed_credentials))

    def _has_expired(self, found: Binding) -> bool:
        return found.expires is not None and found.expires <= self._store.now()

    # --- carrying out -----------------------------------------------------------------------------------------

    def _check_known(
        self, request: ProvisionRequest | UpdateRequest | BindRequest | RotateRequest, *finds: Callable[[], AnyFound]
    ) -> None:
        """Let ids pass that the catalog has, or that what exists was made with: its plan was taken out since then.

        Raises:
            BadRequest, ErrPlanUnsupported: the service or the plan is not known.
        """
        try:
            self.catalog.check_known(request.service_id, request.plan_id)
        except (BadRequest, ErrPlanUnsupported):
            for find in finds:
                found = find()
                if found is None or found.phase in (Phase.GONE, Phase.FAILED):
                    continue
                if request.service_id in (None, found.service_id) and request.plan_id in (None, found.plan_id):
                    return
            raise

    def _carry_out(
        self,
        decide: Callable[[], Decision],
        caller: Caller,
        made: Callable[[], Complete],
        key: str,
        context: JsonObject | None = None,
    ) -> Accepted | Complete:
        """Decide until no race is lost; then answer at once, or wait for the job when the platform cannot poll."""
        if caller.accepts_incomplete:
            return _settled(decide)
        if self._settings.sync_wait <= 0:
            raise AsyncRequired
        with self.waiting.place():
            answer = _settled(decide)
            if isinstance(answer, Complete):
                return answer
            self._wait(answer, key, caller, context)
            return made()

    def _wait(self, accepted: Accepted, key: str, caller: Caller, context: JsonObject | None) -> None:
        """Return when the operation has succeeded.

        Raises:
            BadRequest, OperationFailed: it has failed.
            ConcurrencyError: it goes on, and the platform is Service Catalog: it repeats the request after this error,
                and joins the operation again, while after 504 it would delete what is being made.
            OutOfTime: it goes on, and the platform is another one: Cloud Foundry deletes only after an error of the
                broker's, and would leave behind what is being made after any other.
        """
        began = time.monotonic()
        self.waiting.wait(key, accepted.operation, self._settings.sync_wait)
        found, ended = self._ended(key, accepted.operation)
        if ended and ended.state == State.FAILED:
            raise _failure(ended)
        if ended and ended.state == State.SUCCEEDED:
            return
        instance = self._store.instance(found.instance_id) if isinstance(found, Binding) else None
        sources = (context, caller.identity, found and found.context, instance and instance.context)
        platform = next((each["platform"] for each in sources if each and each.get("platform")), None)
        raise ConcurrencyError if platform == SERVICE_CATALOG else OutOfTime(time.monotonic() - began)

    def _ended(self, key: str, operation_id: str) -> tuple[AnyFound, Operation | PastOperation | None]:
        """Read an operation; one that still runs is marked, so that the next request is told of its failure."""
        while found := self._store.get(key):
            ended = found.known_operation(operation_id)
            runs = ended is found.operation and ended.state == State.IN_PROGRESS
            if not runs or self._store.change(key, found.operation, operation={"untold": True}):
                return found, ended
        return None, None

    def _tell_failure(self, found: Instance | Binding, kind: Kind, caller: Caller) -> None:
        """Raise, once, the failure that a request like this one has waited for in vain; the next one tries anew.

        Without this a platform that cannot poll would begin again for ever what takes longer than it waits to fail.
        """
        operation = found.operation
        untold = operation.untold and operation.kind == kind and operation.state == State.FAILED
        if untold and not caller.accepts_incomplete:
            self._store.change(found.key, operation, operation={"untold": False})
            raise _failure(operation)

    def _accepted(
        self, begun: Operation | None, instance_id: str, binding_id: str | None, about: JsonObject | None = None
    ) -> Accepted | None:
        """Nudge the workers; None when the race to begin was lost."""
        if begun is None:
            return None
        self._queue.send(JOBS[begun.kind], [instance_id, binding_id, begun.id])
        return Accepted(begun.id, about or {})

    # --- how the broker is ------------------------------------------------------------------------------------

    def readiness(self) -> tuple[bool, JsonObject]:
        """Return whether MongoDB answers, and what is wrong beside it."""
        try:
            about = Housekeeping(self._store).report()
            about["encryption_keys"] = self._keys.report()
        except ErrStorageMongoConnection as error:
            return False, {"status": "not ready", "description": str(error), "mongodb": error.reason}
        return True, {"status": "ready", "mongodb": "ok", "redis": self._queue.trouble() or "ok", **about}

    def operation_counts(self) -> Mapping[tuple[str, str], int]:
        """Count operations by kind and state."""
        return self._store.counts()

    def oldest_due_seconds(self) -> float:
        """Return for how long the oldest unheld operation has been due."""
        return self._store.oldest_due_seconds()


def _settled(decide: Callable[[], Decision]) -> Accepted | Complete:
    for _ in range(RACES):
        if answer := decide():
            return answer
    raise ConcurrencyError


def _check_exists(found: Instance | Binding | None) -> None:
    """Raise Gone for what does not exist: also a platform that cannot poll must learn it, or it repeats the delete."""
    if found is None or found.phase is Phase.GONE:
        raise Gone


def _failure(ended: Operation | PastOperation) -> Exception:
    refused = isinstance(ended, Operation) and ended.refused
    return (BadRequest if refused else OperationFailed)(ended.description or "The operation failed.")


def _start(kind: Kind, caller: Caller, request: str = "{}") -> Start:
    return Start(kind=kind, request=request, identity=caller.identity, request_id=caller.request_id)


def _instance_fields(instance_id: str, request: ProvisionRequest) -> InstanceFields:
    version = (request.maintenance_info and request.maintenance_info.version) or None
    return {
        "instance_id": instance_id,
        "service_id": request.service_id,
        "plan_id": request.plan_id,
        "organization_guid": request.organization_guid,
        "space_guid": request.space_guid,
        "context": request.context or {},
        "parameters": request.parameters or {},
        "maintenance_version": version,
    }


def _instance_identity(found: Instance) -> dict[str, Any]:
    """Return what makes two provisions identical; contexts and maintenance information may differ."""
    owner = {} if found.legacy else {"organization_guid": found.organization_guid, "space_guid": found.space_guid}
    return {"service_id": found.service_id, "plan_id": found.plan_id, "parameters": found.parameters, **owner}


def _binding_identity(found: Binding) -> dict[str, Any]:
    """Return what makes two binds identical; contexts may differ."""
    same = {"service_id": found.service_id, "plan_id": found.plan_id, "parameters": found.parameters}
    resource = {"app_guid": found.app_guid, "bind_resource": found.bind_resource, "predecessor": found.predecessor}
    return same if found.legacy else same | resource


def _repeated(
    found: AnyResource, asked: Mapping[str, Any], identity: Callable[[AnyResource], dict[str, Any]]
) -> Accepted | Complete | None:
    """Answer a create of an id that is known; None when a new create may begin.

    Raises:
        Conflict: it exists, or its create failed, with other attributes; or its removal failed.
        ConcurrencyError: it is being deleted.
    """
    if found.phase is Phase.GONE:
        return None
    if found.phase is Phase.DELETING and found.operation.open:
        raise ConcurrencyError
    if found.phase is Phase.DELETING:
        raise Conflict("It exists, and its removal has failed; ask for its removal again first, or use another id.")
    known = identity(found)
    if not same(known, {name: asked.get(name) for name in known}):
        raise Conflict("It exists with other attributes; delete it first, or use another id.")
    if found.phase is Phase.CREATING:
        return Accepted(found.operation.id)
    return Complete() if found.phase is Phase.READY else None


def _check_maintenance(plan: Plan, info: MaintenanceInfo | None) -> None:
    if info and info.version and info.version != plan.maintenance_version:
        raise MaintenanceInfoConflict(info.version, plan.maintenance_version)


def _binding_id(found: Instance | Binding) -> str | None:
    return found.binding_id if isinstance(found, Binding) else None


def _forgotten(operation: str | None, description: str) -> Exception:
    """Return 410 when the operation's own id tells that it was a delete, else 404."""
    deleted = operation is not None and operation.startswith(tuple(f"{kind}-" for kind in DELETES))
    return Gone() if deleted else NotFound(description)
