"""Encryption and authentication of what is stored, with keys that can be changed.

Each key is 32 bytes in Fernet's form. The keys of AES-256-GCM and of HMAC-SHA-256 are derived from it (HKDF), so that
no two purposes share a key. A ciphertext or MAC names its key by an id, which is derived too and tells nothing about
it. Both are bound to their place, the document and the field: a copy in another place is refused.
"""

import base64
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker_api.errors import MissingKeyError, UndecryptableError
from broker_api.state.records import Place, canonical

FORM = "v2"
"""The beginning of a ciphertext. Earlier releases wrote Fernet tokens, which begin with ``gAAAA``."""
FERNET = "Fernet"
"""In place of a key's id: the secret was written by an earlier release and is not bound to its place."""
NONCE_BYTES = 12
KEY_ID_BYTES = 4


def derived_key(secret: str, purpose: str) -> str:
    """Return a key in Fernet's form that is derived from a secret of high entropy."""
    return base64.urlsafe_b64encode(_derive(secret.encode(), purpose)).decode()


def _derive(secret: bytes, purpose: str, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=f"atlas-broker {purpose}".encode()).derive(secret)


@dataclass(frozen=True)
class _Key:
    """One key, and the keys that are derived from it."""

    text: str

    @cached_property
    def _secret(self) -> bytes:
        return base64.urlsafe_b64decode(self.text)

    @cached_property
    def id(self) -> str:
        return _derive(self._secret, "key id", KEY_ID_BYTES).hex()

    @cached_property
    def cipher(self) -> AESGCM:
        return AESGCM(_derive(self._secret, "encryption"))

    @cached_property
    def mac(self) -> bytes:
        return _derive(self._secret, "authentication")

    @cached_property
    def fernet(self) -> Fernet:
        return Fernet(self.text)


class _Keys(dict[str, _Key]):
    """Keys by their ids."""

    def __missing__(self, key_id: str) -> NoReturn:
        raise MissingKeyError(key_id[: 2 * KEY_ID_BYTES])


class Vault:
    """Encrypts, decrypts and authenticates JSON values. The first key writes; all keys read.

    Args:
        keys: The keys. Without any, nothing can be read or written.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.fernet_only_at: Place | None = None
        """The only place at which a Fernet token opens; None while those of earlier releases open at any place."""
        self.replace(keys)

    def replace(self, keys: tuple[str, ...]) -> None:
        """Use other keys from now on; ``KeyCheck`` should have tried them."""
        made = [_Key(each) for each in keys]
        self._by_id = _Keys((key.id, key) for key in made)
        self._keys = made
        self.has_keys = bool(made)

    @property
    def ids(self) -> list[str]:
        """The ids of the keys; the first one writes."""
        return [key.id for key in self._keys]

    def seal(self, secret: object, place: Place) -> str:
        """Return the encrypted text of a JSON value, which opens at this place only."""
        key, nonce = self._keys[0], secrets.token_bytes(NONCE_BYTES)
        sealed = nonce + key.cipher.encrypt(nonce, json.dumps(secret).encode(), canonical(place).encode())
        return f"{FORM}.{key.id}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open(self, sealed: str, place: Place) -> Any:  # noqa: ANN401 - any JSON value
        """Return the JSON value of a text that ``seal`` returned, or that an earlier release encrypted.

        Raises:
            MissingKeyError: None of the keys has written it.
            UndecryptableError: It was changed, or written for another place.
        """
        if not sealed.startswith(f"{FORM}."):
            if self.fernet_only_at not in (None, place):
                raise UndecryptableError(place.document, place.field)
            return self._open_fernet(sealed)
        try:
            _, key_id, text = sealed.split(".")
            data = base64.urlsafe_b64decode(text)
            if base64.urlsafe_b64encode(data).decode() != text:  # the decoder ignores what is not of its alphabet
                raise UndecryptableError(place.document, place.field)
            key = self._by_id[key_id]
            return json.loads(key.cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], canonical(place).encode()))
        except (InvalidTag, ValueError) as error:
            raise UndecryptableError(place.document, place.field) from error

    def _open_fernet(self, sealed: str) -> Any:  # noqa: ANN401 - any JSON value
        for key in self._keys:
            try:
                return json.loads(key.fernet.decrypt(sealed.encode()))
            except (InvalidToken, ValueError):  # two keys may share the half that signs: the result is no JSON then
                continue
        raise MissingKeyError("of an earlier release")

    def fernet_id(self, sealed: str) -> str | None:
        """Return the id of the key of a Fernet token; None when no key opens it."""
        return next((key.id for key in self._keys if Vault((key.text,)).opens(sealed, Place("", ""))), None)

    def seal_for_all_releases(self, secret: object) -> str:
        """Return a JSON value encrypted so that earlier releases open it too (Fernet); it opens at any place."""
        return self._keys[0].fernet.encrypt(json.dumps(secret).encode()).decode()

    def opens(self, sealed: str, place: Place, *, first_key_only: bool = False) -> bool:
        """Return whether a key decrypts a text at this place.

        Args:
            sealed: The text.
            place: Where it is stored.
            first_key_only: Try only the key that encrypts.
        """
        vault = Vault((self._keys[0].text,)) if first_key_only else self
        try:
            vault.open(sealed, place)
        except UndecryptableError:
            return False
        return True

    def macs(
        self, document: str, values: Mapping[str, object], like: Mapping[str, str | None] | None = None
    ) -> dict[str, str]:
        """Return the MACs of JSON values of one document, by the fields that they are stored in.

        Args:
            document: The ``_id`` of the document.
            values: The values by the fields of their MACs.
            like: Earlier MACs by their fields, whose keys to use; the key that writes without one.

        Raises:
            MissingKeyError: The key of an earlier MAC is not known.
        """
        made = {}
        for field, value in values.items():
            earlier = like.get(field) if like else None
            key = self._by_id[earlier.partition(".")[0]] if earlier else self._keys[0]
            digest = hmac.digest(key.mac, canonical([Place(document, field), value]).encode(), "sha256")
            made[field] = f"{key.id}.{digest.hex()}"
        return made


def key_id_of(written: str) -> str:
    """Return the id of the key of a ciphertext or a MAC; ``FERNET`` for a ciphertext of an earlier release."""
    if written.startswith(f"{FORM}."):
        return written.split(".")[1]
    return FERNET if written.startswith("gAAAA") else written.partition(".")[0]
