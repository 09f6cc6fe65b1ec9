"""The verbs of bindings: bind and rotate, unbind, fetch, poll. They read, decide and write as those of instances."""

from broker_api.authentication import Authentication
from broker_api.catalog.catalog import Catalog
from broker_api.catalog.parameter_checks import check_databases_of_roles
from broker_api.config import Config, preset_roles
from broker_api.errors import BadRequest, NotFound
from broker_api.json_types import JsonObject
from broker_api.service import serializers
from broker_api.service.binding_quota import free_slot
from broker_api.service.existence_checks import poll_of_nothing, read_anew, require_deletable, require_usable
from broker_api.service.idempotency import repeated_create, repeated_delete
from broker_api.service.operation_start import OperationStarter
from broker_api.service.plan_checks import check_ids, plan_of_bind
from broker_api.service.schemas import Accepted, BindRequest, Caller, Complete, LastOperation, RotateRequest
from broker_api.service.sync_wait import SyncWait
from broker_api.settings.settings import Settings
from broker_api.state.encryption import Vault
from broker_api.state.fields import BindingFields
from broker_api.state.records import Binding, Instance, Kind, Phase, binding_key
from broker_api.state.store import Store


class Bindings:
    """The verbs of bindings. They raise the exceptions of ``broker_api.errors``."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        store: Store,
        operations: OperationStarter,
        sync_wait: SyncWait,
        *,
        vault: Vault,
    ) -> None:
        self._config = settings.config
        self._catalog = catalog
        self._store = store
        self._operations = operations
        self._sync_wait = sync_wait
        self._vault = vault

    def bind(
        self, instance_id: str, binding_id: str, request: BindRequest | RotateRequest, caller: Caller
    ) -> Accepted | Complete:
        """Bind or rotate, or return the answer to an identical request that has made the binding or is making it."""
        check_ids(
            self._catalog,
            request,
            lambda: self._store.instance(instance_id),
            lambda: self._store.binding(instance_id, binding_id),
        )
        checked = None  # the plan that the request's parameters were checked against
        if isinstance(request, BindRequest) and (checked := self._catalog.plans.get(request.plan_id)):
            self._catalog.check_binding(checked, request.parameters or {})

        key = binding_key(instance_id, binding_id)

        def decide() -> Accepted | Complete | None:
            stored, found, room = self._store.instance_and_binding(instance_id, binding_id, key)
            instance = require_usable(instance_id, stored)
            fields = self._fields(instance, binding_id, request, found)
            if found and (repeated := repeated_create(found, fields)):
                return repeated if isinstance(repeated, Accepted) else Complete(self._credentials(found))
            if found:
                self._sync_wait.raise_untold_failure(found, Kind.BIND, caller)
            plan, parameters = plan_of_bind(self._catalog, instance, request), fields["parameters"]
            if plan is not checked:
                self._catalog.check_binding(plan, parameters)
            if type(self._config).generate_binding_permissions is Config.generate_binding_permissions:
                if not parameters.get("roles"):
                    preset_roles(self._config, parameters)
                elif instance.database:
                    check_databases_of_roles(self._config, parameters, instance.database)
            limit = room.limits.get(instance.project or plan.project or "")
            fields["slot"] = free_slot(plan, limit, room.slots, rotates=isinstance(request, RotateRequest))
            return self._operations.create(fields, Kind.BIND, caller, found, plan=plan)

        def completed() -> Complete:
            return Complete(self._credentials(self._ready(instance_id, binding_id)), created=True)

        return self._sync_wait.carry_out(decide, caller, key, completed, request.context)

    def _fields(
        self, instance: Instance, binding_id: str, request: BindRequest | RotateRequest, found: Binding | None
    ) -> BindingFields:
        """Return the fields of a new binding; a rotation takes them from the predecessor.

        Raises:
            BadRequest: the predecessor does not exist or has expired.
        """
        fields: BindingFields = {
            "instance_id": instance.instance_id,
            "binding_id": binding_id,
            "context": request.context or {},
        }
        if isinstance(request, BindRequest):
            resource = request.bind_resource
            return {
                **fields,
                "service_id": request.service_id,
                "plan_id": request.plan_id,
                "parameters": request.parameters or {},
                "app_guid": request.app_guid,
                "bind_resource": resource.model_dump(exclude_none=True) if resource else None,
            }
        predecessor = request.predecessor_binding_id
        # When a rotation is repeated, the predecessor may be gone already; the binding itself has its fields.
        repeated = found and found.phase is not Phase.GONE and found.predecessor == predecessor
        source = found if repeated else self._store.binding(instance.instance_id, predecessor)
        if source is None or (not repeated and (source.phase is not Phase.READY or self._has_expired(source))):
            raise BadRequest(
                "predecessor_binding_id must name a binding of this instance that exists and is not expired."
            )
        parameters = source.parameters if request.parameters is None else request.parameters
        if not repeated and source.auth == Authentication.AWS_IAM and parameters.get("arn") == source.parameters["arn"]:
            raise BadRequest(f"A binding with auth {Authentication.AWS_IAM} has no credentials that could be rotated.")
        return {
            **fields,
            "service_id": instance.service_id,
            "plan_id": instance.plan_id,
            "parameters": parameters,
            "app_guid": source.app_guid,
            "bind_resource": source.bind_resource,
            "predecessor": predecessor,
        }

    def unbind(self, instance_id: str, binding_id: str, caller: Caller) -> Accepted | Complete:
        """Delete a binding, also one that is still being made or whose bind failed."""
        # Gone comes before AsyncRequired: a platform that cannot poll repeats its delete until it gets Gone.
        first = require_deletable(self._store.binding(instance_id, binding_id))
        read = read_anew(first, lambda: self._store.binding(instance_id, binding_id))

        def decide() -> Accepted | None:
            found = require_deletable(read())
            if repeated := repeated_delete(found, Kind.UNBIND):
                return repeated
            self._sync_wait.raise_untold_failure(found, Kind.UNBIND, caller)
            return self._operations.start(found, Kind.UNBIND, caller)

        return self._sync_wait.carry_out(decide, caller, binding_key(instance_id, binding_id), Complete)

    def fetch(self, instance_id: str, binding_id: str) -> JsonObject:
        """Return a binding that is ready, with its credentials.

        Raises:
            NotFound: the binding does not exist, is not ready yet, or has expired.
        """
        found = self._ready(instance_id, binding_id)
        return {**self._credentials(found), "parameters": found.parameters}

    def last_operation(self, instance_id: str, binding_id: str, operation_id: str | None) -> LastOperation:
        """Return the state of a binding's operation, or of its latest operation if the id is None or unknown.

        Raises:
            Gone, NotFound: the binding does not exist.
        """
        found = self._store.binding(instance_id, binding_id, any_release=True)
        if found is None:
            raise poll_of_nothing(operation_id, f"There is no binding {binding_id} of the instance {instance_id}.")
        return serializers.last_operation(found, operation_id)

    def _ready(self, instance_id: str, binding_id: str) -> Binding:
        found = self._store.binding(instance_id, binding_id)
        if found and found.phase is Phase.DELETING and not found.operation.open:
            raise NotFound(f"The removal of the binding {binding_id} has failed; ask for it again.")
        if found is None or found.phase is not Phase.READY:
            raise NotFound(f"The binding {binding_id} of this instance does not exist or is not ready yet.")
        return found

    def _credentials(self, found: Binding) -> JsonObject:
        if found.sealed_credentials is None:
            raise NotFound(
                "atlasbroker 2.0.0 made this binding and did not keep its password. Rotate it, or create a new binding."
            )
        if self._has_expired(found):
            raise NotFound(f"The binding {found.binding_id} has expired. Create a new one.")
        return serializers.binding(found, self._vault.open(found.sealed_credentials, found.credentials_place))

    def _has_expired(self, found: Binding) -> bool:
        return found.expires is not None and found.expires <= self._store.now()
