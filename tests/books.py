"""What MongoDB holds of a stack's instances and bindings, for tests that look behind the API."""

from typing import Any

from broker_api.state.crypto import Vault
from broker_api.state.records import binding_key, instance_key
from tests.dev.stack import Stack

Json = dict[str, Any]


def document(stack: Stack, instance_id: str, binding_id: str | None = None) -> Json:
    """As stored; empty when there is none."""
    key = binding_key(instance_id, binding_id) if binding_id else instance_key(instance_id)
    with stack.state.client() as client:
        return client[stack.database]["instances"].find_one({"_id": key}) or {}


def kept_credentials(stack: Stack, instance_id: str, binding_id: str) -> Json:
    """Also those that no platform may see yet."""
    sealed = document(stack, instance_id, binding_id)["sealed_credentials"]
    credentials: Json = Vault((stack.encryption_key,)).open(sealed)
    return credentials
