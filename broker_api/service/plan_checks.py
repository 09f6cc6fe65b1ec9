"""Checks of the services and plans in requests, against the catalog and the stored instances and bindings."""

from collections.abc import Callable, Mapping
from typing import Any

from broker_api.catalog.catalog import Catalog, Plan
from broker_api.catalog.cluster_plans import check_changes, chosen, place
from broker_api.errors import BadRequest, ErrPlanUnsupported, MaintenanceInfoConflict, UpdateNotSupported
from broker_api.json_types import JsonObject
from broker_api.service.schemas import BindRequest, MaintenanceInfo, ProvisionRequest, RotateRequest, UpdateRequest
from broker_api.settings.settings import Settings
from broker_api.state.records import HOLDS_NOTHING, Binding, Instance


def check_ids(
    catalog: Catalog,
    request: ProvisionRequest | UpdateRequest | BindRequest | RotateRequest,
    *finds: Callable[[], Instance | Binding | None],
) -> None:
    """Check that the service and plan are in the catalog, or that a stored instance or binding was made with them.

    Args:
        catalog: the catalog.
        request: the request with the ids.
        finds: functions that read the instance and the binding. They are called only if the catalog lacks an id: its
            plan may have been removed from the catalog after the instance was made.

    Raises:
        BadRequest: the service is unknown.
        ErrPlanUnsupported: the plan is unknown.
    """
    service_id, plan_id = request.service_id, request.plan_id
    plan = catalog.plans.get(plan_id) if plan_id is not None else None
    has_service = service_id is None or service_id in catalog.service_ids
    has_plan = plan_id is None or (plan is not None and service_id in (None, plan.service_id))
    if has_service and has_plan:
        return
    for find in finds:
        found = find()
        if found is None or found.phase in HOLDS_NOTHING:
            continue
        if service_id in (None, found.service_id) and plan_id in (None, found.plan_id):
            return
    raise ErrPlanUnsupported(plan_id) if has_service else BadRequest(f"Service [{service_id}] not supported.")


def check_maintenance(plan: Plan, info: MaintenanceInfo | None) -> None:
    """Check the maintenance version in a request, if there is one.

    Raises:
        MaintenanceInfoConflict: the plan has another version, or none.
    """
    if info and info.version and info.version != plan.maintenance_version:
        current = f"the catalog's is {plan.maintenance_version}" if plan.maintenance_version else "the plan has none"
        raise MaintenanceInfoConflict(info.version, current)


def check_move(settings: Settings, catalog: Catalog, found: Instance, wanted: Plan, parameters: JsonObject) -> None:
    """Check that an instance can change from its current plan to another one.

    Args:
        settings: name the projects, and the parameter for the cluster.
        catalog: the catalog.
        found: the instance.
        wanted: the new plan.
        parameters: the parameters that the instance would have.

    Raises:
        UpdateNotSupported: the current plan allows no change; or the new plan pins another cluster or project, to
            which the data would not move; or the new plan does not allow the parameters.
    """
    current = catalog.plan_of(found.service_id, found.plan_id, found.plan)
    if not current.updateable:
        raise UpdateNotSupported(f"The plan {current.name} cannot be changed into another one.")
    project = found.project or current.project or found.parameters.get("project")
    if found.legacy and not project and settings.projects:
        project = settings.projects[0].project_id  # where the workers look for what atlasbroker 2.0.0 wrote
    cluster = found.cluster or current.cluster or found.parameters.get(settings.config.PARAMETER_CLUSTER)
    for name, own, pin in (("cluster", cluster, wanted.cluster), ("project", project, wanted.project)):
        if pin is not None and own != pin:
            raise UpdateNotSupported(
                f"The plan {wanted.name} is for another {name}, and the data of an instance does not move with its "
                "plan. Make a new instance of that plan, and copy the data."
            )
    own, new = current.new_cluster or {}, wanted.new_cluster or {}
    if own.get("kind") != new.get("kind"):
        raise UpdateNotSupported(
            f"The plan {wanted.name} is for another kind of cluster, and the data of an instance does not move with "
            "its plan. Make a new instance of that plan, and copy the data."
        )
    try:
        if own:
            check_changes(_settings_of(own, found.parameters), _settings_of(new, parameters))
        catalog.check_instance(wanted, parameters, creating=False)
    except BadRequest as error:
        raise UpdateNotSupported(f"The plan {wanted.name} does not take the instance as it is: {error}") from None


def _settings_of(new_cluster: Mapping[str, Any], parameters: JsonObject) -> JsonObject:
    provider, region = place(new_cluster, parameters)
    return {**chosen(new_cluster, parameters), "provider": provider, "region": region}


def check_cluster_changes(plan: Plan, found: Instance, parameters: JsonObject) -> None:
    """Check that an update can change the instance's own cluster as it asks.

    Args:
        plan: the plan of the instance.
        found: the instance.
        parameters: the parameters that the instance would have.

    Raises:
        BadRequest: it changes what cannot be changed.
    """
    if plan.new_cluster:
        before, after = (_settings_of(plan.new_cluster, values) for values in (found.parameters, parameters))
        check_changes(before, after)


def plan_of_bind(catalog: Catalog, instance: Instance, request: BindRequest | RotateRequest) -> Plan:
    """Return the plan of a new binding: the plan of its instance.

    Raises:
        BadRequest: the request names another plan, or the plan is not bindable.
    """
    service_id, plan_id = request.service_id or instance.service_id, request.plan_id or instance.plan_id
    plan = None
    if instance.legacy:  # atlasbroker 2.0.0 stored no plan, and the catalog may lack the default one
        plan = catalog.plans.get(instance.plan_id) or catalog.plans.get(plan_id)
    elif (service_id, plan_id) != (instance.service_id, instance.plan_id):
        own = f"{instance.service_id} and {instance.plan_id}"
        raise BadRequest(f"service_id and plan_id must be those of the instance: {own}.")
    plan = plan or catalog.plan_of(instance.service_id, instance.plan_id, instance.plan)
    if not plan.bindable:
        raise BadRequest(f"Instances of the plan {plan.name} cannot be bound.")
    return plan
