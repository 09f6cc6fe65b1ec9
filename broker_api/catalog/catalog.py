"""What the broker offers: the services and plans of a ``Config``, checked once, and the schemas of their parameters.

The schemas that the catalog publishes are the very ones that parameters are checked against.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from broker_api.catalog.parameters import (
    CONNECTIONS,
    ParameterSource,
    binding_schema,
    check,
    instance_schema,
    schema_problem,
)
from broker_api.errors import BadRequest, ErrPlanUnsupported, SettingError
from broker_api.json_types import JsonObject
from broker_api.naming import database_problem

POLLING_SECONDS = 1800

# The expression that semver.org gives, without its named groups.
_NUMBER = r"(0|[1-9]\d*)"
_PRE_RELEASE = rf"({_NUMBER}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_BUILD = r"[0-9a-zA-Z-]+"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRE_RELEASE}(\.{_PRE_RELEASE})*)?(\+{_BUILD}(\.{_BUILD})*)?", re.ASCII
)

# Cloud Foundry refuses a catalog with longer ones.
_MAX_DESCRIPTION = 10_000
_MAX_TAGS = 2048
_MAX_MAINTENANCE_INFO = 2000

_Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Description = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_DESCRIPTION)]


class CatalogSource(ParameterSource, Protocol):
    """What the catalog needs of a ``Config``."""

    @property
    def broker(self) -> Any:  # noqa: ANN401 - whatever an operator wrote into a Config: it is checked here
        """One service, or a list of them, in the form of the catalog."""


# --- what may stand in Config.broker (spec.md, "Catalog Management"; the limits are Cloud Foundry's) ----------------


def _semantic(version: str) -> str:
    if not _SEMVER.fullmatch(version):
        raise ValueError("must be a semantic version, such as 1.0.0")
    return version


def _way_to_connect(way: str) -> str:
    if way not in CONNECTIONS:
        raise ValueError(f"must be one of {', '.join(CONNECTIONS)}")
    return way


class _Setting(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _MaintenanceInfo(_Setting):
    version: Annotated[_Text, AfterValidator(_semantic)]
    description: Annotated[str, StringConstraints(min_length=1, max_length=_MAX_MAINTENANCE_INFO - 200)] | None = None


class _Parameters(_Setting):
    parameters: JsonObject | None = None


class _InstanceSchemas(_Setting):
    create: _Parameters = _Parameters()
    update: _Parameters = _Parameters()


class _BindingSchemas(_Setting):
    create: _Parameters = _Parameters()


class _Schemas(_Setting):
    service_instance: _InstanceSchemas = _InstanceSchemas()
    service_binding: _BindingSchemas = _BindingSchemas()


class _Plan(_Setting):
    id: _Text
    name: _Text
    description: _Description
    metadata: JsonObject | None = None
    free: bool | None = None
    bindable: bool | None = None
    binding_rotatable: bool = True
    plan_updateable: bool | None = None
    maximum_polling_duration: Annotated[int, Field(gt=0)] = POLLING_SECONDS
    maintenance_info: _MaintenanceInfo | None = None
    schemas: _Schemas = _Schemas()
    project: Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")] | None = Field(default=None, exclude=True)
    cluster: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(default=None, exclude=True)
    connection: Annotated[str, AfterValidator(_way_to_connect)] | None = Field(default=None, exclude=True)
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(default=None, exclude=True)


class _Service(_Setting):
    id: _Text
    name: _Text
    description: _Description
    tags: list[_Text] | None = None
    requires: list[Literal["syslog_drain", "route_forwarding", "volume_mount"]] | None = None
    bindable: bool
    instances_retrievable: Literal[True] = True
    bindings_retrievable: Literal[True] = True
    allow_context_updates: Literal[True] = True
    metadata: JsonObject | None = None
    dashboard_client: JsonObject | None = None
    plan_updateable: bool = False
    plans: Annotated[list[_Plan], Field(min_length=1)]

    @model_validator(mode="after")
    def _tags_fit(self) -> "_Service":
        if sum(map(len, self.tags or [])) > _MAX_TAGS:
            raise ValueError(f"tags must have at most {_MAX_TAGS} characters together")
        return self


# --- the catalog --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """One plan as the broker works with it; ``project`` to ``endpoint`` are pins, not published."""

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
    schemas: JsonObject


class Catalog:
    """The services and plans of a ``Config``: ``document`` is what the catalog answers, ``etag`` names its content.

    Raises:
        SettingError: a service or plan is wrong; the message names it.
    """

    def __init__(self, config: CatalogSource) -> None:
        self._source = config
        services = [_service(raw) for raw in _services(config.broker)]
        _refuse_doubles(services)
        self._plans = {plan.id: self._plan(service, plan) for service in services for plan in service.plans}
        self._service_ids = {service.id for service in services}
        self._kept = {plan.id: self._without_defaults(plan) for plan in self._plans.values()}
        self.document: JsonObject = {"services": [self._published(service) for service in services]}
        self.etag = hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()[:32]

    def plan(self, service_id: str, plan_id: str) -> Plan:
        """Find a plan of a service.

        Raises:
            BadRequest: there is no such service.
            ErrPlanUnsupported: the service has no such plan.
        """
        self.check_known(service_id, plan_id)
        return self._plans[plan_id]

    def check_known(self, service_id: str | None, plan_id: str | None) -> None:
        """Raise as ``plan`` does for ids that the catalog does not have; what is None was not named."""
        if service_id is not None and service_id not in self._service_ids:
            raise BadRequest(f"Service [{service_id}] not supported.")
        if plan_id is None:
            return
        plan = self._plans.get(plan_id)
        if plan is None or service_id not in (None, plan.service_id):
            raise ErrPlanUnsupported(plan_id)

    def find_plan(self, plan_id: str) -> Plan | None:
        """Find a plan of any service; None when the catalog has it no more."""
        return self._plans.get(plan_id)

    def kept(self, plan: Plan) -> JsonObject:
        """Return what an instance keeps of a plan of the catalog, for ``plan_of``."""
        return self._kept[plan.id]

    def plan_of(self, service_id: str, plan_id: str, kept: Mapping[str, Any]) -> Plan:
        """Find the plan of an instance; one that was taken out of the catalog is what the instance has kept of it.

        An instance that kept nothing (an older release made it) can be bound to, with the parameters of a plan that
        pins nothing.
        """
        plan = self._plans.get(plan_id)
        if plan and plan.service_id == service_id:
            return plan
        known = dict(kept) if (kept.get("service_id"), kept.get("id")) == (service_id, plan_id) else {}
        usual = {"name": plan_id, "bindable": True, "updateable": False} | known
        values: JsonObject = {field.name: usual.get(field.name) for field in fields(Plan)}
        retired = Plan(**values | {"id": plan_id, "service_id": service_id})
        return retired if retired.schemas else replace(retired, schemas=self._default_schemas(retired))

    def check_create(self, plan: Plan, parameters: JsonObject | None) -> None:
        """Raise BadRequest, naming the parameter, when an instance cannot be made with these parameters."""
        self._check_instance(plan, "create", parameters or {})

    def check_update(self, plan: Plan, parameters: JsonObject | None) -> None:
        """Raise BadRequest, naming the parameter, when these cannot be an instance's parameters."""
        self._check_instance(plan, "update", parameters or {})

    def check_bind(self, plan: Plan, parameters: JsonObject | None) -> None:
        """Raise BadRequest, naming the parameter, when a binding cannot have these parameters."""
        check(plan.schemas["service_binding"]["create"]["parameters"], parameters or {})

    def _check_instance(self, plan: Plan, verb: str, parameters: JsonObject) -> None:
        check(plan.schemas["service_instance"][verb]["parameters"], parameters)
        pins = {
            self._source.PARAMETER_CLUSTER: plan.cluster,
            "project": plan.project,
            "connection": plan.connection,
            "endpoint": plan.endpoint,
        }
        for name, pin in pins.items():
            if pin is not None and parameters.get(name, pin) != pin:
                raise BadRequest(f"parameters.{name} cannot be chosen: the plan decides it.")
        name = self._source.PARAMETER_DATABASE
        # A schema counts characters, MongoDB counts bytes.
        if isinstance(database := parameters.get(name), str) and (problem := database_problem(database)):
            raise BadRequest(f"parameters.{name}: {problem}")

    def _plan(self, service: _Service, plan: _Plan) -> Plan:
        return Plan(
            id=plan.id,
            name=plan.name,
            service_id=service.id,
            bindable=service.bindable if plan.bindable is None else plan.bindable,
            maintenance_version=plan.maintenance_info.version if plan.maintenance_info else None,
            updateable=service.plan_updateable if plan.plan_updateable is None else plan.plan_updateable,
            project=plan.project,
            cluster=plan.cluster,
            connection=plan.connection,
            endpoint=plan.endpoint,
            schemas=self._schemas(plan),
        )

    def _schemas(self, plan: _Plan) -> JsonObject:
        own = plan.schemas
        pins = {
            "project": plan.project,
            "cluster": plan.cluster,
            "connection": plan.connection,
            "endpoint": plan.endpoint,
        }
        create = instance_schema(self._source, creating=True, **pins)
        update = instance_schema(self._source, creating=False, **pins)
        instance = {
            "create": _chosen(plan, "service_instance.create", own.service_instance.create, create),
            "update": _chosen(plan, "service_instance.update", own.service_instance.update, update),
        }
        bind = _chosen(plan, "service_binding.create", own.service_binding.create, binding_schema(self._source))
        return {"service_instance": instance, "service_binding": {"create": bind}}

    def _default_schemas(self, plan: Plan) -> JsonObject:
        names = ("project", "cluster", "connection", "endpoint")
        pins: JsonObject = {name: getattr(plan, name) for name in names}
        return self._schemas(_Plan(id=plan.id, name=plan.name, description=plan.name, **pins))

    def _without_defaults(self, plan: Plan) -> JsonObject:
        kept = asdict(plan)
        return kept | ({"schemas": None} if plan.schemas == self._default_schemas(plan) else {})

    def _published(self, service: _Service) -> JsonObject:
        document = service.model_dump(exclude_none=True)
        for plan in document["plans"]:
            plan["schemas"] = self._plans[plan["id"]].schemas
        return document


