"""The parameters of instances and bindings, as the JSON schemas that the catalog publishes.

A new parameter is added here and, if it may stay readable in MongoDB, to ``private_values.KNOWN_PARAMETERS``; a rule
between parameters, to ``Catalog``. A parameter of clusters is added to ``cluster_plans``; a field of plans to
``PlanDefinition``, ``Plan``, ``Catalog._plan`` and ``Catalog.plan_of``.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft4Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT4

from broker_api.authentication import DEFAULT_MONTHS, MAX_MONTHS, Authentication
from broker_api.catalog.cluster_plans import cluster_properties, place
from broker_api.config import Config
from broker_api.json_types import JsonObject

DRAFT_04 = "http://json-schema.org/draft-04/schema#"
MAX_SCHEMA_CHARACTERS = 65_536
EXPIRES_IN_SECONDS = (60, 604_800)
"""The shortest and the longest time until Atlas removes a user by itself; Atlas allows at most a week."""
PRIVATE_ENDPOINT = "private-endpoint"
CONNECTION_KINDS = ("standard", "private", PRIVATE_ENDPOINT)
DELETE_POLICIES = ("retain", "drop")

_FORBIDDEN_NAMES: JsonObject = {
    "anyOf": [
        # All dialects of regular expressions that platforms use know \x; Go's does not know \u.
        {"pattern": r'[/\\. "$*<>:|?\x00-\x1f\x7f]'},
        {"pattern": "^([Aa][Dd][Mm][Ii][Nn]|[Ll][Oo][Cc][Aa][Ll]|[Cc][Oo][Nn][Ff][Ii][Gg])$"},
    ]
}


def instance_schema(
    config: Config,
    pins: Mapping[str, str | None],
    new_cluster: Mapping[str, Any] | None = None,
    *,
    creating: bool,
) -> JsonObject:
    """Return the schema of an instance's parameters.

    Args:
        config: has the names of the parameters.
        pins: the plan's values of ``project``, ``cluster``, ``connection`` and ``endpoint``, or None. A pinned
            parameter is not in the schema.
        new_cluster: the plan's field, if it makes clusters; what it fixes is not in the schema.
        creating: whether the schema is for a provision. In an update no parameter is required, and an absent one
            stays as it is.
    """
    properties: JsonObject = {
        config.PARAMETER_CLUSTER: {
            "type": "string",
            "description": "Name of the Atlas cluster that holds the database: letters, digits and hyphens.",
            "minLength": 1,
            "maxLength": 64,
            "not": {"pattern": "^-|[^a-zA-Z0-9-]"},  # "$" would also match before a line feed at the end
        },
        config.PARAMETER_DATABASE: {
            "type": "string",
            "description": (
                'Name of the database: 1 to 63 bytes (38 on free and Flex clusters), without / \\ . " $ * < > : | ? '
                "space and control characters, and not admin, local or config. Without it the broker makes a name from "
                "the instance's id."
            ),
            "minLength": 1,
            "maxLength": 63,
            "not": _FORBIDDEN_NAMES,
        },
        "policy-on-delete": {
            "type": "string",
            "description": f"What becomes of the {'cluster' if new_cluster else 'database'} of a deleted instance.",
            "enum": list(DELETE_POLICIES),
            **({"default": "drop" if new_cluster else "retain"} if creating else {}),
        },
        "connection": {
            "type": "string",
            "description": "Which of the cluster's connection strings bindings get.",
            "enum": list(CONNECTION_KINDS),
            **({"default": "standard"} if creating else {}),
        },
        "endpoint": {
            "type": "string",
            "description": (
                f"Which private endpoint bindings go through with connection {PRIVATE_ENDPOINT}, where the cluster has "
                "several: an endpoint's id, or its region. Without it the first one."
            ),
            "minLength": 1,
            "maxLength": 512,
        },
        "project": {
            "type": "string",
            "description": "Id of the Atlas project that holds the cluster: 24 hexadecimal digits.",
            "minLength": 24,
            "maxLength": 24,
            "pattern": "^[0-9a-f]{24}$",
        },
    }
    names = {"cluster": config.PARAMETER_CLUSTER}
    left_out = {names.get(pin, pin) for pin, value in pins.items() if value is not None}
    if pins["connection"] not in (None, PRIVATE_ENDPOINT):
        left_out.add("endpoint")
    if new_cluster:
        properties |= cluster_properties(new_cluster, config.CLUSTER_TIERS, creating=creating)
        left_out |= {config.PARAMETER_CLUSTER, *new_cluster}
        left_out |= {config.PARAMETER_DATABASE} if "database" in new_cluster else set()
    schema: JsonObject = {
        "$schema": DRAFT_04,
        "type": "object",
        "properties": {name: properties[name] for name in properties if name not in left_out},
    }
    if creating and new_cluster and place(new_cluster, {})[1] is None:
        schema["required"] = ["region"]
    elif creating and not new_cluster and pins["cluster"] is None:
        schema["required"] = [config.PARAMETER_CLUSTER]
    return schema


def binding_schema(config: Config, offered: Sequence[str]) -> JsonObject:
    """Return the schema of a binding's parameters.

    Args:
        config: has the roles that they may name.
        offered: the ways to log in that the plan offers; the first one is the default.
    """
    presets, custom = list(config.ROLE_PRESETS), sorted(config.CUSTOM_ROLES)
    minimum, maximum = EXPIRES_IN_SECONDS
    # What is not offered is described too: a schema lets through what it does not describe.
    properties: JsonObject = {name: {"description": "It is not offered.", "not": {}} for name in ("role", "roles")}
    if presets:
        properties["role"] = {
            "type": "string",
            "description": "What the user may do with the instance's database. Excludes roles.",
            "enum": presets,
            **({"default": "readWrite"} if "readWrite" in presets else {}),
        }
    if names := sorted({*config.ALLOWED_ROLES, *custom}):
        properties["roles"] = _roles(names, custom)
    properties["expires_in"] = {
        "type": "integer",
        "description": "After how many seconds the user is removed; without it the user stays.",
        "minimum": minimum,
        "maximum": maximum,
    }
    properties["auth"] = {
        "type": "string",
        "description": "How the user logs in.",
        "enum": list(offered),
        "default": offered[0],
    }
    if Authentication.AWS_IAM in offered:
        properties["arn"] = {
            "type": "string",
            "description": f"ARN of the IAM role or user that logs in; required with auth {Authentication.AWS_IAM}.",
            "maxLength": 1024,
            "pattern": "^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/",
            "not": {"pattern": "[^A-Za-z0-9+=,.@_/:-]"},
        }
    if Authentication.X509 in offered:
        properties["expires_in_months"] = {
            "type": "integer",
            "description": f"After how many months the certificate expires, with auth {Authentication.X509}.",
            "minimum": 1,
            "maximum": MAX_MONTHS,
            "default": DEFAULT_MONTHS,
        }
    return {
        "$schema": DRAFT_04,
        "type": "object",
        "properties": properties,
        "not": {"required": ["role", "roles"]},
    }


_TYPING = {"type", "enum", "$ref", "allOf", "anyOf", "oneOf"}
"""The keywords with which a schema states the type of a value."""


def additional_rules(own: JsonObject, ours: JsonObject) -> JsonObject:
    """Return what the broker's schema demands beside an operator's own, which may not describe all parameters.

    Returns:
        A schema with all that ``ours`` says of parameters that ``own`` does not describe, and the types of those of
        which it says nothing about the type; ``{}`` if both are the same.
    """
    if own == ours:
        return {}
    described: dict[str, set[str]] = {}
    for name, description in _described(own):
        described.setdefault(name, set()).update(description)
    rules: JsonObject = {}
    for name, rule in ours["properties"].items():
        if name not in described:
            rules[name] = rule
        elif "type" in rule and not described[name] & _TYPING:
            rules[name] = {"type": rule["type"]}
    return {"properties": rules}


def _described(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the parameters that a valid schema describes, with what it says of them, in its parts too."""
    yield from schema.get("properties", {}).items()
    parts = [each for name in ("allOf", "anyOf", "oneOf") for each in schema.get(name, [])]
    for part in [*parts, *schema.get("definitions", {}).values()]:
        yield from _described(part)


