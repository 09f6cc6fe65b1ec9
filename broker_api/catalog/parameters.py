"""Parameters of instances and bindings: their JSON schemas, and the check of what a platform sends against them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from jsonschema import Draft4Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT4

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject

DRAFT_04 = "http://json-schema.org/draft-04/schema#"
MAX_SCHEMA_CHARACTERS = 65_536
MAX_BYTES = 262_144
"""Of a request's body, and of an instance's parameters, which every update may add to."""
EXPIRES_IN_SECONDS = (60, 604_800)
"""Atlas takes a user's end of life only when it is at most a week away."""
PRIVATE_ENDPOINT = "private-endpoint"
CONNECTIONS = ("standard", "private", PRIVATE_ENDPOINT)
DELETE_POLICIES = ("retain", "drop")


class ParameterSource(Protocol):
    """What a ``Config`` decides about parameters."""

    @property
    def PARAMETER_CLUSTER(self) -> str: ...  # noqa: D102, N802 - the Config's names, here and below

    @property
    def PARAMETER_DATABASE(self) -> str: ...  # noqa: D102, N802

    @property
    def ROLE_PRESETS(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102, N802

    @property
    def ALLOWED_ROLES(self) -> Iterable[str]: ...  # noqa: D102, N802

    @property
    def CUSTOM_ROLES(self) -> Iterable[str]: ...  # noqa: D102, N802


def schema_problem(schema: JsonObject) -> str | None:
    """Return why a platform would refuse this schema (spec.md, "Schema Parameters"); None when it is fine."""
    if str(schema.get("$schema", "")).rstrip("#") != DRAFT_04.rstrip("#"):
        return f"$schema must be {DRAFT_04}"
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARACTERS:
        return f"a schema must have at most {MAX_SCHEMA_CHARACTERS} characters"
    try:
        Draft4Validator.check_schema(schema)
    except SchemaError as error:
        return f"{'.'.join(map(str, error.absolute_path)) or 'a schema'} must be valid for draft-04: {error.message}"
    return next((f"$ref {ref} must point into the schema itself" for ref in _dangling(schema)), None)


def _dangling(schema: JsonObject) -> Iterator[str]:
    """Return the references that leave the schema, or point at nothing in it."""
    # A registry that knows nothing else and fetches nothing.
    resolver = Registry[Any]().with_resource("", DRAFT4.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            yield reference


def _references(value: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a schema
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def _schema(properties: JsonObject, **more: Any) -> JsonObject:  # noqa: ANN401 - keywords of JSON Schema
    return {"$schema": DRAFT_04, "type": "object", "properties": properties, **more}


def instance_schema(
    source: ParameterSource,
    *,
    creating: bool,
    project: str | None,
    cluster: str | None,
    connection: str | None,
    endpoint: str | None,
) -> JsonObject:
    """Return the schema of an instance's parameters, without those that the plan has pinned.

    In an update nothing is required, and what is absent stays as it is.
    """
    properties: JsonObject = {source.PARAMETER_DATABASE: _database(), "policy-on-delete": _delete_policy(creating)}
    if connection is None:
        properties["connection"] = _connection(creating)
    if endpoint is None and connection in (None, PRIVATE_ENDPOINT):
        properties["endpoint"] = _endpoint()
    if project is None:
        properties["project"] = _project()
    if cluster is not None:
        return _schema(properties)
    required = {"required": [source.PARAMETER_CLUSTER]} if creating else {}
    return _schema({source.PARAMETER_CLUSTER: _cluster(), **properties}, **required)


def _cluster() -> JsonObject:
    description = "Name of the Atlas cluster that holds the database."
    return {"type": "string", "description": description, "minLength": 1, "maxLength": 64}


def _database() -> JsonObject:
    description = (
        'Name of the database: 1 to 63 bytes (38 on free and Flex clusters), without / \\ . " $ * < > : | ? space and '
        "control characters, and not admin, local or config. Without it the broker makes a name from the instance's id."
    )
    # \x is known to every dialect of regular expressions that platforms use; \u is not (Go).
    forbidden = {"pattern": r'[/\\. "$*<>:|?\x00-\x1f\x7f]'}
    reserved = {"pattern": "^([Aa][Dd][Mm][Ii][Nn]|[Ll][Oo][Cc][Aa][Ll]|[Cc][Oo][Nn][Ff][Ii][Gg])$"}
    limits = {"minLength": 1, "maxLength": 63, "not": {"anyOf": [forbidden, reserved]}}
    return {"type": "string", "description": description, **limits}


def _delete_policy(creating: bool) -> JsonObject:  # noqa: FBT001 - private, one caller
    description = "What becomes of the database when the instance is deleted."
    default = {"default": "retain"} if creating else {}
    return {"type": "string", "description": description, "enum": list(DELETE_POLICIES), **default}


def _connection(creating: bool) -> JsonObject:  # noqa: FBT001 - private, one caller
    description = "Which of the cluster's connection strings bindings get."
    default = {"default": "standard"} if creating else {}
    return {"type": "string", "description": description, "enum": list(CONNECTIONS), **default}


def _endpoint() -> JsonObject:
    description = (
        f"Which private endpoint bindings go through with connection {PRIVATE_ENDPOINT}, where the cluster has "
        "several: an endpoint's id, or its region. Without it the first one."
    )
    return {"type": "string", "description": description, "minLength": 1, "maxLength": 512}


def _project() -> JsonObject:
    description = "Id of the Atlas project that holds the cluster: 24 hexadecimal digits."
    limits = {"minLength": 24, "maxLength": 24, "pattern": "^[0-9a-f]{24}$"}
    return {"type": "string", "description": description, **limits}


def binding_schema(source: ParameterSource) -> JsonObject:
    """Return the schema of a binding's parameters: ``role`` is a preset, ``roles`` says it in full."""
    properties: JsonObject = {}
    if source.ROLE_PRESETS:
        properties["role"] = _role(list(source.ROLE_PRESETS))
    if names := sorted({*source.ALLOWED_ROLES, *source.CUSTOM_ROLES}):
        properties["roles"] = _roles(names, sorted(source.CUSTOM_ROLES))
    minimum, maximum = EXPIRES_IN_SECONDS
    description = "After how many seconds the user is removed; without it the user stays."
    expires_in = {"type": "integer", "description": description, "minimum": minimum, "maximum": maximum}
    return _schema({**properties, "expires_in": expires_in}, **{"not": {"required": ["role", "roles"]}})


def _role(presets: list[str]) -> JsonObject:
    description = "What the user may do with the instance's database. Excludes roles."
    default = {"default": "readWrite"} if "readWrite" in presets else {}
    return {"type": "string", "description": description, "enum": presets, **default}


def _roles(names: list[str], custom: list[str]) -> JsonObject:
    """Return the schema of ``roles``. Atlas takes a custom role only as a user's single one."""
    description = f"The user's roles, instead of role. Each is one of {', '.join(names)}, or an object with roleName."
    item = {"description": f"One of {', '.join(names)}, or an object with roleName.", "anyOf": _role_forms(names)}
    schema: JsonObject = {"type": "array", "description": description, "minItems": 1, "maxItems": 100, "items": item}
    if custom:
        alone = f"A custom role ({', '.join(custom)}) stands alone."
        schema["description"] += f" {alone}"
        schema["anyOf"] = [{"maxItems": 1}, {"items": {"description": alone, "not": {"anyOf": _named(custom)}}}]
    return schema


def _named(roles: list[str]) -> list[JsonObject]:
    by_object = {"type": "object", "properties": {"roleName": {"enum": roles}}, "required": ["roleName"]}
    return [{"enum": roles}, by_object]


def _role_forms(names: list[str]) -> list[JsonObject]:
    """Return the forms of one role. A misspelt key is refused, since it would widen what the user may do."""
    fields = {
        "roleName": {"type": "string", "enum": names},
        "databaseName": {"type": "string", "minLength": 1, "maxLength": 63},
        "collectionName": {"type": "string", "minLength": 1, "maxLength": 255},
    }
    explicit = {"type": "object", "properties": fields, "required": ["roleName"], "additionalProperties": False}
    return [{"type": "string", "enum": names}, explicit]


# --- checking parameters ------------------------------------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Compare as JSON Schema does: true is not 1, though Python says so, and 1.0 is."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def check_size(parameters: JsonObject) -> None:
    """Raise BadRequest when an instance would have more parameters than one request could carry."""
    if len(json.dumps(parameters, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_BYTES:
        raise BadRequest(
            f"parameters must have at most {MAX_BYTES} bytes, those that the instance has already included."
        )


def check_databases_of_roles(source: ParameterSource, parameters: JsonObject, database: str) -> None:
    """Raise BadRequest when a role is asked for on another database than the instance's (a custom one: than admin)."""
    roles, custom = parameters.get("roles"), list(source.CUSTOM_ROLES)
    for number, role in enumerate(roles if isinstance(roles, list) else ()):
        asked = role.get("databaseName") if isinstance(role, Mapping) else None
        where = "admin" if asked and role.get("roleName") in custom else database
        if asked not in (None, where):
            raise BadRequest(f"parameters.roles[{number}].databaseName must be {where}: the role is given there only.")


def check(schema: JsonObject, parameters: JsonObject) -> None:
    """Raise BadRequest for what is most wrong with the parameters; the message names the parameter."""
    error = best_match(Draft4Validator(schema).iter_errors(parameters))
    if error is not None:
        raise BadRequest(_complaint(error))


def _complaint(error: ValidationError) -> str:
    """Name the parameter and say what it should be, without quoting its value: that may be a secret."""
    name = "parameters" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    keyword, wanted = str(error.validator), error.validator_value
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    if keyword == "required" and isinstance(wanted, list) and isinstance(error.instance, Mapping):
        return f"{name}.{next(each for each in wanted if each not in error.instance)} is required."
    if keyword == "not" and isinstance(wanted, Mapping) and "required" in wanted:
        return f"{name}: {' and '.join(wanted['required'])} exclude each other."
    if keyword == "additionalProperties":
        return f"{name} has a field that it cannot have; it can have {', '.join(schema.get('properties', {}))}."
    if keyword in _DEMANDS:
        return f"{name} {_DEMANDS[keyword]} {_listed(wanted)}."
    return f"{name} is not allowed. {schema.get('description', '')}".rstrip()


_DEMANDS = {
    "enum": "must be one of",
    "type": "must be of the type",
    "minimum": "must be at least",
    "maximum": "must be at most",
    "minLength": "must have at least this many characters:",
    "maxLength": "must have at most this many characters:",
    "minItems": "must have at least this many items:",
    "maxItems": "must have at most this many items:",
}


def _listed(wanted: object) -> str:
    return ", ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
