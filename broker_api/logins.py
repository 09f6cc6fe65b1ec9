"""Checks names and passwords, for the API and for Flower.

A hash is made to be slow. So each process remembers a password that was right, as a digest under a key that only this
process has and never stores. Digests of clear passwords are made at the start.

All digests are compared for each request, and an unknown name costs as much as a wrong password: the time of a check
reveals neither a password nor whether a name is known.

Failures are limited for each name and address. Right credentials are never refused for failures of others.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from broker_api.settings.users import Role, User, read_users

MEMORY_KIB, ITERATIONS, LANES = 19_456, 2, 1
"""The cost of a new hash, as OWASP recommends it: some 20 ms and 19 MiB."""
FAILURES = 20
"""How many failures a name and address may have at once, and so many more a minute."""
REFILL_SECONDS = 60 / FAILURES
REMEMBERED = 10_000
"""How many names and addresses, and wrong passwords, are remembered at most."""
CHECKS_AT_ONCE = 2
"""How many hashes are computed at the same time: each needs its memory."""
SUSPECTS_AT_ONCE = 4
"""How many requests over the limit may wait for their hash: they must not occupy all threads of the API."""

Key = TypeVar("Key")
Value = TypeVar("Value")

log = structlog.get_logger(__name__)


def make_hash(password: str) -> str:
    """Return the hash of a password, with a random salt, in the form of the Password Hashing Competition."""
    kdf = Argon2id(salt=secrets.token_bytes(16), length=32, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB)
    return kdf.derive_phc_encoded(password.encode())


class WrongCredentialsError(Exception):
    """The name is unknown or the password is wrong."""


class TooManyFailuresError(WrongCredentialsError):
    """This name has failed too often from this address. The request is refused.

    Attributes:
        retry_after: After how many seconds another attempt is checked as before.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__()
        self.retry_after = retry_after


class _Known:
    """The users of one setting, with what this process has learned about their passwords."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._key = secrets.token_bytes(32)
        self._users = read_users(users)
        self.names = frozenset(user.name for user in self._users)
        self._hashed = {user.name: user for user in self._users if user.hashed}
        # No digest equals a random one, so a hash matches nothing before its password was given once.
        self._digests = {
            user.name: secrets.token_bytes(32) if user.hashed else self.digest(user.name, user.secret)
            for user in self._users
        }
        self._wrong = _Recent[bytes, None]()

    def digest(self, name: str, password: str) -> bytes:
        """Return the digest of a name and password, under the key of this process."""
        return hmac.digest(self._key, f"{len(name)}:{name}:{password}".encode(), hashlib.sha256)

    def remembered(self, digest: bytes) -> User | None:
        """Return the user whose password is known to be right; all are compared."""
        found = None
        for user in self._users:
            if hmac.compare_digest(self._digests[user.name], digest):
                found = user
        return found

    def must_compute(self, digest: bytes) -> bool:
        """Return whether only the computation of a hash tells if the password is right."""
        return bool(self._hashed) and digest not in self._wrong

    def compute(self, name: str, password: str, digest: bytes) -> User | None:
        """Return the user if the password fits the hash; remember the result."""
        if found := self.remembered(digest):  # another request has computed it meanwhile
            return found
        user = self._hashed.get(name)
        tried = user or next(iter(self._hashed.values()))  # an unknown name takes as long
        try:
            Argon2id.verify_phc_encoded(password.encode(), tried.secret)
        except InvalidKey:
            user = None
        if user is None:
            self._wrong[digest] = None
        else:
            self._digests[name] = digest
        return user


class _Recent(OrderedDict[Key, Value]):
    """The entries that were written last."""

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > REMEMBERED:
            self.popitem(last=False)


@dataclass
class _Failures:
    """How many failures each name and address may still have: a bucket that fills again with the time."""

    _left: _Recent[tuple[str, str], tuple[float, float]] = field(default_factory=_Recent)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def left(self, pair: tuple[str, str]) -> float:
        """Return how many are left."""
        with self._lock:
            left, at = self._left.get(pair, (float(FAILURES), 0.0))
        return min(FAILURES, left + (time.monotonic() - at) / REFILL_SECONDS)

    def count(self, pair: tuple[str, str]) -> None:
        """Count a failure."""
        left = self.left(pair)
        with self._lock:
            self._left[pair] = max(0.0, left - 1), time.monotonic()


class Logins:
    """The users and their passwords.

    Args:
        users: Passwords or hashes by name, each name with its role, as in the settings.
        on_failure: Called for each failure, with ``wrong`` or ``limited``.
    """

    def __init__(self, users: Mapping[str, str], on_failure: Callable[[str], None] = lambda _: None) -> None:
        self._known = _Known(users)
        self._failures = _Failures()
        self._on_failure = on_failure
        self._checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)
        self._suspects = threading.BoundedSemaphore(SUSPECTS_AT_ONCE)

    def replace(self, users: Mapping[str, str]) -> None:
        """Use other users from now on."""
        self._known = _Known(users)

    def check(self, name: str, password: str, address: str) -> frozenset[Role]:
        """Return the roles of the user that a name and password belong to.

        Args:
            name: The name.
            password: The password.
            address: Where the request comes from.

        Raises:
            TooManyFailuresError: They are wrong, as many before them from this address.
            WrongCredentialsError: They are wrong.
        """
        known = self._known
        digest, pair = known.digest(name, password), (hashlib.sha256(name.encode()).hexdigest(), address)
        limited = self._failures.left(pair) < 1
        user = known.remembered(digest)
        if user is None and known.must_compute(digest):
            user = self._compute(known, name, password, digest, limited=limited)
        if user is not None:
            return user.roles
        self._on_failure("limited" if limited else "wrong")
        if limited:
            raise TooManyFailuresError(int(REFILL_SECONDS))
        self._failures.count(pair)
        # An unknown name is not logged: it may be a password in the wrong field.
        shown = name if name in known.names else None
        log.warning("login_failed", user=shown, address=address, limit_reached=self._failures.left(pair) < 1)
        raise WrongCredentialsError

    def _compute(self, known: _Known, name: str, password: str, digest: bytes, *, limited: bool) -> User | None:
        if not limited:
            with self._checks:
                return known.compute(name, password, digest)
        if not self._suspects.acquire(blocking=False):
            return None
        try:
            with self._checks:
                return known.compute(name, password, digest)
        finally:
            self._suspects.release()
