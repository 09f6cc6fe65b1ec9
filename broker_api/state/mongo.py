"""The connection to the MongoDB that holds the state, and update expressions by the database's clock."""

import functools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from broker_api.settings.url_checks import usable_mongo_uri
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import canonical

Document = dict[str, Any]
NOW = "$$NOW"
"""The database's clock, which is the same for all processes; their own clocks may differ."""

log = structlog.get_logger(__name__)


class In(float):
    """A moment, as seconds from now by the database's clock."""


def assignments(changes: Mapping[str, object], prefix: str = "") -> Document:
    """Return the ``$set`` of an update pipeline.

    ``$literal`` prevents MongoDB from reading text of users as an operator or a field name. Objects and lists become
    JSON text, since users may have chosen their keys.

    Args:
        changes: The values by field.
        prefix: The path of the object with the fields, such as ``operation.``.
    """
    return {
        prefix + name: {"$add": [NOW, int(value * 1000)]}
        if isinstance(value, In)
        else {"$literal": canonical(value) if isinstance(value, dict | list | tuple) else value}
        for name, value in changes.items()
    }


def connect(uri: str, timeout_ms: int) -> MongoClient[Document]:
    """Return a client, which connects at its first use.

    Args:
        uri: The hosts, credentials, TLS, compression and pool sizes; its other options are ignored.
        timeout_ms: How long one operation may take as a whole, in milliseconds.
    """
    usable, overridden = usable_mongo_uri(uri)
    _warn_of_overridden(overridden)
    return MongoClient(
        usable,
        connect=False,
        timeoutMS=timeout_ms,
        serverSelectionTimeoutMS=timeout_ms,
        directConnection=False,
        loadBalanced=False,  # a DNS record of mongodb+srv:// may say otherwise
        readPreference="primary",
        readConcernLevel="local",
        w="majority",
        journal=True,
        retryWrites=True,
        retryReads=True,
        tz_aware=True,
        appname="atlas-broker",
    )


@functools.cache
def _warn_of_overridden(options: tuple[str, ...]) -> None:
    """Log the ignored options once in each process, which may connect several times."""
    if options:
        log.warning("mongo_uri_options_ignored", options=list(options))


_TOLERANT: CodecOptions[Document] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
"""With these options a value that Python cannot represent does not end the query for the other documents."""


def durable_collection(client: MongoClient[Document], database: str, name: str) -> Collection[Document]:
    """Return a collection with reads from the primary, and writes that a majority has in its journal."""
    return client.get_database(database).get_collection(
        name,
        codec_options=_TOLERANT,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("local"),
    )


def timeout_of(collection: Collection[Document]) -> float | None:
    """Return how many seconds one operation on a collection may take as a whole; None without a limit."""
    return collection.database.client.options.timeout


def in_batches(collection: Collection[Document], query: Document, size: int) -> Iterator[list[Document]]:
    """Yield all documents of a query in the order of their ``_id``, of whatever types these are.

    Each batch is a query of its own, so that a reader may take as long as it needs between two of them.

    Args:
        collection: The collection.
        query: The query.
        size: The number of documents in a batch.
    """

    @storage_errors("read all documents")
    def read(after: Document) -> list[Document]:
        return list(collection.find({"$and": [query, after]}).sort("_id", 1).limit(size))

    documents = read({})
    while documents:
        yield documents
        # $gt as an expression also compares values of different types, and uses the index.
        documents = read({"$expr": {"$gt": ["$_id", {"$literal": documents[-1]["_id"]}]}})


def as_datetime(value: object) -> datetime:
    """Return the value of a date field, with a time zone.

    Raises:
        TypeError: The value is not a date.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no date")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
