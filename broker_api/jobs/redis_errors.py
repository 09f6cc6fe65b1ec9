"""Errors of Redis as sentences for operators, without secrets; and the log lines about outages."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import structlog
from kombu.exceptions import OperationalError
from redis import exceptions

NO_SENTINEL = "no sentinel answers"
REPEAT_SECONDS = 60.0
"""The shortest time between two log lines about the same outage with the same reason."""
CHANGE_SECONDS = 5.0
"""The same when the reason has changed."""

_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.OutOfMemoryError, "its memory is full (OOM)"),
    (exceptions.ReadOnlyError, "it is a read-only replica (READONLY)"),
    (exceptions.NoPermissionError, "its user lacks a permission (NOPERM)"),
    (exceptions.BusyLoadingError, "it is still loading its data (LOADING)"),
    (exceptions.MaxConnectionsError, "too many connections are in use"),
    (exceptions.ClusterDownError, "its cluster is down (CLUSTERDOWN)"),
    (exceptions.AskError, "it is a Redis Cluster, which cannot be used (MOVED)"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted"),
    (ssl.SSLError, "the TLS handshake failed"),
    (socket.gaierror, "its host name is not known"),
    (ConnectionRefusedError, "connection refused"),
    (FileNotFoundError, "a certificate file is missing"),
)
_BY_TEXT = (
    ("wrongpass", "it refuses the user name or password (WRONGPASS)"),
    ("invalid username-password", "it refuses the user name or password (WRONGPASS)"),
    ("invalid password", "it refuses the user name or password (WRONGPASS)"),
    ("called without any password", "it has no password, but BROKER_REDIS_URL has one"),
    ("authentication required", "it asks for a password (NOAUTH)"),
    ("noauth", "it asks for a password (NOAUTH)"),
    ("previous master is now a slave", "it is a read-only replica (READONLY)"),
    ("unblocked", "it has become a replica (UNBLOCKED)"),
    ("misconf", "it refuses to write because it cannot save to its disk (MISCONF)"),
    ("noreplicas", "it has too few replicas (NOREPLICAS)"),
    ("masterdown", "it is a replica without a master (MASTERDOWN)"),
    ("wrongtype", "one of the broker's keys holds another type of value (WRONGTYPE)"),
    ("busy", "a script keeps it busy (BUSY)"),
    ("max number of clients", "it has too many clients"),
    ("db index is out of range", "it has no such database"),
    ("know no such master", "the sentinels know no master of this name"),
    ("unexpectedeof", "the TLS handshake failed"),
    ("connection closed by server", "it closed the connection"),
    ("connection reset", "it closed the connection"),
    ("broken pipe", "it closed the connection"),
    ("connection refused", "connection refused"),
    ("certificate verify failed", "its certificate is not trusted"),
    ("timed out", "no answer in time"),
    ("timeout", "no answer in time"),
    ("no route to host", "no route to its host"),
    ("name or service not known", "its host name is not known"),
)

log = structlog.get_logger(__name__)


def reason(error: BaseException) -> str:
    """Return why Redis cannot be used, in a few words without the error's own text, which may hold a secret."""
    if error.__cause__ and isinstance(error, OperationalError):  # kombu's, around the driver's
        return reason(error.__cause__)
    if error.__cause__ and str(error) == NO_SENTINEL:
        return f"{NO_SENTINEL} ({reason(error.__cause__)})"
    for each in _chain(error):
        for kind, words in _BY_CLASS:
            if isinstance(each, kind):
                return words
    for each in _chain(error):
        text = str(each).lower()
        for part, words in _BY_TEXT:
            if part in text:
                return words
        if isinstance(each, exceptions.TimeoutError | TimeoutError):
            return "no answer in time"
    return f"error {type(error).__name__}"


def is_answer(error: BaseException) -> bool:
    """Return whether Redis answered, with an error; False if it did not answer at all."""
    kinds = (exceptions.ResponseError, exceptions.AuthenticationError, exceptions.BusyLoadingError)
    return any(isinstance(each, kinds) for each in _chain(error))


def sentence(error: BaseException) -> str:
    """Return a sentence for operators about an error of Redis, without a full stop."""
    return f"{'Redis answers with an error' if is_answer(error) else 'Redis does not answer'}: {reason(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class OutageLog:
    """Logs when Redis is lost (repeated once a minute while it is away), and when it is back."""

    def __init__(self, used_for: str) -> None:
        self._used_for = used_for
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._logged_at = 0.0
        self.ongoing = False
        """Whether the last use of Redis failed."""

    def failed(self, error: BaseException) -> None:
        """Record a failed use of Redis; log it unless the same outage was logged a moment ago."""
        words = reason(error)
        with self._lock:
            now = time.monotonic()
            pause = CHANGE_SECONDS if words != self._reason else REPEAT_SECONDS
            due = self._reason is None or now - self._logged_at >= pause
            self._reason, self.ongoing = words, True
            if due:
                self._logged_at = now
        if due:
            log.warning("redis_lost", used_for=self._used_for, reason=words, error=type(error).__name__)

    def recovered(self) -> None:
        """Record that Redis can be used again; log it unless another thread has done so."""
        with self._lock:
            self._reason, self.ongoing, was = None, False, self._reason
        if was is not None:
            log.info("redis_back", used_for=self._used_for)