def _roles(names: list[str], custom: list[str]) -> JsonObject:
    """Return the schema of ``roles``: names of roles, or objects that narrow a role.

    Atlas accepts a custom role only as the single role of a user. An object with an unknown key is refused: if a
    misspelt ``collectionName`` were ignored, the role would be wider than intended.
    """
    fields = {
        "roleName": {"type": "string", "enum": names},
        "databaseName": {"type": "string", "minLength": 1, "maxLength": 63},
        "collectionName": {"type": "string", "minLength": 1, "maxLength": 255},
    }
    narrowed = {"type": "object", "properties": fields, "required": ["roleName"], "additionalProperties": False}
    listed = ", ".join(names)
    schema: JsonObject = {
        "type": "array",
        "description": f"The user's roles, instead of role. Each is one of {listed}, or an object with roleName.",
        "minItems": 1,
        "maxItems": 100,
        "items": {
            "description": f"One of {listed}, or an object with roleName.",
            "anyOf": [{"type": "string", "enum": names}, narrowed],
        },
    }
    if custom:
        alone = f"A custom role ({', '.join(custom)}) stands alone."
        is_custom: list[JsonObject] = [
            {"enum": custom},
            {"type": "object", "properties": {"roleName": {"enum": custom}}, "required": ["roleName"]},
        ]
        schema["description"] += f" {alone}"
        schema["anyOf"] = [{"maxItems": 1}, {"items": {"description": alone, "not": {"anyOf": is_custom}}}]
    return schema


def schema_problem(schema: JsonObject) -> str | None:
    """Return why a platform would refuse a schema (spec.md, "Schema Parameters"); None if it would accept it."""
    return _problem(json.dumps(schema))


@functools.lru_cache(maxsize=64)  # plans share schemas, and a check takes milliseconds
def _problem(text: str) -> str | None:
    schema: JsonObject = json.loads(text)
    if str(schema.get("$schema", "")).rstrip("#") != DRAFT_04.rstrip("#"):
        return f"$schema must be {DRAFT_04}"
    if len(text) > MAX_SCHEMA_CHARACTERS:
        return f"a schema must have at most {MAX_SCHEMA_CHARACTERS} characters"
    try:
        Draft4Validator.check_schema(schema)
    except SchemaError as error:
        return f"{'.'.join(map(str, error.absolute_path)) or 'a schema'} must be valid for draft-04: {error.message}"
    # This registry knows no other schema and fetches none.
    resolver = Registry[Any]().with_resource("", DRAFT4.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return f"$ref {reference} must point into the schema itself"
    return None


def _references(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
