"""What MongoDB holds of a stack's instances and bindings, for tests that look behind the API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.collection import Collection

from broker_api.state.encryption import Vault
from broker_api.state.records import binding_key, instance_key
from tests.dev.stack import Stack

Json = dict[str, Any]


@contextmanager
def held(stack: Stack, collection: str = "instances") -> Iterator[Collection[Json]]:
    """A collection of the stack's, to be looked into or changed behind the broker's back."""
    with stack.state.client() as client:
        yield client[stack.database][collection]


def document(stack: Stack, instance_id: str, binding_id: str | None = None) -> Json:
    """Return a document as stored; empty when there is none."""
    key = binding_key(instance_id, binding_id) if binding_id else instance_key(instance_id)
    with held(stack) as documents:
        return documents.find_one({"_id": key}) or {}


def kept_credentials(stack: Stack, instance_id: str, binding_id: str) -> Json:
    """Return the stored credentials, also those that no platform may see yet."""
    sealed = document(stack, instance_id, binding_id)["sealed_credentials"]
    credentials: Json = Vault((stack.encryption_key,)).open(sealed)
    return credentials
