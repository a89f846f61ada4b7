"""Who is let in at the port of metrics: its certificate, the clients that it knows, and their password.

The files are looked at with each connection and read again once one of them has changed, so that a certificate is
renewed in place. What cannot be read then, a key written before its certificate, changes nothing: one warning says
so, and each further connection tries again, for what was in the way may be no fault of the files. Of a password
only a hash is held.
"""

import base64
import hashlib
import hmac
import logging
import os
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.connectors.expiry import Expiry
from pipeline.connectors.tls import serving
from pipeline.errors import ConfigError
from pipeline.secret_files import read_secret

if TYPE_CHECKING:
    from pipeline.metrics_settings import MetricsSettings

logger = logging.getLogger(__name__)

KEYS = "metrics"


@dataclass(frozen=True)
class _Read:
    """What the files say."""

    tls: ssl.SSLContext | None
    login: bytes | None
    """Hash of the user and the password that are let in; None: nobody is asked for one."""


class Door:
    """What the settings say, files read; see `pipeline.endpoint.Door`. Asked by several threads."""

    def __init__(self, settings: "MetricsSettings", expiry: Expiry | None = None) -> None:
        """Read the files; `expiry` is told of the certificate, also of one that is renewed.

        Raises:
            ConfigError: one cannot be read, or holds something else than it should.
        """
        self._settings, self._expiry, self._renewing = settings, expiry or Expiry(), threading.Lock()
        named = (settings.certificate_file, settings.key_file, settings.key_password_file, settings.ca_file)
        self._files = [file for file in (*named, settings.password_file) if file is not None]
        self._seen = self._marks()
        self._read = self._read_files()
        self._warned = ""
        """Why they could not be read again, as it was said last."""

    def tls(self) -> ssl.SSLContext | None:
        """Return what the next connection is encrypted with, by the files as they are now."""
        # Whoever comes while they are read again is served by what was read before.
        if self._renewing.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._renewing.release()
        return self._read.tls

    def refusal(self, authorization: str, certified: bool) -> str | None:
        """Return what is missing, as a status of HTTP; None: whoever shows this is let in.

        Args:
            authorization: the header.
            certified: the client has shown a certificate that is trusted.
        """
        if self._settings.ca_file is not None and not certified:
            return "403 Forbidden"
        login = self._read.login
        if login is None or hmac.compare_digest(login, _login_in(authorization)):
            return None
        return "401 Unauthorized"

    def _renew(self) -> None:
        marks = self._marks()
        if marks == self._seen:
            return
        try:
            self._read = self._read_files()
        except ConfigError as error:
            if str(error) != self._warned:
                self._warned = str(error)
                logger.warning("the port of metrics goes on with the files that it has read before: %s", error)
        else:
            self._seen, self._warned = marks, ""
            logger.info("the port of metrics has read its files again")

    def _read_files(self) -> _Read:
        settings, tls, login = self._settings, None, None
        if settings.certificate_file is not None:
            key_password = read_secret(
                settings.key_password, settings.key_password_file, f"{KEYS}.key_password_file"
            )
            tls = serving(KEYS, settings.certificate_file, settings.key_file, key_password, settings.ca_file)
        password = read_secret(settings.password, settings.password_file, f"{KEYS}.password_file")
        if password is not None:
            login = _hash(f"{settings.username}:{password}".encode())
        if settings.certificate_file is not None:
            self._expiry.note(KEYS, settings.certificate_file)
        return _Read(tls, login)

    def _marks(self) -> list[tuple[int, ...]]:
        """Return what changes with each of the files; of one that is not there, nothing."""
        marks: list[tuple[int, ...]] = []
        for file in self._files:
            try:
                found = os.stat(file)
            except OSError:
                marks.append(())
            else:
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev))
        return marks


def _login_in(authorization: str) -> bytes:
    """Return the hash of what a client says; equal lengths, so that a comparison takes equally long."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        told = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        told = b""
    return _hash(told)


def _hash(login: bytes) -> bytes:
    return hashlib.sha256(login).digest()
