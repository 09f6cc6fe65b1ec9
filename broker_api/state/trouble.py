"""Trouble with MongoDB in an operator's words: the driver's text holds hosts, options and a page of topology."""

import re

from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

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
    ("over your space quota", "its storage is full"),
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


def reason(error: Exception) -> str:
    """Return why MongoDB could not be used, without hosts, options or secrets."""
    code = getattr(error, "code", None) if isinstance(error, OperationFailure) else None
    if code in _BY_CODE:
        return _quota(error) or _BY_CODE[code]
    # What the driver adds to a failed choice of a server is all it knows of all servers: the cause stands before it.
    cause = re.split(r", Timeout: |, Topology Description:", re.sub(r"\(configured timeouts[^)]*\)", "", str(error)))[0]
    for pattern, words in _BY_TEXT:
        if re.search(pattern, cause, re.IGNORECASE):
            return words
    kind = type(error).__name__
    if isinstance(error, PyMongoError) and not isinstance(error, ConfigurationError):
        kind += f", code {code}" if code else ""
    return f"the driver reports {kind}"


def _quota(error: Exception) -> str | None:
    return _BY_TEXT[0][1] if re.search(_BY_TEXT[0][0], str(error), re.IGNORECASE) else None
