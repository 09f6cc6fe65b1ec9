"""The users in BROKER_USERS: their names, roles and passwords, which are clear text or hashes."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from broker_api.errors import SettingError
from broker_api.settings.sources import is_unicode

HASH = re.compile(
    r"\$argon2id\$v=19\$m=([1-9]\d{0,6}),t=[1-9]\d{0,2},p=([1-9]\d{0,1})"
    r"\$([A-Za-z0-9+/]{11,64})\$([A-Za-z0-9+/]{16,86})"
)
"""A hash in the form of the Password Hashing Competition (PHC), as ``atlas-broker users hash`` prints it."""

_ENTRY = re.compile(rf"\s*(?P<name>[^,:]*):(?P<secret>{HASH.pattern}|[^,]*)\s*(?:,|\Z)")
"""One user in the text of all. The commas between a hash's parameters belong to the hash."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that basic authentication does not allow (RFC 7617, section 2), such as line breaks between users."""
_OTHER_HASH = re.compile(r"\$(argon2\w*|scrypt|2[abxy]|pbkdf2[\w-]*|[156y])\$")


class UserRole(StrEnum):
    """What a user may ask for."""

    PLATFORM = "platform"  # the Open Service Broker API
    OPERATOR = "operator"  # everything else: metrics, the description of the API, Flower


@dataclass(frozen=True)
class User:
    """A user of the API or of Flower.

    Attributes:
        secret: The password, or its hash.
        roles: What the user may ask for.
    """

    name: str
    secret: str = field(repr=False)
    roles: frozenset[UserRole]

    @property
    def hashed(self) -> bool:
        """Whether the secret is a hash."""
        return HASH.fullmatch(self.secret) is not None


def parse_users(given: object) -> dict[str, str]:
    """Return the secrets of a setting by name, with the role after the name as it was written.

    Args:
        given: ``name[/role]:secret``, several separated by commas; or an object of the same names and secrets.

    Raises:
        SettingError: A user is malformed, or two have the same name.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else _pairs(str(given))
    fits = all(isinstance(text, str) and text.strip() and is_unicode(text) for pair in pairs for text in pair)
    fits = fits and not any(_CONTROL.search(text) for pair in pairs for text in pair)
    if not pairs or not fits or any(":" in name for name, _ in pairs):
        raise SettingError(
            "BROKER_USERS: must be name:password, several separated by commas, in secret.json an object of names "
            "and passwords; all of them text, none empty, no colon in a name, no line break or other control character"
        )
    users = read_users(dict(pairs))
    if len({user.name for user in users}) < len(pairs):
        raise SettingError("BROKER_USERS: must be users with another name each; a name is there twice")
    if any(_OTHER_HASH.match(user.secret) and not _can_be_verified(user.secret) for user in users):
        raise SettingError(
            "BROKER_USERS: must have hashes of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash, as atlas-broker users "
            "hash prints them; a hash of another form is refused"
        )
    return dict(pairs)


def _can_be_verified(secret: str) -> bool:
    """Return whether this is a hash that Argon2 can compute: it needs 8 KiB for each lane (RFC 9106, section 3.1)."""
    if not (found := HASH.fullmatch(secret)):
        return False
    memory, lanes, *texts = found.groups()
    try:
        for text in texts:
            base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return False
    return int(memory) >= 8 * int(lanes)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Return the users of a text; none if a part of it is no user."""
    pairs, end = [], 0
    while found := _ENTRY.match(text, end):
        pairs.append((found["name"].strip(), found["secret"].strip()))
        end = found.end()
        if not found[0].endswith(","):
            return pairs
    return []


def read_users(users: Mapping[str, str]) -> tuple[User, ...]:
    """Return the users of a parsed setting.

    Raises:
        SettingError: A role is unknown.
    """
    return tuple(_user(written, secret) for written, secret in users.items())


def _user(written: str, secret: str) -> User:
    name, slash, role = written.rpartition("/")
    if not slash:
        return User(written, secret, frozenset(UserRole))
    if not name or "/" in name or role not in [*UserRole]:
        raise SettingError(
            "BROKER_USERS: must have /platform, /operator or nothing after a name, which has no other slash"
        )
    return User(name, secret, frozenset({UserRole(role)}))
