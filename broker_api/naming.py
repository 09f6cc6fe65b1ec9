"""Names of databases and users that MongoDB and Atlas accept, made from ids that may hold any Unicode character."""

import hashlib
import re

MAX_DATABASE_BYTES = 63
"""MongoDB's limit for a database name (manual, "Naming Restrictions": fewer than 64 bytes)."""
MAX_SHARED_TIER_DATABASE_BYTES = 38
"""Atlas's limit on free and Flex clusters (its limitations pages, "Namespaces and Database Names")."""
RESERVED_DATABASES = frozenset({"admin", "local", "config"})
DATABASE_PREFIX = "instance-"

_PLAIN_DATABASE = re.compile(r"[A-Za-z0-9_-]+")
# MongoDB refuses a user name that begins with a dot, and the path of a URL cannot hold "." or "..".
_PLAIN_USER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_FORBIDDEN_IN_DATABASE = re.compile(r"[/\\. \"$*<>:|?\x00]")


def _with_digest(text: str, keep: int) -> str:
    """Return the first ``keep`` characters of an id and a digest of the whole id: two ids never get the same name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', text)[:keep]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def database_name(instance_id: str, limit: int = MAX_DATABASE_BYTES) -> str:
    """Return the name of an instance's database: ``instance-<instance_id>``, as in atlasbroker 2.0.0.

    Args:
        instance_id: the id. If it is too long or has other characters, its beginning and a digest are used.
        limit: how many bytes the name may have, one of the two limits above.
    """
    plain = f"{DATABASE_PREFIX}{instance_id}"
    if _PLAIN_DATABASE.fullmatch(plain) and len(plain) <= limit:
        return plain
    return f"{DATABASE_PREFIX}{_with_digest(instance_id, 36 if limit == MAX_DATABASE_BYTES else 12)}"


def is_default_database(name: str, instance_id: str) -> bool:
    """Return whether ``database_name`` makes this name from the instance's id, on a cluster of any size."""
    return name in (database_name(instance_id), database_name(instance_id, MAX_SHARED_TIER_DATABASE_BYTES))


def username(binding_id: str) -> str:
    """Return the name of a binding's database user: the binding id, as in atlasbroker 2.0.0.

    Of an id with characters that a URI would escape, the beginning and a digest are used.
    """
    return binding_id if _PLAIN_USER.fullmatch(binding_id) else _with_digest(binding_id, 48)


def database_problem(name: object, limit: int = MAX_DATABASE_BYTES) -> str | None:
    """Return why ``name`` cannot be the name of an instance's database, as a sentence for users; None if it can.

    Args:
        name: the wanted name, of any type.
        limit: how many bytes the name may have.
    """
    if not isinstance(name, str) or not name or len(name.encode()) > limit:
        return f"The database name must have 1 to {limit} bytes."
    if name.lower() in RESERVED_DATABASES:
        return f"The database {name} belongs to MongoDB itself."
    if _FORBIDDEN_IN_DATABASE.search(name):
        return f"The database name {name!r} has a character that MongoDB does not allow."
    return None
