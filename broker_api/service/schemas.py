"""Requests of platforms and results of the service, as typed values that know nothing of HTTP.

Requests are pydantic models of the OSB bodies (spec.md 2.17). Unknown fields are ignored, since platforms add
their own. Wrong types and empty ids are refused with the name of the field.
"""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from broker_api.json_types import JsonObject

MAX_ID_LENGTH = 255
"""Limit for an instance or binding id, in characters. Such an id fits in an Atlas label unchanged."""

Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID_LENGTH),
    Field(description="Opaque: any characters but NUL.", json_schema_extra={"pattern": r"^[^\x00]+$"}),
]
OptionalObject = Annotated[
    JsonObject | None,
    Field(
        description="null counts as absent. At most 64 levels deep as part of the body, numbers that 64 bits can hold, "
        "no NUL character and no half of a surrogate pair in strings and names."
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class MaintenanceInfo(_Body):
    """The version of the plan that the platform knows (spec.md, "Maintenance Info Object"); other fields are ignored.

    Generated clients send the object without a version, or with an empty one: then nothing is compared.
    """

    version: (
        Annotated[str, StringConstraints(max_length=MAX_ID_LENGTH), Field(json_schema_extra={"pattern": r"^[^\x00]*$"})]
        | None
    ) = None


class ProvisionRequest(_Body):
    """Body of ``PUT /v2/service_instances/:id``."""

    service_id: Identifier
    plan_id: Identifier
    organization_guid: Identifier
    space_guid: Identifier
    context: OptionalObject = None
    parameters: OptionalObject = None
    maintenance_info: MaintenanceInfo | None = None


class UpdateRequest(_Body):
    """Body of ``PATCH /v2/service_instances/:id``; absent fields stay as they are."""

    service_id: Identifier
    plan_id: Identifier | None = None
    context: OptionalObject = None
    parameters: OptionalObject = None
    maintenance_info: MaintenanceInfo | None = None


class BindResource(_Body):
    """The application or route that a binding is for. Identical binds have the same one."""

    app_guid: Identifier | None = None
    route: str | None = None


class BindRequest(_Body):
    """Body of ``PUT …/service_bindings/:id``."""

    service_id: Identifier
    plan_id: Identifier
    context: OptionalObject = None
    app_guid: Annotated[Identifier | None, Field(json_schema_extra={"deprecated": True})] = None
    bind_resource: BindResource | None = None
    parameters: OptionalObject = None


class RotateRequest(_Body):
    """Body of a bind that takes over the parameters of an older binding (spec.md, "Rotating a Service Binding")."""

    predecessor_binding_id: Identifier
    service_id: Identifier | None = None
    plan_id: Identifier | None = None
    context: OptionalObject = None
    parameters: OptionalObject = None


@dataclass(frozen=True)
class Caller:
    """The platform and user behind a request.

    Attributes:
        accepts_incomplete: whether the platform can poll.
        identity: the originating identity, ``{"platform": str, "value": object}``.
        request_id: the request identity, cut to the length of an id, or an id that the API has made.
    """

    accepts_incomplete: bool
    identity: JsonObject | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Accepted:
    """The operation is running: 202. ``body`` holds the other fields of the answer (``dashboard_url``)."""

    operation: str
    body: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class Complete:
    """The request is fulfilled: 201 if this request has ``created`` something, else 200. ``body`` is the answer."""

    body: JsonObject = field(default_factory=dict)
    created: bool = False


@dataclass(frozen=True)
class LastOperation:
    """The answer to a poll. ``retry_after`` is set only while a dedicated cluster is made or changed."""

    state: str
    description: str | None = None
    retry_after: int | None = None
    instance_usable: bool | None = None
    update_repeatable: bool | None = None
