"""The connection to the state's MongoDB, and update expressions for values, by the database's clock."""

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern

from broker_api.settings.urls import usable_mongo_uri
from broker_api.state.records import canonical

Document = dict[str, Any]
NOW = "$$NOW"
"""The database's clock: the clocks of processes may differ, this one is the same for all."""

log = structlog.get_logger(__name__)


class In(float):
    """A moment that is so many seconds from now, by the database's clock."""


def assignments(changes: Mapping[str, object], prefix: str = "") -> Document:
    """Return the ``$set`` of an update pipeline for some fields.

    ``$literal`` keeps text of users from being read as an operator or a field's name. Objects and lists, whose keys
    users may have chosen, become JSON text.
    """
    return {
        prefix + name: {"$add": [NOW, int(value * 1000)]}
        if isinstance(value, In)
        else {"$literal": canonical(value) if isinstance(value, dict | list | tuple) else value}
        for name, value in changes.items()
    }


def connect(uri: str, timeout_ms: int) -> MongoClient[Document]:
    """Return a client; it sends nothing before its first use.

    Args:
        uri: Where MongoDB is and how to log in. How to read, write and wait is decided here.
        timeout_ms: How long one operation may take as a whole.
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
    """Write one line for each process, which may connect several times."""
    if options:
        log.warning("mongo_uri_options_ignored", options=list(options))


_TOLERANT: CodecOptions[Document] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
"""A value that Python cannot hold makes its own document unreadable and does not end the whole query."""


def durable_collection(client: MongoClient[Document], database: str, name: str) -> Collection[Document]:
    """Return a collection that is read from the primary and whose writes a majority has in its journal."""
    return client.get_database(database).get_collection(
        name,
        codec_options=_TOLERANT,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("local"),
    )


def as_datetime(value: object) -> datetime:
    """Return the value of a date field.

    Raises:
        TypeError: It is no date.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no date")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
