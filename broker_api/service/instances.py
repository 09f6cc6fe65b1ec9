"""The verbs of instances: provision, update, deprovision, fetch, poll.

A verb reads a document, decides, and writes with a filter that still expects the document as it was read. If another
request has changed the document meanwhile, the verb reads it and decides again.
"""

from collections.abc import Mapping
from dataclasses import replace

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.catalog.parameter_checks import check_size, same
from broker_api.errors import BadRequest, ConcurrencyError, ErrPlanUnsupported, NotFound
from broker_api.json_types import JsonObject
from broker_api.service import serializers
from broker_api.service.existence_checks import poll_of_nothing, read_anew, require_deletable, require_usable
from broker_api.service.idempotency import repeated_create, repeated_delete, repeated_update, require_restored
from broker_api.service.operation_start import OperationStarter
from broker_api.service.plan_checks import check_cluster_changes, check_ids, check_maintenance, check_move
from broker_api.service.schemas import Accepted, Caller, Complete, LastOperation, ProvisionRequest, UpdateRequest
from broker_api.service.sync_wait import SyncWait
from broker_api.settings.settings import Settings
from broker_api.state.fields import InstanceFields
from broker_api.state.records import Instance, Kind, Phase, State, canonical, instance_key
from broker_api.state.store import Store