# --- reading Config.broker ----------------------------------------------------------------------------------------


def _services(broker: Any) -> list[Any]:  # noqa: ANN401 - see CatalogSource.broker
    return list(broker) if isinstance(broker, list | tuple) else [broker]


def _service(raw: Any) -> _Service:  # noqa: ANN401
    plain = _plain(raw)
    try:
        return _Service.model_validate_json(json.dumps(plain))
    except (TypeError, ValueError) as mistakes:
        raise SettingError(_sentence(plain, mistakes)) from None


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return JSON values: objects with attributes (openbrokerapi's ``ServicePlan``) as objects, None as absent."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float) or not hasattr(value, "__dict__"):
        return value
    return _plain(vars(value))


def _sentence(service: Any, mistakes: Exception) -> str:  # noqa: ANN401
    """Name the service or plan, the field, and what it should be."""
    if not isinstance(mistakes, ValidationError):
        return f"{_called('Service', service)}: must hold JSON values only"
    mistake = mistakes.errors(include_url=False)[0]
    location, owner = list(mistake["loc"]), _called("Service", service)
    if location[:1] == ["plans"] and len(location) > 1:
        owner = _called("Plan", service["plans"][int(location[1])])
        location = location[2:]
    wish = _WISHES.get(mistake["type"], mistake["msg"].removeprefix("Value error, "))
    return ": ".join(part for part in (owner, ".".join(map(str, location)), wish) if part)


_WISHES = {
    "extra_forbidden": "must be left out, catalogs have no such field",
    "missing": "must be given",
    "model_type": "must be an object with the fields of the catalog",
}


def _called(kind: str, raw: Any) -> str:  # noqa: ANN401
    fields = raw if isinstance(raw, Mapping) else {}
    return f"{kind} {fields.get('name') or fields.get('id') or 'without a name'}"


def _refuse_doubles(services: list[_Service]) -> None:
    """Ids are unique over all services and plans, names among services and among the plans of one service."""
    plans: list[_Plan] = [plan for service in services for plan in service.plans]
    for service in services:
        _refuse_double("Plan", "name", [(plan.name, plan.name) for plan in service.plans])
    _refuse_double("Service", "name", [(service.name, service.name) for service in services])
    ids = [(service.id, service.name) for service in services]
    _refuse_double("Service or plan", "id", ids + [(plan.id, plan.name) for plan in plans])


def _refuse_double(kind: str, what: str, values: list[tuple[str, str]]) -> None:
    """Raise for the last of the ``(value, name)`` pairs whose value another one has too."""
    count = Counter(value for value, _ in values)
    for value, name in reversed(values):
        if count[value] > 1:
            raise SettingError(f"{kind} {name}: {what} {value} must be unique in the catalog")


def _chosen(plan: _Plan, where: str, own: _Parameters, default: JsonObject) -> JsonObject:
    """Take the plan's own schema when it has one, and see to it that every platform will accept it."""
    schema = default if own.parameters is None else own.parameters
    if problem := schema_problem(schema):
        raise SettingError(f"Plan {plan.name}: schemas.{where}.parameters: {problem}")
    return {"parameters": schema}
