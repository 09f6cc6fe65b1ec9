"""Makes the passwords of database users: those of bindings, and those of temporary users."""

import secrets
import string

PASSWORD_LENGTH = 32
_ALPHABET = string.ascii_letters + string.digits


def new_password() -> str:
    """Return a random password that needs no escaping in a connection string."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(PASSWORD_LENGTH))
