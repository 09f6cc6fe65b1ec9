"""Names that MongoDB and Atlas accept, made from ids that may have slashes, spaces or any Unicode character."""

import hashlib
import re

MAX_DATABASE_BYTES = 63
"""MongoDB's limit for a database name (manual, "Naming Restrictions": fewer than 64 bytes)."""
MAX_SHARED_TIER_DATABASE_BYTES = 38
"""Atlas's limit on free and Flex clusters (its limitations pages, "Namespaces and Database Names")."""
RESERVED_DATABASES = frozenset({"admin", "local", "config"})
DATABASE_PREFIX = "instance-"

_PLAIN_DATABASE = re.compile(r"[A-Za-z0-9_-]+")
# MongoDB makes no user whose name begins with a dot, and no URL can carry "." or "..".
_PLAIN_USER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_FORBIDDEN_IN_DATABASE = re.compile(r"[/\\. \"$*<>:|?\x00]")


def _safe(text: str, keep: int) -> str:
    """Return the beginning of the id and a digest of all of it, so that two ids never have the same name."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', text)[:keep]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def database_name(instance_id: str, limit: int = MAX_DATABASE_BYTES) -> str:
    """Return the name of an instance's database: ``instance-<instance_id>``, as in atlasbroker 2.0.0.

    An id with other characters, or one that is too long, becomes its beginning and a digest. ``limit`` is one of the
    two limits above.
    """
    plain = f"{DATABASE_PREFIX}{instance_id}"
    if _PLAIN_DATABASE.fullmatch(plain) and len(plain) <= limit:
        return plain
    return f"{DATABASE_PREFIX}{_safe(instance_id, 36 if limit == MAX_DATABASE_BYTES else 12)}"


def is_default_database(name: str, instance_id: str) -> bool:
    """Return whether this is a name that the broker makes from the instance's id."""
    return name in (database_name(instance_id), database_name(instance_id, MAX_SHARED_TIER_DATABASE_BYTES))


def username(binding_id: str) -> str:
    """Return the name of a binding's user: the binding id, as in atlasbroker 2.0.0.

    An id with characters that a URI would escape becomes its beginning and a digest.
    """
    return binding_id if _PLAIN_USER.fullmatch(binding_id) else _safe(binding_id, 48)


def database_problem(name: object, limit: int = MAX_DATABASE_BYTES) -> str | None:
    """Return a sentence that says why ``name`` cannot be an instance's database; None when it can."""
    if not isinstance(name, str) or not name or len(name.encode()) > limit:
        return f"The database name must have 1 to {limit} bytes."
    if name.lower() in RESERVED_DATABASES:
        return f"The database {name} belongs to MongoDB itself."
    if _FORBIDDEN_IN_DATABASE.search(name):
        return f"The database name {name!r} has a character that MongoDB does not allow."
    return None
