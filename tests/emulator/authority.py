"""The authority that signs the certificates of users whom Atlas manages; a mongod that trusts it lets them in."""

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.emulator.model import subject_of


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key as PEM, and what lists show of it."""

    pem: str
    number: int
    subject: str
    created: datetime
    ends: datetime


class UserAuthority:
    """With the files of another authority, or one of its own, whom nothing trusts."""

    def __init__(self, certificate: str = "", key: str = "") -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "emulated Atlas")])
        self._key = ec.generate_private_key(ec.SECP256R1())
        if certificate and key:
            self._name = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).subject
            loaded = load_pem_private_key(Path(key).read_bytes(), None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            self._key = loaded

    def issue(self, username: str, months: int) -> Issued:
        """Return a certificate for the subject that the mongods know the user by; it begins an hour ago, as Atlas's."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = subject_of(username)
        now = datetime.now(UTC).replace(microsecond=0)
        ends = months_later(now, months)
        certificate = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(ends)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem = certificate.public_bytes(Encoding.PEM) + private
        number = certificate.serial_number % 2**63
        return Issued(pem.decode(), number, subject.rfc4514_string(), now - timedelta(hours=1), ends)


def months_later(moment: datetime, months: int) -> datetime:
    """The same day of a later month, or its last one."""
    year, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + year, month + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
