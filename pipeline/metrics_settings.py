"""Where metrics and probes are served, over what, and whom they are told: the keys below `metrics`.

A secret is given by the environment or by a file that `..._file` names, never in the configuration itself. A
password without TLS is refused on loopback too, as that of Kafka is: one key, `in_clear`, says that it is meant,
whatever host a variable of the environment sets later.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from pipeline.mistakes import mistake_at
from pipeline.secret_settings import refuse_twice
from pipeline.setting_types import Name, Section, no_truth, truth

_OF_CERTIFICATE = ("key_file", "key_password", "key_password_file", "ca_file")


def _no_colon(name: str) -> str:
    if ":" in name:
        raise ValueError(f"{name!r:.60} holds a colon, which ends a name in HTTP; take it out")
    return name


class MetricsSettings(Section):
    host: Name = "127.0.0.1"
    """Address that `/metrics`, `/healthz` and `/readyz` listen on; 0.0.0.0 opens them to the network."""
    port: Annotated[int, Field(ge=0, le=65_535), BeforeValidator(no_truth)] = 9108
    """0 takes a free port and logs it."""
    certificate_file: Name | None = None
    """Serve them over TLS (1.2 or later) with this certificate, as PEM with those between it and its root. This and
    the other files here are read again when they change."""
    key_file: Name | None = None
    """Its key, where certificate_file does not hold it too."""
    key_password: SecretStr | None = None
    """What the key is encrypted with; only by the environment."""
    key_password_file: Name | None = None
    """A file that holds it."""
    ca_file: Name | None = None
    """Tell `/metrics` only to whom shows a certificate that one of these has signed, as PEM. Probes need none, and
    are told no reasons without."""
    username: Annotated[Name, AfterValidator(_no_colon)] | None = None
    """Tell `/metrics` only to this user (HTTP's basic authentication). Probes need no password, and are told no
    reasons without."""
    password: SecretStr | None = None
    """The user's password; only by the environment."""
    password_file: Name | None = None
    """A file that holds it."""
    in_clear: Annotated[bool, BeforeValidator(truth)] = False
    """Take a password without TLS, where something else encrypts the connection or nobody can listen."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        refuse_twice(self)
        for key in _OF_CERTIFICATE:
            if getattr(self, key) is not None and self.certificate_file is None:
                raise mistake_at((key,), "it needs a certificate_file; add that, or take it out")
        named, secret = self.username is not None, "password" if self.password is not None else "password_file"
        if named and not self.asks_password:
            raise mistake_at(("password_file",), "it is missing, and a username needs it; add it")
        if self.asks_password and not named:
            raise mistake_at((secret,), "it needs a username; add that, or take it out")
        if self.in_clear and (self.certificate_file is not None or not named):
            raise mistake_at(("in_clear",), "it is for a password without a certificate_file; take it out")
        if named and self.certificate_file is None and not self.in_clear:
            raise mistake_at(
                (secret,),
                "clients would send it as it is; name a certificate_file, or set `in_clear: true` where something "
                "else encrypts the connection",
            )
        return self

    @property
    def asks_password(self) -> bool:
        return self.password is not None or self.password_file is not None

    def in_words(self) -> str:
        """Return it for people, such as `TLS, for prometheus by password`."""
        said = "not encrypted" if self.certificate_file is None else "TLS"
        if self.ca_file is not None:
            said += ", for clients with a certificate"
        if self.username is not None:
            said += f", for {self.username} by password"
        return said
