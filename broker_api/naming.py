"""Names of databases and users that MongoDB and Atlas accept, made from ids that may hold any Unicode character."""

import hashlib
import re

MAX_DATABASE_BYTES = 63
"""MongoDB's limit for a database name (manual, "Naming Restrictions": fewer than 64 bytes)."""
MAX_SHARED_TIER_DATABASE_BYTES = 38
"""Atlas's limit on free and Flex clusters (its limitations pages, "Namespaces and Database Names")."""
MAX_COMMON_NAME = 64
"""The limit of X.509 for the common name of a certificate."""
MAX_CLUSTER_NAME = 64
CLUSTER_PREFIX = 23
"""So many characters of the names of two clusters of a project must differ."""
RESERVED_DATABASES = frozenset({"admin", "local", "config"})
DATABASE_PREFIX = "instance-"

_PLAIN_DATABASE = re.compile(r"[A-Za-z0-9_-]+")
# MongoDB refuses a user name that begins with a dot, and the path of a URL cannot hold "." or "..".
_PLAIN_USER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
# Other characters have a meaning in the subject of a certificate, or cannot be in it.
_COMMON_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._@ -]*")
_PLAIN_TAG = re.compile(r"[A-Za-z0-9 ;@_.+-]{1,255}")
_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_RESERVED_CLUSTER = re.compile(r"atlas-[a-z0-9]{6}")
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


def cluster_name(instance_id: str) -> str:
    """Return the name of an instance's own cluster: the beginning of the id and a digest of it, 23 characters."""
    beginning = re.sub(r"[^A-Za-z0-9]", "", instance_id)[:4] or "x"
    return f"i-{beginning}-{hashlib.sha256(instance_id.encode()).hexdigest()}"[:CLUSTER_PREFIX]


def cluster_problem(name: object) -> str | None:
    """Return why Atlas would not take ``name`` for a cluster, as a sentence for users; None if it would."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_CLUSTER_NAME:
        return f"The name of a cluster must have 1 to {MAX_CLUSTER_NAME} characters."
    if not _CLUSTER.fullmatch(name) or name[:CLUSTER_PREFIX].endswith("-"):
        return (
            f"The name {name!r} cannot be that of a cluster: it may have letters, digits and hyphens, must begin with "
            f"a letter or digit, and its first {CLUSTER_PREFIX} characters must not end with a hyphen."
        )
    return f"The cluster name {name} is reserved by Atlas." if _RESERVED_CLUSTER.fullmatch(name) else None


def is_default_database(name: str, instance_id: str) -> bool:
    """Return whether ``database_name`` makes this name from the instance's id, on a cluster of any size."""
    return name in (database_name(instance_id), database_name(instance_id, MAX_SHARED_TIER_DATABASE_BYTES))


def username(binding_id: str, limit: int | None = None) -> str:
    """Return the name of a binding's database user: the binding id, as in atlasbroker 2.0.0.

    Of an id that is too long, or has characters that a URI would escape, the beginning and a digest are used.

    Args:
        binding_id: the id.
        limit: how many characters the name may have; None for as many as the id has.
    """
    if _PLAIN_USER.fullmatch(binding_id) and len(binding_id) <= (limit or len(binding_id)):
        return binding_id
    return _with_digest(binding_id, 48 if limit is None else limit - 17)


def common_name_problem(name: object) -> str | None:
    """Return why ``name`` cannot be the common name of a user's certificate, as a sentence; None if it can."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_COMMON_NAME:
        return f"The name of an X.509 user must have 1 to {MAX_COMMON_NAME} characters."
    if not _COMMON_NAME.fullmatch(name) or name.endswith(" "):
        return f"The name {name!r} of an X.509 user may have letters, digits and ._@- only, and spaces inside."
    return None


def tag_value(text: str) -> str:
    """Return an id as the value of a tag in Atlas; of one with other characters, the beginning and a digest."""
    return text if _PLAIN_TAG.fullmatch(text) else _with_digest(text, 48)


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
