"""Certificates for tests: an authority, and what it signs, as PEM files."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """Signs certificates; `certificate` is the file of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        now = datetime.now(UTC)
        own = _builder(self._name, self._name, self._key, now - _DAY, now + _DAY)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(own.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def sign(
        self,
        name: str,
        hosts: Sequence[str],
        *,
        expired: bool = False,
        password: str | None = None,
        until: datetime | None = None,
    ) -> Path:
        """Return the file of a new key and its certificate, good for a day or `until` then.

        The key is encrypted with `password`.
        """
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        end = until or (now - timedelta(hours=1) if expired else now + _DAY)
        made = _builder(_named(name), self._name, key, min(now, end) - _DAY, end)
        names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        hidden = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
        path = self._folder / f"{name}.pem"
        path.write_bytes(pem + made.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)
    usage = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return made.add_extension(usage, critical=False)
