"""Whether the connection to Kafka is encrypted, and who we are to it: the keys below `kafka.security`.

A secret is given by the environment or by a file that `..._file` names, never in the configuration itself.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, SecretStr, model_validator

from pipeline.mistakes import mistake_at
from pipeline.secret_settings import refuse_twice
from pipeline.setting_types import Name, Section, truth

_OF_TLS = ("ca_file", "certificate_file", "key_file", "key_password", "key_password_file")
_OF_PASSWORDS = ("username", "password", "password_file")
_TELLING = ("PLAIN", "OAUTHBEARER")
"""Mechanisms that send what lets anybody in who has read it."""


class SecuritySettings(Section):
    tls: Annotated[bool, BeforeValidator(truth)] = False
    """Encrypt the connection (TLS 1.2 or later), and require of the brokers certificates that are trusted, have not
    expired and name the hosts that were asked for."""
    ca_file: Name | None = None
    """Certificates to trust in place of the system's, as PEM."""
    certificate_file: Name | None = None
    """Our own certificate, where the brokers want one, as PEM with those between it and its root."""
    key_file: Name | None = None
    """Its key, where certificate_file does not hold it too."""
    key_password: SecretStr | None = None
    """What the key is encrypted with; only by the environment."""
    key_password_file: Name | None = None
    """A file that holds it."""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How we say who we are (SASL); without one, by our certificate or not at all."""
    username: Name | None = None
    """Who we are, with PLAIN and SCRAM."""
    password: SecretStr | None = None
    """The user's password; only by the environment."""
    password_file: Name | None = None
    """A file that holds it."""
    token_file: Name | None = None
    """A file that holds the token of OAUTHBEARER; read at each login, so something else may renew it there."""
    in_clear: Annotated[bool, BeforeValidator(truth)] = False
    """Send a password or a token without TLS, where something else encrypts the connection."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        refuse_twice(self)
        for key in _OF_TLS:
            if getattr(self, key) is not None and not self.tls:
                raise mistake_at((key,), "it needs `tls: true`; add that, or take it out")
        for key in ("key_file", "key_password", "key_password_file"):
            if getattr(self, key) is not None and self.certificate_file is None:
                raise mistake_at((key,), "it needs a certificate_file; add that, or take it out")
        self._require_login()
        if self.in_clear and (self.tls or self.mechanism not in _TELLING):
            raise mistake_at(("in_clear",), "it is for PLAIN and OAUTHBEARER without `tls`; take it out")
        if self.mechanism in _TELLING and not self.tls and not self.in_clear:
            what = "token" if self.mechanism == "OAUTHBEARER" else "password"
            raise mistake_at(
                ("mechanism",),
                f"{self.mechanism} sends the {what} as it is; set `tls: true`, or `in_clear: true` where something "
                "else encrypts the connection",
            )
        return self

    def in_words(self) -> str:
        """Return it for people, such as `TLS, SCRAM-SHA-256 as worker`."""
        said = "TLS" if self.tls else "not encrypted"
        if self.mechanism:
            said += f", {self.mechanism}" + (f" as {self.username}" if self.username else "")
        return said

    def _require_login(self) -> None:
        wanted: tuple[str, ...] = ()
        if self.mechanism is not None:
            wanted = ("token_file",) if self.mechanism == "OAUTHBEARER" else _OF_PASSWORDS
        for key in (*_OF_PASSWORDS, "token_file"):
            if getattr(self, key) is not None and key not in wanted:
                of = "OAUTHBEARER" if key == "token_file" else "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
                raise mistake_at((key,), f"it is of `mechanism: {of}`; set that, or take it out")
        if "username" in wanted and self.username is None:
            raise mistake_at(("username",), f"it is missing, and {self.mechanism} needs it; add it")
        if "password" in wanted and self.password is None and self.password_file is None:
            raise mistake_at(("password_file",), f"it is missing, and {self.mechanism} needs it; add it")
        if "token_file" in wanted and self.token_file is None:
            raise mistake_at(("token_file",), f"it is missing, and {self.mechanism} needs it; add it")
