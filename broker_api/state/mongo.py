"""The connection to the state's MongoDB, and how values become update expressions that use the database's clock."""

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
"""The database's clock: clocks of pods may differ, this one is the same for all."""

log = structlog.get_logger(__name__)


class In(float):
    """So many seconds from now, by the database's clock."""


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
    """Make a client; nothing is sent before its first use. Each operation is bounded by ``timeout_ms`` as a whole.

    The URI says where MongoDB is and how to log in. How to read, write and wait is decided here.
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
    """Leave one line per process, which may connect several times."""
    if options:
        log.warning("mongo_uri_options_ignored", options=list(options))


_TOLERANT: CodecOptions[Document] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
"""Values that Python cannot hold do not end a whole query: the one document counts as unreadable."""


def durable(client: MongoClient[Document], database: str, name: str) -> Collection[Document]:
    """Return a collection whose writes a majority acknowledges and journals, and which is read from the primary."""
    return client.get_database(database).get_collection(
        name,
        codec_options=_TOLERANT,
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("local"),
    )


def as_datetime(value: Any) -> datetime:  # noqa: ANN401 - a field of a document
    """Read a date field that must be there."""
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no date")
    return value if value.tzinfo else value.replace(tzinfo=UTC)
