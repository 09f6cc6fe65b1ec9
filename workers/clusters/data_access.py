"""Access to the clusters themselves: log in with new credentials, drop a database."""

from collections.abc import Callable
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

REACH_MS = 5000
LOG_IN_REFUSED = "the log-in is refused"
_AUTHENTICATION = {11, 18, 8000}
"""MongoDB's and Atlas's codes for a log-in that failed; the first when the user goes away meanwhile."""


def log_in(uri: str) -> str | None:
    """Log in. Return None when that worked, else the reason, without the credentials."""
    return _on_cluster(uri, lambda client: client.admin.command("ping"))


def drop_database(uri: str, name: str) -> str | None:
    """Drop a database. Return None when it is gone, else the reason, without the credentials."""
    return _on_cluster(uri, lambda client: client.drop_database(name))


def _on_cluster(uri: str, act: Callable[[MongoClient[dict[str, Any]]], object]) -> str | None:
    try:
        with MongoClient[dict[str, Any]](
            uri, serverSelectionTimeoutMS=REACH_MS, connectTimeoutMS=REACH_MS, socketTimeoutMS=REACH_MS
        ) as client:
            act(client)
    except OperationFailure as error:
        return LOG_IN_REFUSED if error.code in _AUTHENTICATION else f"MongoDB refuses it (code {error.code})"
    except (InvalidURI, ConfigurationError):
        return "the connection string cannot be used"
    except PyMongoError as error:
        return f"the cluster cannot be reached from the broker ({type(error).__name__}); look at its IP access list"
    return None
