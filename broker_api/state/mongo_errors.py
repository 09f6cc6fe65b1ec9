"""Errors of MongoDB as errors of the broker, with a reason in an operator's words.

The messages of the driver are not used, since they contain hosts, options and the whole topology.
"""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bson.errors import BSONError
from pymongo.errors import ConfigurationError, DocumentTooLarge, OperationFailure, PyMongoError

from broker_api.errors import ErrStorageMongoConnection, ErrStorageStore, ErrStorageTooLarge

P = ParamSpec("P")
R = TypeVar("R")

_OBJECT_TOO_LARGE = 10334  # the server's error BSONObjectTooLarge
_STORAGE_FULL = "its storage is full"

_BY_CODE = {
    18: "it refuses the user name or password",
    11: "it refuses the user name or password",  # UserNotFound
    8000: "it refuses the user name or password",  # Atlas's own code
    13: "its user is not authorised to do this",
    50: "it did not answer in time",  # MaxTimeMSExpired
    64: "its members did not confirm a write in time",  # WriteConcernFailed
    100: "a majority of its members is not there to confirm writes",  # UnsatisfiableWriteConcern
    91: "it is shutting down",
    189: "the replica set has no primary at the moment (an election, perhaps)",  # PrimarySteppedDown
    10107: "the replica set has no primary at the moment (an election, perhaps)",  # NotWritablePrimary
    11602: "the replica set has no primary at the moment (an election, perhaps)",  # InterruptedDueToReplStateChange
    14031: "its disk is full",
}

_BY_TEXT = (
    ("over your space quota", _STORAGE_FULL),
    ("certificate has expired", "its certificate has expired"),
    ("hostname mismatch|ip address mismatch|doesn't match|not valid for", "its certificate is for another host name"),
    ("certificate.?verify.?failed|self.signed|unable to get (local )?issuer", "its certificate is not trusted"),
    ("certificate.required|bad certificate|unknown ca", "it does not accept the client's certificate"),
    ("wrong.version.number|ssl handshake|tlsv1|unexpected eof|eof occurred|ssl:", "the TLS handshake failed"),
    ("authentication failed|bad auth", "it refuses the user name or password"),
    ("not authorized|requires authentication", "its user is not authorised to do this"),
    ("internal hostnames", "none of its members can be reached by the names in the replica set's configuration"),
    ("replica set named|no replica set members available for replica set name", "its replica set has another name"),
    (
        "name or service not known|nodename nor|name resolution|no address associated|getaddrinfo",
        "its host name is not found",
    ),
    ("dns query|resolution lifetime|no nameservers|nxdomain|does not exist: _mongodb", "its DNS record was not found"),
    ("connection refused", "the connection is refused"),
    ("no route to host|network is unreachable", "the network does not lead there"),
    ("timed? ?out|timeout expired|deadline", "it did not answer in time"),
    ("connection closed|reset by peer|broken pipe", "it closed the connection"),
    (
        "no primary|not primary|not master|no replica set members match|primary stepped",
        "the replica set has no primary at the moment (an election, perhaps)",
    ),
    ("found yet|no servers available", "it did not answer in time"),
)


def storage_errors(during: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for functions that use MongoDB.

    The decorated function raises, instead of an error of the driver:

    - ErrStorageTooLarge: The document is larger than MongoDB allows.
    - ErrStorageStore: A value cannot be stored as BSON.
    - ErrStorageMongoConnection: Any other error of MongoDB or of the connection.

    Args:
        during: The purpose of the function, for the error message.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except (PyMongoError, BSONError, OverflowError) as error:
                if isinstance(error, DocumentTooLarge) or getattr(error, "code", None) == _OBJECT_TOO_LARGE:
                    raise ErrStorageTooLarge from error
                if isinstance(error, BSONError | OverflowError):
                    raise ErrStorageStore from error
                raise ErrStorageMongoConnection(during, reason(error)) from error

        return wrapped

    return decorate


def reason(error: Exception) -> str:
    """Return why MongoDB could not be used, in an operator's words, without hosts, options or secrets.

    Args:
        error: The error of the driver.
    """
    code = getattr(error, "code", None) if isinstance(error, OperationFailure) else None
    # After the cause the driver appends a description of all servers, which is cut off.
    cause = re.split(r", Timeout: |, Topology Description:", re.sub(r"\(configured timeouts[^)]*\)", "", str(error)))[0]
    found = next((words for pattern, words in _BY_TEXT if re.search(pattern, cause, re.IGNORECASE)), None)
    if code in _BY_CODE and found != _STORAGE_FULL:  # Atlas reports a full quota with the code of another error
        return _BY_CODE[code]
    if found:
        return found
    kind = type(error).__name__
    if isinstance(error, PyMongoError) and not isinstance(error, ConfigurationError):
        kind += f", code {code}" if code else ""
    return f"the driver reports {kind}"
