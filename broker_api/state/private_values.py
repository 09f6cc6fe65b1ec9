"""What platforms send and may hold secrets is encrypted in MongoDB: contexts, unknown parameters, requests of updates.

A record that was read from MongoDB holds them encrypted (``sealed_context`` and so on) and lacks them in clear; it has
them once it is opened. The known parameters stay in clear, so that operators can read them without a key.

Earlier releases stored all in clear. Such documents are read, and ``atlas-broker keys rotate`` encrypts them.
"""

import json
from collections.abc import Mapping
from typing import Any

from broker_api.json_types import JsonObject
from broker_api.state.encryption import Vault
from broker_api.state.records import AnyResource, Operation, Place

KNOWN_PARAMETERS = frozenset(
    {
        "arn",
        "auth",
        "backup",
        "cluster",
        "connection",
        "database",
        "disk_size_gb",
        "endpoint",
        "expires_in",
        "expires_in_months",
        "mongodb_version",
        "policy-on-delete",
        "project",
        "provider",
        "region",
        "role",
        "roles",
        "termination_protection",
        "tier",
    }
)
"""The parameters that stay in clear: the broker's own by which operators tell instances and bindings apart."""
NOTHING = "{}"
PARAMETERS, CONTEXT, REQUEST = "sealed_parameters", "sealed_context", "operation.sealed_request"


def known(parameters: Mapping[str, Any]) -> JsonObject:
    """Return those of the parameters that stay in clear."""
    return {name: value for name, value in parameters.items() if name in KNOWN_PARAMETERS}


def sealed(vault: Vault, key: str, fields: Mapping[str, Any]) -> JsonObject:
    """Return fields of an instance or binding as they are stored. Without keys they stay as they are.

    Args:
        vault: The encryption keys.
        key: The ``_id`` of the document.
        fields: The fields, with whole parameters and contexts.
    """
    if not vault.has_keys:
        return dict(fields)
    clear, private = dict(fields), JsonObject()
    if "parameters" in fields:
        given = fields["parameters"].items()
        clear["parameters"] = {name: value for name, value in given if name in KNOWN_PARAMETERS}
        private[PARAMETERS] = {name: value for name, value in given if name not in KNOWN_PARAMETERS}
    if "context" in fields:
        clear["context"], private[CONTEXT] = {}, fields["context"]
    return clear | {name: vault.seal(value, Place(key, name)) if value else None for name, value in private.items()}


def sealed_request(vault: Vault, key: str, operation: Operation) -> JsonObject:
    """Return the fields of an operation that hold its request, as they are stored."""
    if not vault.has_keys or operation.request == NOTHING:
        return {"request": operation.request, "sealed_request": None}
    return {"request": NOTHING, "sealed_request": vault.seal(operation.request, Place(key, REQUEST))}


def opened(vault: Vault, record: AnyResource) -> AnyResource:
    """Return a record with whole parameters, context and request.

    Raises:
        MissingKeyError: A key is not known.
        UndecryptableError: Something else has changed what is encrypted.
    """
    values: JsonObject = {}
    if record.sealed_parameters:
        unknown = vault.open(record.sealed_parameters, Place(record.key, PARAMETERS))
        values["parameters"] = record.parameters | unknown
    if record.sealed_context:
        values["context"] = vault.open(record.sealed_context, Place(record.key, CONTEXT))
    if record.operation.sealed_request:
        request = vault.open(record.operation.sealed_request, Place(record.key, REQUEST))
        values["operation"] = record.operation.model_copy(update={"request": request})
    return record.model_copy(update=values) if values else record


def in_clear(document: Mapping[str, Any]) -> bool:
    """Return whether something in a stored document is in clear that is encrypted now."""
    operation, parameters = document.get("operation"), document.get("parameters")
    texts = [document.get("context"), operation.get("request") if isinstance(operation, Mapping) else None]
    if any(text not in (None, NOTHING) for text in texts):
        return True
    try:
        given = parameters if isinstance(parameters, dict) else json.loads(parameters or NOTHING)
    except (TypeError, ValueError):  # such a document cannot be read
        return False
    return isinstance(given, dict) and known(given) != given
