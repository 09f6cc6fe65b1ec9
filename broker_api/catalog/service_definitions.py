"""The services and plans in ``Config.broker``, as models that check them (spec.md, "Catalog Management").

The limits of lengths are Cloud Foundry's: it refuses a catalog with longer texts.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from broker_api.authentication import Authentication
from broker_api.catalog.cluster_plans import SECONDS as NEW_CLUSTER_SECONDS
from broker_api.catalog.cluster_plans import NewClusterDefinition
from broker_api.catalog.parameter_schemas import CONNECTION_KINDS
from broker_api.errors import SettingError
from broker_api.json_types import JsonObject

POLLING_SECONDS = 1800


def _polling_seconds(fields: Mapping[str, object]) -> int:
    return NEW_CLUSTER_SECONDS if fields.get("new_cluster") else POLLING_SECONDS


# The expression of semver.org, without its named groups.
_NUMBER = r"(0|[1-9]\d*)"
_PRE_RELEASE = rf"({_NUMBER}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_BUILD = r"[0-9a-zA-Z-]+"
_SEMVER = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRE_RELEASE}(\.{_PRE_RELEASE})*)?(\+{_BUILD}(\.{_BUILD})*)?", re.ASCII
)
_MAX_DESCRIPTION = 10_000
_MAX_TAGS = 2048
_MAX_MAINTENANCE_INFO = 2000

_WISHES = {
    "extra_forbidden": "must be left out, catalogs have no such field",
    "missing": "must be given",
    "model_type": "must be an object with the fields of the catalog",
}

_Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Description = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_DESCRIPTION)]


def _semantic(version: str) -> str:
    if not _SEMVER.fullmatch(version):
        raise ValueError("must be a semantic version, such as 1.0.0")
    return version


def _known_connection(connection: str) -> str:
    if connection not in CONNECTION_KINDS:
        raise ValueError(f"must be one of {', '.join(CONNECTION_KINDS)}")
    return connection


def _block(text: str) -> str:
    """Return a block of addresses as Atlas writes it: a single address is a block of one."""
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError("must be blocks of IP addresses, such as 203.0.113.0/24") from None


def known_authentication(offered: Sequence[str]) -> Sequence[str]:
    """Return the ways to log in; raise ValueError if they are none, or one is unknown or listed twice."""
    unknown = set(offered) - {*Authentication}
    if not offered or isinstance(offered, str) or unknown or len(set(offered)) < len(offered):
        raise ValueError(f"must be one or more of {', '.join(Authentication)}, each once")
    return offered


class _Setting(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class MaintenanceDefinition(_Setting):
    """The version of a plan."""

    version: Annotated[_Text, AfterValidator(_semantic)]
    description: Annotated[str, StringConstraints(min_length=1, max_length=_MAX_MAINTENANCE_INFO - 200)] | None = None


class OwnSchema(_Setting):
    """An operator's own schema for a plan; without one, the plan has the broker's schema."""

    parameters: JsonObject | None = None


class _InstanceSchemas(_Setting):
    create: OwnSchema = OwnSchema()
    update: OwnSchema = OwnSchema()


class _BindingSchemas(_Setting):
    create: OwnSchema = OwnSchema()


class OwnSchemas(_Setting):
    """An operator's own schemas for a plan."""

    service_instance: _InstanceSchemas = _InstanceSchemas()
    service_binding: _BindingSchemas = _BindingSchemas()


