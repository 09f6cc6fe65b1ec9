"""Connections to the clusters themselves: logging in with new credentials, dropping a database."""

from collections.abc import Callable
from tempfile import NamedTemporaryFile
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

REACH_MS = 5000
LOG_IN_REFUSED = "the log-in is refused"
_AUTHENTICATION = {11, 18, 8000}
"""Error codes of a refused log-in: UserNotFound (the user was deleted meanwhile), AuthenticationFailed, Atlas's own."""


def log_in(uri: str, certificate: str = "") -> str | None:
    """Log in to a cluster.

    Args:
        uri: The connection string with the credentials.
        certificate: The certificate and private key of an X.509 user, as PEM.

    Returns:
        None when the log-in succeeded, else the reason, without the credentials.
    """
    if not certificate:
        return _on_cluster(uri, _ping)
    with NamedTemporaryFile("w", prefix="certificate-") as file:  # drivers take a file only; its mode is 0600
        file.write(certificate)
        file.flush()
        return _on_cluster(uri, _ping, file.name)


def _ping(client: MongoClient[dict[str, Any]]) -> None:
    client.admin.command("ping")


def drop_database(uri: str, name: str) -> str | None:
    """Drop a database.

    Args:
        uri: The connection string of the cluster with the credentials.
        name: The database.

    Returns:
        None when the database does not exist any more, else the reason, without the credentials.
    """
    return _on_cluster(uri, lambda client: client.drop_database(name))


def _on_cluster(
    uri: str, act: Callable[[MongoClient[dict[str, Any]]], object], certificate: str | None = None
) -> str | None:
    options: dict[str, Any] = {"tlsCertificateKeyFile": certificate} if certificate else {}
    try:
        with MongoClient[dict[str, Any]](
            uri,
            serverSelectionTimeoutMS=REACH_MS,
            connectTimeoutMS=REACH_MS,
            socketTimeoutMS=REACH_MS,
            **options,
        ) as client:
            act(client)
    except OperationFailure as error:
        return LOG_IN_REFUSED if error.code in _AUTHENTICATION else f"MongoDB refuses it (code {error.code})"
    except (InvalidURI, ConfigurationError):
        return "the connection string cannot be used"
    except PyMongoError as error:
        return f"the cluster cannot be reached from the broker ({type(error).__name__}); look at its IP access list"
    return None
