"""The catalog: the services and plans of a ``Config``, checked once, and the checks of parameters.

Parameters are checked against the same schemas that the catalog publishes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from broker_api.authentication import Authentication
from broker_api.catalog.cluster_plans import check_names, cluster_properties, place
from broker_api.catalog.parameter_checks import check_schema
from broker_api.catalog.parameter_schemas import additional_rules, binding_schema, instance_schema, schema_problem
from broker_api.catalog.service_definitions import (
    OwnSchema,
    OwnSchemas,
    PlanDefinition,
    ServiceDefinition,
    known_authentication,
    read_services,
)
from broker_api.config import EXISTING, Config
from broker_api.errors import BadRequest, SettingError
from broker_api.json_types import JsonObject
from broker_api.naming import database_problem


@dataclass(frozen=True)
class Plan:
    """A plan as the broker uses it. ``project`` to ``endpoint`` are pins: values that the plan sets, not the user."""

    id: str
    name: str
    service_id: str
    bindable: bool
    maintenance_version: str | None
    updateable: bool
    project: str | None
    cluster: str | None
    connection: str | None
    endpoint: str | None
    authentication: Sequence[str]
    """The ways to log in that bindings may have; the first one is the default."""
    new_cluster: Mapping[str, Any] | None
    """The kind of cluster that each instance gets, and the fixed values of its parameters."""
    access_list: Sequence[str]
    """Blocks of addresses that the project of each instance lets in."""
    max_bindings: int | str
    """How many bindings an instance may have at once; ``none`` for any number; ``half`` of the project's users."""
    schemas: JsonObject
    rules: Mapping[str, JsonObject]
    """What the broker's own schemas demand beside those of the operator, by their place in ``schemas``."""


def _pins(plan: PlanDefinition | Plan) -> dict[str, str | None]:
    return {
        "project": plan.project,
        "cluster": plan.cluster,
        "connection": plan.connection,
        "endpoint": plan.endpoint,
    }