class Instances:
    """The verbs of instances. They raise the exceptions of ``broker_api.errors``."""

    def __init__(
        self, settings: Settings, catalog: Catalog, store: Store, operations: OperationStarter, sync_wait: SyncWait
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._store = store
        self._operations = operations
        self._sync_wait = sync_wait

    def provision(self, instance_id: str, request: ProvisionRequest, caller: Caller) -> Accepted | Complete:
        """Provision an instance, or return the answer to an identical request that has made it or is making it."""
        check_ids(self._catalog, request, lambda: self._store.instance(instance_id))
        parameters = request.parameters or {}
        fields = _fields(instance_id, request)
        if plan := self._catalog.plans.get(request.plan_id):
            self._catalog.check_instance(plan, parameters, creating=True)
            fields["plan"] = self._catalog.kept[plan.id]

        def decide() -> Accepted | Complete | None:
            found = self._store.instance(instance_id, creating=True)
            if found and (repeated := repeated_create(found, fields)):
                return replace(repeated, body=self._dashboard(found))
            if found:
                self._sync_wait.raise_untold_failure(found, Kind.PROVISION, caller)
            if plan is None:
                raise ErrPlanUnsupported(request.plan_id)
            check_maintenance(plan, request.maintenance_info)
            dashboard = self._dashboard_url(plan, parameters)
            return self._operations.create(fields, Kind.PROVISION, caller, found, plan=plan, body=dashboard)

        def completed() -> Complete:
            return Complete(self._dashboard(self._ready(instance_id)), created=True)

        return self._sync_wait.carry_out(decide, caller, instance_key(instance_id), completed, request.context)

    def update(self, instance_id: str, request: UpdateRequest, caller: Caller) -> Accepted | Complete:
        """Change the parameters, plan, maintenance version or context of an instance."""
        known = self._store.instance(instance_id)
        check_ids(self._catalog, request, lambda: known)
        if known and request.plan_id in (None, known.plan_id):
            plan: Plan | None = self._plan_of(known)
        else:
            plan = self._catalog.plans.get(request.plan_id or "")
        if plan:
            self._catalog.check_instance(plan, request.parameters or {}, creating=False)
        read = read_anew(known, lambda: self._store.instance(instance_id))

        def completed() -> Complete:
            return Complete(self._dashboard(self._ready(instance_id)))

        return self._sync_wait.carry_out(
            lambda: self._decide_update(require_usable(instance_id, read()), request, caller),
            caller,
            instance_key(instance_id),
            completed,
            request.context,
        )

    def _decide_update(self, found: Instance, request: UpdateRequest, caller: Caller) -> Accepted | Complete | None:
        current = self._plan_of(found)
        if request.service_id != current.service_id:
            raise BadRequest(f"service_id must be that of the instance: {current.service_id}.")
        moves = request.plan_id not in (None, current.id)
        plan = self._catalog.plans.get(request.plan_id or "") if moves else current
        if plan is None:
            raise ErrPlanUnsupported(request.plan_id or "")
        asked_for = request.parameters or {}
        parameters = self._merged_parameters(found, asked_for)
        if moves:  # what the new plan fixes is not chosen any more
            fixed = (plan.new_cluster or {}).keys() - {"kind"}
            parameters = {name: value for name, value in parameters.items() if name in asked_for or name not in fixed}
        else:
            check_cluster_changes(current, found, parameters)
        version = (request.maintenance_info and request.maintenance_info.version) or None
        if not moves:
            version = version or found.maintenance_version
        wanted: JsonObject = {"plan_id": plan.id, "parameters": parameters, "maintenance_version": version}
        kept = {"plan": self._catalog.kept[plan.id]} if moves else {}
        asked = canonical({**wanted, "context": request.context, **kept})
        dashboard = self._dashboard(found)
        if repeated := repeated_update(found, asked):
            return replace(repeated, body=dashboard)
        check_maintenance(plan, request.maintenance_info)
        if moves:
            check_move(self._settings, self._catalog, found, plan, parameters)
        if same(wanted, found.model_dump(include=set(wanted))):
            if request.context is None or same(request.context, found.context):
                return Complete(dashboard)
            changed = self._store.change(found, {"context": request.context})
            return Complete(dashboard) if changed else None
        require_restored(found)
        if found.operation.request == asked:
            self._sync_wait.raise_untold_failure(found, Kind.UPDATE, caller)
        return self._operations.start(found, Kind.UPDATE, caller, asked, dashboard)

    def _merged_parameters(self, found: Instance, parameters: Mapping[str, object]) -> JsonObject:
        """Return the parameters after an update. The current cluster, database and project may be named again.

        Raises:
            BadRequest: another cluster, database or project is named, to which the data would not move; or there
                would be too many parameters.
        """
        config = self._settings.config
        fixed = {
            config.PARAMETER_CLUSTER: found.cluster,
            config.PARAMETER_DATABASE: found.database,
            "project": found.project,
        }
        for name, value in fixed.items():
            if name in parameters and parameters[name] not in (value, found.parameters.get(name)):
                raise BadRequest(f"parameters.{name} cannot be changed; it is {value or 'not set'}.")
        changes = {name: value for name, value in parameters.items() if name not in fixed}
        if changes:
            check_size({**found.parameters, **changes})
        return {**found.parameters, **changes}

    def deprovision(self, instance_id: str, caller: Caller) -> Accepted | Complete:
        """Delete an instance, also one that is still being made or whose provision failed."""
        # Gone comes before AsyncRequired: a platform that cannot poll repeats its delete until it gets Gone.
        first = require_deletable(self._store.instance(instance_id))
        read = read_anew(first, lambda: self._store.instance(instance_id))

        def decide() -> Accepted | None:
            found = require_deletable(read())
            if repeated := repeated_delete(found, Kind.DEPROVISION):
                return repeated
            self._sync_wait.raise_untold_failure(found, Kind.DEPROVISION, caller)
            return self._operations.start(found, Kind.DEPROVISION, caller)

        return self._sync_wait.carry_out(decide, caller, instance_key(instance_id), Complete)

    def fetch(self, instance_id: str) -> JsonObject:
        """Return the description of an instance that is ready.

        Raises:
            NotFound: the instance does not exist, or is not ready yet.
            ConcurrencyError: the instance is being updated.
        """
        found = self._ready(instance_id)
        if found.operation.kind is Kind.UPDATE and found.operation.state is State.IN_PROGRESS:
            raise ConcurrencyError
        return serializers.instance(found, self._dashboard(found))

    def last_operation(self, instance_id: str, operation_id: str | None) -> LastOperation:
        """Return the state of an instance's operation, or of its latest operation if the id is None or unknown.

        Raises:
            Gone, NotFound: the instance does not exist.
        """
        found = self._store.instance(instance_id, any_release=True)
        if found is None:
            raise poll_of_nothing(operation_id, f"There is no instance {instance_id}.")
        return serializers.last_operation(found, operation_id)

    def _ready(self, instance_id: str) -> Instance:
        found = self._store.instance(instance_id)
        if found is None or found.phase is not Phase.READY:
            raise NotFound(f"The instance {instance_id} does not exist or is not ready yet.")
        return found

    def _plan_of(self, found: Instance) -> Plan:
        return self._catalog.plan_of(found.service_id, found.plan_id, found.plan)

    def _dashboard(self, found: Instance) -> JsonObject:
        return self._dashboard_url(self._plan_of(found), found.parameters, found.project, found.cluster)

    def _dashboard_url(
        self, plan: Plan, parameters: JsonObject, project: str | None = None, cluster: str | None = None
    ) -> JsonObject:
        """Return ``{"dashboard_url": …}``, or ``{}`` if the cluster or project is not known."""
        projects = self._settings.projects
        only_project = projects[0].project_id if len(projects) == 1 else None
        cluster = cluster or plan.cluster or parameters.get(self._settings.config.PARAMETER_CLUSTER)
        project = project or plan.project or parameters.get("project") or only_project
        return serializers.dashboard(self._settings.base_url, project, cluster)


def _fields(instance_id: str, request: ProvisionRequest) -> InstanceFields:
    return {
        "instance_id": instance_id,
        "service_id": request.service_id,
        "plan_id": request.plan_id,
        "organization_guid": request.organization_guid,
        "space_guid": request.space_guid,
        "context": request.context or {},
        "parameters": request.parameters or {},
        "maintenance_version": (request.maintenance_info and request.maintenance_info.version) or None,
    }
