"""What the state's database refuses, as platforms are told of it."""

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import AutoReconnect, DocumentTooLarge, OperationFailure

from broker_api.errors import ErrStorageMongoConnection, ErrStorageStore, ErrStorageTooLarge
from broker_api.state.mongo_errors import storage_errors
from tests.unit.in_memory_service import InMemoryService
from tests.unit.osb_requests import INSTANCE, PROVISION, a_client, description, send


class Refusing:
    """A store whose database says no."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @storage_errors("store")
    def store(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DocumentTooLarge("by the driver"), 400),
        (OperationFailure("by the server", 10334), 400),
        (InvalidDocument("no BSON"), 500),
        (OperationFailure("not primary", 10107), 503),
        (AutoReconnect("gone"), 503),
    ],
    ids=str,
)
def test_a_document_that_is_too_large_is_not_taken_for_trouble_with_the_connection(
    error: Exception, status: int
) -> None:
    with pytest.raises((ErrStorageMongoConnection, ErrStorageStore)) as raised:
        Refusing(error).store()
    response = send(a_client(InMemoryService(trouble=raised.value)), "PUT", INSTANCE, json=PROVISION)
    assert response.status_code == status
    assert ("too large" in description(response)) == isinstance(raised.value, ErrStorageTooLarge) == (status == 400)
