"""What MongoDB and Atlas hold of a stack's instances and bindings, for tests that look or act behind the API."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pymongo
import requests
from pymongo.collection import Collection
from requests.auth import HTTPDigestAuth

from broker_api.state.encryption import Vault
from broker_api.state.private_values import opened
from broker_api.state.record_macs import RecordMacs
from broker_api.state.records import Place, binding_key, instance_key, record
from tests.dev.stack import Stack
from tests.emulator.client import Emulator

Json = dict[str, Any]


@contextmanager
def held(stack: Stack, collection: str = "instances") -> Iterator[Collection[Json]]:
    """A collection of the stack's, to be looked into or changed behind the broker's back."""
    with stack.state.client() as client:
        yield client[stack.database][collection]


def insert_many(collection: Collection[Json], documents: Sequence[Json]) -> None:
    """Insert thousands of documents, for which the time of the broker's own calls is too short on a busy machine."""
    with pymongo.timeout(100):
        collection.insert_many(documents)


def document(stack: Stack, instance_id: str, binding_id: str | None = None) -> Json:
    """Return a document as stored; empty when there is none."""
    key = binding_key(instance_id, binding_id) if binding_id else instance_key(instance_id)
    with held(stack) as documents:
        return documents.find_one({"_id": key}) or {}


def kept_credentials(stack: Stack, instance_id: str, binding_id: str) -> Json:
    """Return the stored credentials, also those that no platform may see yet."""
    sealed = document(stack, instance_id, binding_id)["sealed_credentials"]
    place = Place(binding_key(instance_id, binding_id), "sealed_credentials")
    credentials: Json = Vault((stack.encryption_key,)).open(sealed, place)
    return credentials


def sign(stack: Stack, query: Json) -> None:
    """Give documents that a test has changed the MACs that the broker would have written with these changes."""
    macs = RecordMacs(Vault((stack.encryption_key,)))
    with held(stack) as documents:
        for found in (opened(macs.vault, record(each)) for each in documents.find(query)):
            made = macs.of_changed(found, found.model_dump()) | macs.of_new(found.key, None, found.operation)
            documents.update_one({"_id": found.key}, {"$set": made})


def call_users(atlas: Emulator, method: str, path: str = "", body: Json | None = None) -> None:
    """Call the database users of the first project, as an operator may."""
    requests.request(
        method,
        f"{atlas.base_url}/api/atlas/v2/groups/{atlas.project_id}/databaseUsers{path}",
        json=body,
        headers={"Accept": "application/vnd.atlas.2023-01-01+json"},
        auth=HTTPDigestAuth(atlas.public_key, atlas.private_key),
        timeout=60,
    ).raise_for_status()


def make_user(atlas: Emulator, name: str, **more: object) -> None:
    """Make a user with a password that the broker does not know."""
    roles = [{"roleName": "read", "databaseName": "theirs"}]
    body = {"username": name, "databaseName": "admin", "groupId": atlas.project_id, "roles": roles}
    call_users(atlas, "POST", body=body | {"password": "somebody-elses-password", **more})
