"""Checks of parameters: against their schemas, and for rules that a schema cannot express."""

import json
from collections.abc import Mapping
from itertools import islice

from jsonschema import Draft4Validator
from jsonschema.exceptions import ValidationError, best_match

from broker_api.config import Config
from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject

MAX_BODY_BYTES = 262_144
"""The limit of a request's body, and of an instance's parameters, to which each update may add."""
MOST_ERRORS = 100
"""Among so many errors the one for the message is chosen."""


def check_schema(schema: JsonObject, parameters: JsonObject) -> None:
    """Check parameters against a schema.

    Raises:
        BadRequest: the parameters do not fit; the message names the parameter that fits least.
    """
    properties = schema.get("properties", {})
    lengths = {
        name: {"maxItems": each["maxItems"]}
        for name, each in properties.items()
        if "maxItems" in each and "$ref" not in each  # what stands beside a reference does not count
    }
    # First the lengths of lists alone, and not all errors: a list of 100,000 wrong items would take many seconds.
    for checked in ({"properties": lengths}, schema):
        error = best_match(islice(Draft4Validator(checked).iter_errors(parameters), MOST_ERRORS))
        if error is not None:
            raise BadRequest(_complaint(error))


def check_size(parameters: JsonObject) -> None:
    """Check that an instance's parameters together have at most ``MAX_BODY_BYTES`` as JSON.

    Raises:
        BadRequest: the parameters are too large.
    """
    if len(json.dumps(parameters, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_BODY_BYTES:
        raise BadRequest(
            f"parameters must have at most {MAX_BODY_BYTES} bytes, those that the instance has already included."
        )


def check_databases_of_roles(config: Config, parameters: JsonObject, database: str) -> None:
    """Check that each role is on the instance's database, and each custom role on ``admin``.

    Args:
        config: names the custom roles.
        parameters: the parameters of a bind.
        database: the instance's database.

    Raises:
        BadRequest: a role is on another database.
    """
    roles, custom = parameters.get("roles"), list(config.CUSTOM_ROLES)
    for number, role in enumerate(roles if isinstance(roles, list) else ()):
        asked = role.get("databaseName") if isinstance(role, Mapping) else None
        where = "admin" if asked and role.get("roleName") in custom else database
        if asked not in (None, where):
            raise BadRequest(f"parameters.roles[{number}].databaseName must be {where}: the role is given there only.")


def same(one: object, other: object) -> bool:
    """Return whether two JSON values are equal as in JSON Schema: 1 equals 1.0; 1 does not equal true.

    In Python, ``1 == True``.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


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


def _complaint(error: ValidationError) -> str:
    """Return a sentence with the parameter and its allowed values. Its own value may be a secret and is left out."""
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
        listed = ", ".join(map(str, wanted)) if isinstance(wanted, list) else wanted
        return f"{name} {_DEMANDS[keyword]} {listed}."
    return f"{name} is not allowed. {schema.get('description', '')}".rstrip()
