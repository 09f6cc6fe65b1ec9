"""The bodies of answers (spec.md 2.17) as models, and the JSON schemas of all bodies for ``/openapi.json``."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from broker_api.json_types import JsonObject
from broker_api.service.schemas import BindRequest, Identifier, ProvisionRequest, RotateRequest, UpdateRequest

Text = Annotated[str, Field(min_length=1)]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]+Z$")]
OperationId = Annotated[
    str,
    Field(min_length=1, max_length=10000, pattern="^[A-Za-z0-9._-]+$", description="To be sent back when polling."),
]


class Answer(BaseModel):
    """An answer, or an object in an answer. Fields that are None are left out."""


class Empty(Answer):
    """An object without fields."""


class Status(Answer):
    """The process serves."""

    status: Literal[True]


class Error(Answer):
    """The reason why a request failed, as a sentence for the platform's user. The codes are the specification's."""

    error: Literal["AsyncRequired", "ConcurrencyError", "RequiresApp", "MaintenanceInfoConflict"] | None = None
    description: Text
    instance_usable: bool | None = None
    update_repeatable: bool | None = None


# --- instances and bindings -----------------------------------------------------------------------------------------


class Accepted(Answer):
    """The operation is running; there are no credentials yet."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["credentials"]}})

    operation: OperationId


class InstanceMetadata(Answer):
    """Labels and attributes of an instance."""

    labels: JsonObject | None = None
    attributes: JsonObject | None = None


class Provisioned(Answer):
    """An instance that is ready."""

    dashboard_url: str | None = None
    metadata: InstanceMetadata | None = None


class Updated(Provisioned):
    """An instance after an update."""


class InstanceAccepted(Provisioned):
    """The operation on an instance is running."""

    operation: OperationId


class PlanVersion(Answer):
    """The version of a plan (spec.md, "Maintenance Info Object")."""

    version: Text
    description: Text | None = None


class Instance(Provisioned):
    """An instance with its service, plan and parameters."""

    service_id: Text | None = None
    plan_id: Text | None = None
    parameters: JsonObject | None = None
    maintenance_info: PlanVersion | None = None


class BindingLastOperation(Answer):
    """The state of an operation on a binding."""

    model_config = ConfigDict(
        json_schema_extra={"not": {"anyOf": [{"required": ["instance_usable"]}, {"required": ["update_repeatable"]}]}}
    )

    state: Literal["in progress", "succeeded", "failed"]
    description: Text | None = None


class LastOperation(Answer):
    """The state of an operation on an instance."""

    state: Literal["in progress", "succeeded", "failed"]
    description: Text | None = None
    instance_usable: bool | None = None
    update_repeatable: bool | None = None


class Credentials(Answer):
    """The credentials that the hook of the ``Config`` returns; by default these. Not all users have a password."""

    username: str
    password: str | None = None
    database: str | None = None
    uri: str | None = None


class Endpoint(Answer):
    """A host and its ports, which the platform may let applications reach."""

    host: Text
    ports: Annotated[list[Annotated[str, Field(pattern="^[0-9]+(-[0-9]+)?$")]], Field(min_length=1)]
    protocol: Literal["tcp", "udp", "all"] = "tcp"


class BindingMetadata(Answer):
    """When the credentials expire."""

    expires_at: Time | None = None
    renew_before: Time | None = None


class Binding(Answer):
    """A binding with its credentials."""

    credentials: Credentials
    endpoints: list[Endpoint] | None = None
    metadata: BindingMetadata | None = None
    parameters: JsonObject | None = None


# --- the catalog ----------------------------------------------------------------------------------------------------


class ParameterSchema(Answer):
    """A JSON schema."""

    draft: Literal["http://json-schema.org/draft-04/schema#"] = Field(alias="$schema")


class SchemaOfParameters(Answer):
    """The schema of the parameters of a verb."""

    parameters: ParameterSchema | None = None


class InstanceSchemas(Answer):
    """Parameters of instances."""

    create: SchemaOfParameters | None = None
    update: SchemaOfParameters | None = None


class BindingSchemas(Answer):
    """Parameters of bindings."""

    create: SchemaOfParameters | None = None


class Schemas(Answer):
    """Parameters of instances and bindings."""

    service_instance: InstanceSchemas | None = None
    service_binding: BindingSchemas | None = None


class Plan(Answer):
    """A plan of a service."""

    id: Text
    name: Text
    description: Text
    metadata: JsonObject | None = None
    free: bool = True
    bindable: bool | None = None
    binding_rotatable: bool | None = None
    plan_updateable: bool | None = None
    maximum_polling_duration: Annotated[int, Field(ge=1)] | None = None
    maintenance_info: PlanVersion | None = None
    schemas: Schemas | None = None


class Service(Answer):
    """A service with its plans."""

    id: Text
    name: Text
    description: Text
    tags: list[str] | None = None
    requires: list[Literal["syslog_drain", "route_forwarding", "volume_mount"]] | None = None
    bindable: bool
    instances_retrievable: bool | None = None
    bindings_retrievable: bool | None = None
    allow_context_updates: bool | None = None
    metadata: JsonObject | None = None
    dashboard_client: JsonObject | None = None
    plan_updateable: bool | None = None
    plans: Annotated[list[Plan], Field(min_length=1)]


class Catalog(Answer):
    """The services that the broker offers."""

    services: list[Service]


# --- JSON schemas ---------------------------------------------------------------------------------------------------


_REQUESTS: list[type[BaseModel]] = [ProvisionRequest, UpdateRequest, BindRequest, RotateRequest]
_ANSWERS: list[type[BaseModel]] = [
    *(Empty, Status, Error, Catalog),
    *(Provisioned, Updated, InstanceAccepted, Instance, LastOperation),
    *(Accepted, Binding, BindingLastOperation),
]


class _RequestSchemas(GenerateJsonSchema):
    """Generates JSON schemas without titles, which would only repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False: no field needs a title."""
        del schema
        return False


class _AnswerSchemas(_RequestSchemas):
    """Generates JSON schemas of answers: fields that are None are left out, so no field is null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Return the schema of the value alone."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema, without the default if that is None."""
        return (
            self.generate_inner(schema["schema"]) if schema.get("default") is None else super().default_schema(schema)
        )


def component_schemas() -> JsonObject:
    """Return the JSON schemas of all bodies, by name."""
    template = "#/components/schemas/{model}"
    asked: JsonObject = models_json_schema(
        [(model, "validation") for model in _REQUESTS], ref_template=template, schema_generator=_RequestSchemas
    )[1]["$defs"]
    answered: JsonObject = models_json_schema(
        [(model, "validation") for model in _ANSWERS], ref_template=template, schema_generator=_AnswerSchemas
    )[1]["$defs"]
    # Platforms send these two fields; the broker reads neither of them here.
    asked["UpdateRequest"]["properties"]["previous_values"] = {
        "description": "Ignored: the broker knows the current values."
    }
    asked["BindRequest"]["properties"]["predecessor_binding_id"] = {
        "type": "null",
        "description": "A string makes it a RotateRequest.",
    }
    either = {"oneOf": [{"$ref": template.format(model=model.__name__)} for model in (BindRequest, RotateRequest)]}
    identifier = TypeAdapter(Identifier).json_schema()
    return asked | answered | {"Identifier": identifier, "BindOrRotateRequest": either}
