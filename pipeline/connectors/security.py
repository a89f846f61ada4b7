"""How a connection to Kafka is encrypted, and what it shows of us: the files and secrets of `kafka.security`, read.

Read once, when a command starts, except for a token: that is read at each login.
"""

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pipeline.connectors.tls import present, trusting
from pipeline.secret_files import read_secret

if TYPE_CHECKING:
    from pipeline.security_settings import SecuritySettings

KEYS = "kafka.security"


class Secret(str):
    """Text that hides from whoever prints what holds it: the client logs its configuration at level debug."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class Security:
    """What a connection needs of it; by default nothing."""

    tls: ssl.SSLContext | None = None
    mechanism: str | None = None
    username: str | None = None
    password: Secret | None = field(default=None, repr=False)
    token_file: str | None = None

    @classmethod
    def of(cls, settings: "SecuritySettings") -> Self:
        """Return what the settings say, files read.

        Raises:
            ConfigError: a file cannot be read, or holds something else than it should.
        """
        tls = None
        if settings.tls:
            tls = trusting(settings.ca_file, f"{KEYS}.ca_file")
            if settings.certificate_file is not None:
                key_password = read_secret(
                    settings.key_password, settings.key_password_file, f"{KEYS}.key_password_file"
                )
                present(tls, KEYS, settings.certificate_file, settings.key_file, key_password)
        password = read_secret(settings.password, settings.password_file, f"{KEYS}.password_file")
        if settings.token_file is not None:
            # It is read again at each login; here only to say at once that it cannot be.
            read_secret(None, settings.token_file, f"{KEYS}.token_file")
        return cls(
            tls,
            settings.mechanism,
            settings.username,
            None if password is None else Secret(password),
            settings.token_file,
        )

    def options(self) -> dict[str, Any]:
        """Return what the client takes of this."""
        protocol = ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")
        name = self.username
        if name is not None and self.mechanism != "PLAIN":
            # RFC 5802 wants it so, and the client does not do it.
            name = name.replace("=", "=3D").replace(",", "=2C")
        return {
            "security_protocol": protocol,
            "ssl_context": self.tls,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": name,
            "sasl_plain_password": self.password,
        }