class PlanDefinition(_Setting):
    """A plan in the ``Config``. Its pins (``project`` to ``endpoint``) and the fields after them are not published."""

    id: _Text
    name: _Text
    description: _Description
    metadata: JsonObject | None = None
    free: bool | None = None
    bindable: bool | None = None
    binding_rotatable: bool = True
    plan_updateable: bool | None = None
    new_cluster: NewClusterDefinition | None = Field(default=None, exclude=True)
    maximum_polling_duration: Annotated[int, Field(gt=0, default_factory=_polling_seconds)]
    maintenance_info: MaintenanceDefinition | None = None
    schemas: OwnSchemas = OwnSchemas()
    project: Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")] | None = Field(default=None, exclude=True)
    cluster: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(default=None, exclude=True)
    connection: Annotated[str, AfterValidator(_known_connection)] | None = Field(default=None, exclude=True)
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(default=None, exclude=True)
    authentication: Annotated[list[str], AfterValidator(known_authentication)] | None = Field(None, exclude=True)
    access_list: list[Annotated[str, AfterValidator(_block)]] = Field(default=[], max_length=200, exclude=True)
    max_bindings: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["half", "none"] = Field("half", exclude=True)

    @model_validator(mode="after")
    def _one_kind_of_cluster(self) -> "PlanDefinition":
        if self.new_cluster and self.cluster:
            raise ValueError("cluster and new_cluster exclude each other")
        return self


class ServiceDefinition(_Setting):
    """A service in the ``Config``."""

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
    plans: Annotated[list[PlanDefinition], Field(min_length=1)]

    @model_validator(mode="after")
    def _tags_fit(self) -> "ServiceDefinition":
        if sum(map(len, self.tags or [])) > _MAX_TAGS:
            raise ValueError(f"tags must have at most {_MAX_TAGS} characters together")
        return self


def read_services(broker: object) -> list[ServiceDefinition]:
    """Return the checked services.

    Args:
        broker: ``Config.broker``: one service, or a list of services.

    Raises:
        SettingError: a service or plan is wrong; the message names it.
    """
    services = []
    for raw in broker if isinstance(broker, list | tuple) else [broker]:
        try:
            plain = _plain(raw)
        except RecursionError:
            raise SettingError("Config.broker: must hold JSON values only, nothing that contains itself") from None
        try:
            services.append(ServiceDefinition.model_validate_json(json.dumps(plain)))
        except ValidationError as mistakes:
            raise SettingError(_complaint(plain, mistakes)) from None
        except (TypeError, ValueError):
            raise SettingError(f"{_called('Service', plain)}: must hold JSON values only") from None
    for service in services:
        _refuse_doubles("Plan", "name", ((plan.name, plan.name) for plan in service.plans))
    _refuse_doubles("Service", "name", ((service.name, service.name) for service in services))
    ids = [(service.id, service.name) for service in services]
    ids += [(plan.id, plan.name) for service in services for plan in service.plans]
    _refuse_doubles("Service or plan", "id", ids)
    return services


def _plain(value: object) -> object:
    """Return JSON values: objects with attributes (such as openbrokerapi's ``ServicePlan``) as dicts, without None."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | float) or not hasattr(value, "__dict__"):
        return value
    return _plain(vars(value))


def _complaint(service: object, mistakes: ValidationError) -> str:
    """Return a sentence with the service or plan, the field, and its allowed values."""
    mistake = mistakes.errors(include_url=False)[0]
    location, owner = list(mistake["loc"]), _called("Service", service)
    if location[:1] == ["plans"] and len(location) > 1 and isinstance(service, dict):
        owner = _called("Plan", service["plans"][int(location[1])])
        location = location[2:]
    wish = _WISHES.get(mistake["type"], mistake["msg"].removeprefix("Value error, "))
    return ": ".join(part for part in (owner, ".".join(map(str, location)), wish) if part)


def _called(kind: str, raw: object) -> str:
    fields = raw if isinstance(raw, Mapping) else {}
    return f"{kind} {fields.get('name') or fields.get('id') or 'without a name'}"


def _refuse_doubles(kind: str, what: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Raise SettingError if two of the pairs (value, name) have the same value; the message is about the last one."""
    seen: set[str] = set()
    double = None
    for value, name in pairs:
        if value in seen:
            double = value, name
        seen.add(value)
    if double:
        raise SettingError(f"{kind} {double[1]}: {what} {double[0]} must be unique in the catalog")
