"""Checks names and passwords, for the API and for Flower.

A hash is made to be slow. So each process remembers a password that was right, as a digest under a key that is never
stored. Digests of clear passwords are made at the start.

All digests are compared for each request, and an unknown name costs as much as a wrong password: the time of a check
reveals neither a password nor whether a name is known.

Failures are counted for each name and address; above a limit they are answered by 429. Right credentials are accepted
then too: the limit shows guesses and bounds what they cost, but does not end them. Only while many hashes wait to be
computed is a password refused, by 429, that was not yet right in this process.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import structlog
from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from broker_api.settings.users import User, UserRole, read_users

MEMORY_KIB, ITERATIONS, LANES = 19_456, 2, 1
"""The cost of a new hash, as OWASP recommends it: some 20 ms and 19 MiB."""
MOST_FAILURES = 20
"""How many failures a name and address may have at once, and so many more a minute."""
REFILL_SECONDS = 60 / MOST_FAILURES
REMEMBERED = 10_000
"""How many names and addresses, and wrong passwords, are remembered at most."""
CHECKS_AT_ONCE = 2
"""How many hashes are computed at the same time: each needs its memory."""
WAITING = 32
"""How many requests may wait for their hash: others must find a thread of the API, also probes and known platforms."""
SUSPECTS_WAITING = 4
"""The same for requests of a name and address that are over the limit."""

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
    """This name has failed too often from this address, or too many hashes wait. The request is refused.

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
        self._wrong = _Recent[bytes, bool]()

    def digest(self, name: str, password: str) -> bytes:
        """Return the digest of a name and password, under the key of this process."""
        # Each request pays for it: a keyed BLAKE2 takes a quarter of the time of an HMAC.
        return hashlib.blake2b(f"{len(name)}:{name}:{password}".encode(), key=self._key, digest_size=32).digest()

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
            self._wrong.change(digest, lambda _: True)
        else:
            self._digests[name] = digest
        return user


class _Recent(Generic[Key, Value]):
    """The entries that were written last; threads share them."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def change(self, key: Key, new: Callable[[Value | None], Value]) -> None:
        """Replace the value of a key by what ``new`` makes of it."""
        with self._lock:
            self._entries[key] = new(self._entries.get(key))
            self._entries.move_to_end(key)
            if len(self._entries) > REMEMBERED:
                self._entries.popitem(last=False)

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return key in self._entries


class _Failures:
    """How many failures each name and address may still have: a bucket that fills again with the time."""

    def __init__(self) -> None:
        self._buckets = _Recent[tuple[str, str], tuple[float, float]]()

    def take(self, pair: tuple[str, str], now: float) -> float:
        """Take one before a check, so that checks at the same time count, and return how many are left.

        Args:
            pair: The name and the address.
            now: The time in seconds, by which the bucket has filled again.

        Returns:
            Less than 0 when there was none; then nothing is taken.
        """
        return self._change(pair, -1, now)

    def give_back(self, pair: tuple[str, str], now: float) -> None:
        """Return to the bucket what ``take`` has taken, since the check has succeeded."""
        self._change(pair, 1, now)

    def _change(self, pair: tuple[str, str], number: int, now: float) -> float:
        left = 0.0

        def changed(bucket: tuple[float, float] | None) -> tuple[float, float]:
            nonlocal left
            before, at = bucket or (float(MOST_FAILURES), now)
            filled = min(float(MOST_FAILURES), before + (now - at) / REFILL_SECONDS)
            left = min(float(MOST_FAILURES), filled + number)
            return (filled if left < 0 else left), now

        self._buckets.change(pair, changed)
        return left


class Logins:
    """The users and their passwords.

    Args:
        users: Passwords or hashes by name, each name with its role, as in the settings.
        on_failure: Called for each failure, with ``wrong`` or ``limited``.
        clock: Tells the seconds by which failures are forgotten.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        on_failure: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users, self._known = dict(users), _Known(users)
        self._failures = _Failures()
        self._on_failure = on_failure
        self._clock = clock
        self._checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)
        self._waiting = threading.BoundedSemaphore(WAITING)
        self._suspects = threading.BoundedSemaphore(SUSPECTS_WAITING)

    def replace(self, users: Mapping[str, str]) -> None:
        """Use other users from now on. If they are the same, the passwords that were found to be right stay known."""
        if users != self._users:
            self._users, self._known = dict(users), _Known(users)

    def check(self, name: str, password: str, address: str) -> frozenset[UserRole]:
        """Return the roles of the user that a name and password belong to.

        Args:
            name: The name.
            password: The password.
            address: Where the request comes from.

        Raises:
            TooManyFailuresError: They are wrong, as many before them from this address; or too many hashes wait.
            WrongCredentialsError: They are wrong.
        """
        known = self._known
        digest = known.digest(name, password)
        if user := known.remembered(digest):
            return user.roles
        pair = (hashlib.sha256(name.encode()).hexdigest(), address)
        left = self._failures.take(pair, self._clock())
        if known.must_compute(digest) and (user := self._compute(known, name, password, digest, limited=left < 0)):
            if left >= 0:
                self._failures.give_back(pair, self._clock())
            return user.roles
        self._on_failure("limited" if left < 0 else "wrong")
        if left < 0:
            raise TooManyFailuresError(int(REFILL_SECONDS))
        # An unknown name is not logged: it may be a password in the wrong field.
        shown = name if name in known.names else None
        log.warning("login_failed", user=shown, address=address, limit_reached=left < 1)
        raise WrongCredentialsError

    def _compute(self, known: _Known, name: str, password: str, digest: bytes, *, limited: bool) -> User | None:
        places = self._suspects if limited else self._waiting
        if not places.acquire(blocking=False):
            self._on_failure("limited")
            raise TooManyFailuresError(int(REFILL_SECONDS))
        try:
            with self._checks:
                return known.compute(name, password, digest)
        finally:
            places.release()