class Catalog:
    """The services and plans of a ``Config``.

    Args:
        config: the ``Config``.
        plans: the names of the built-in plans that are offered, if the ``Config`` has no services of its own.

    Attributes:
        plans: the plans by id.
        service_ids: the ids of the services.
        kept: the description of each plan that its instances store, by the plan's id; for ``plan_of``. It holds the
            plan's schemas only if they differ from the broker's own.
        document: the body of ``GET /v2/catalog``.
        etag: a digest of ``document``.

    Raises:
        SettingError: a service or plan is wrong; the message names it.
    """

    def __init__(self, config: Config, plans: Sequence[str] = (EXISTING,)) -> None:
        self._config = config
        try:
            known_authentication(config.AUTHENTICATION)
        except ValueError as error:
            raise SettingError(f"Config.AUTHENTICATION: {error}") from None
        services = read_services(config.offered(plans))
        self.plans = {plan.id: self._plan(service, plan) for service in services for plan in service.plans}
        self.service_ids = frozenset(service.id for service in services)
        self.kept: dict[str, JsonObject] = {}
        for plan in self.plans.values():
            kept = {name: value for name, value in asdict(plan).items() if name != "rules"}
            self.kept[plan.id] = kept | ({} if any(plan.rules.values()) else {"schemas": None})
        self.document: JsonObject = {"services": [service.model_dump(exclude_none=True) for service in services]}
        for document in self.document["services"]:
            for plan in document["plans"]:
                plan["schemas"] = self.plans[plan["id"]].schemas
        self.etag = hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()[:32]

    def _plan(self, service: ServiceDefinition, plan: PlanDefinition) -> Plan:
        authentication = plan.authentication or list(self._config.AUTHENTICATION)
        new_cluster: dict[str, Any] | None = None
        if plan.new_cluster:
            new_cluster = plan.new_cluster.model_dump(by_alias=True, exclude_none=True)
        if new_cluster and (project := new_cluster.pop("project", None)):
            plan = plan.model_copy(update={"project": project})
        if new_cluster and len(set(self._config.CLUSTER_TIERS)) < max(1, len(self._config.CLUSTER_TIERS)):
            raise SettingError("Config.CLUSTER_TIERS: must be one or more tiers of Atlas, each once")
        made = Plan(
            id=plan.id,
            name=plan.name,
            service_id=service.id,
            bindable=service.bindable if plan.bindable is None else plan.bindable,
            maintenance_version=plan.maintenance_info.version if plan.maintenance_info else None,
            updateable=service.plan_updateable if plan.plan_updateable is None else plan.plan_updateable,
            authentication=authentication,
            new_cluster=new_cluster,
            access_list=plan.access_list,
            max_bindings=plan.max_bindings,
            schemas=self._schemas(plan, authentication, plan.schemas, new_cluster),
            rules={},
            **_pins(plan),
        )
        return self._with_rules(made)

    def _with_rules(self, plan: Plan) -> Plan:
        own, ours = plan.schemas, self._schemas(plan, plan.authentication, OwnSchemas())
        rules = {
            f"{what}.{act}": additional_rules(schema["parameters"], ours[what][act]["parameters"])
            for what, acts in own.items()
            for act, schema in acts.items()
        }
        return replace(plan, rules=rules)

    def _schemas(
        self,
        plan: PlanDefinition | Plan,
        authentication: Sequence[str],
        own: OwnSchemas,
        new_cluster: Mapping[str, Any] | None = None,
    ) -> JsonObject:
        """Return a plan's schemas: the operator's own if there are any, else those of the plan's parameters."""

        def chosen(where: str, own: OwnSchema, default: JsonObject) -> JsonObject:
            schema = default if own.parameters is None else own.parameters
            if problem := schema_problem(schema):
                raise SettingError(f"Plan {plan.name}: schemas.{where}.parameters: {problem}")
            return {"parameters": schema}

        pins = _pins(plan)
        new_cluster = plan.new_cluster if isinstance(plan, Plan) else new_cluster
        create = instance_schema(self._config, pins, new_cluster, creating=True)
        update = instance_schema(self._config, pins, new_cluster, creating=False)
        bind = binding_schema(self._config, authentication)
        return {
            "service_instance": {
                "create": chosen("service_instance.create", own.service_instance.create, create),
                "update": chosen("service_instance.update", own.service_instance.update, update),
            },
            "service_binding": {"create": chosen("service_binding.create", own.service_binding.create, bind)},
        }

    def plan_of(self, service_id: str, plan_id: str, kept: Mapping[str, Any]) -> Plan:
        """Return the plan of an instance.

        Args:
            service_id: the instance's service.
            plan_id: the instance's plan.
            kept: the description of the plan that the instance stores. It is used if the plan was removed from the
                catalog. Instances of older releases store none: they are bindable, and their plan pins nothing
                and has no quota.
        """
        plan = self.plans.get(plan_id)
        if plan and plan.service_id == service_id:
            return plan
        values: JsonObject = {each.name: None for each in fields(Plan)}
        values |= {"name": plan_id, "bindable": True, "updateable": False, "max_bindings": "none"}
        values |= {"authentication": [Authentication.PASSWORD], "access_list": []}
        if (kept.get("service_id"), kept.get("id")) == (service_id, plan_id):
            values |= {name: kept[name] for name in values if name in kept}
        retired = Plan(**values | {"id": plan_id, "service_id": service_id})
        schemas = retired.schemas or self._schemas(retired, retired.authentication, OwnSchemas())
        return self._with_rules(replace(retired, schemas=schemas))

    def check_instance(self, plan: Plan, parameters: JsonObject, *, creating: bool) -> None:
        """Check the parameters of a provision or an update.

        Args:
            plan: the plan.
            parameters: the parameters of the request.
            creating: whether the request is a provision.

        Raises:
            BadRequest: the plan does not allow a parameter; the message names it.
        """
        check_names(plan.new_cluster, parameters, self._config.PARAMETER_CLUSTER)
        act = "create" if creating else "update"
        check_schema(plan.schemas["service_instance"][act]["parameters"], parameters)
        if rules := plan.rules[f"service_instance.{act}"]:
            check_schema(rules, parameters)
        if plan.new_cluster:  # also where the operator's own schema does not have them
            properties = cluster_properties(plan.new_cluster, self._config.CLUSTER_TIERS, creating=creating)
            check_schema({"properties": properties}, parameters)
            if creating and place(plan.new_cluster, parameters)[1] is None:
                raise BadRequest("parameters.region is required elsewhere than on AWS.")
        for pin, value in _pins(plan).items():
            name = self._config.PARAMETER_CLUSTER if pin == "cluster" else pin
            if value is not None and parameters.get(name, value) != value:
                raise BadRequest(f"parameters.{name} cannot be chosen: the plan decides it.")
        name = self._config.PARAMETER_DATABASE
        # A schema counts characters, MongoDB counts bytes.
        if isinstance(database := parameters.get(name), str) and (problem := database_problem(database)):
            raise BadRequest(f"parameters.{name}: {problem}")

    def check_binding(self, plan: Plan, parameters: JsonObject) -> None:
        """Check the parameters of a bind: that they fit the schema, and the way to log in one that the plan offers.

        Args:
            plan: the plan of the instance.
            parameters: the parameters of the request.

        Raises:
            BadRequest: the plan does not allow a parameter; the message names it.
        """
        check_schema(plan.schemas["service_binding"]["create"]["parameters"], parameters)
        if rules := plan.rules["service_binding.create"]:
            check_schema(rules, parameters)
        offered = plan.authentication
        auth = parameters.get("auth", offered[0])
        if auth not in offered:
            raise BadRequest(f"parameters.auth must be one of {', '.join(offered)}.")
        if auth == Authentication.AWS_IAM and "arn" not in parameters:
            raise BadRequest(f"parameters.arn is required with auth {Authentication.AWS_IAM}.")
        if auth == Authentication.X509 and "expires_in" in parameters:  # Atlas has no temporary users with certificates
            raise BadRequest("parameters.expires_in is not allowed with auth x509; it has expires_in_months.")
        for name, only in (("arn", Authentication.AWS_IAM), ("expires_in_months", Authentication.X509)):
            if name in parameters and only in offered and auth != only:
                raise BadRequest(f"parameters.{name} is allowed with auth {only} only.")
