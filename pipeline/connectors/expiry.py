"""When the certificates expire that this process shows: told by a metric, and by a line a day once that is near.

Of several in a file, our own with those between it and its root, the first to expire counts: whoever checks them
wants all in date.

Python's `ssl` tells no dates of our own certificates, and those of the other side only while they are good. So they
are read here, the few bytes on the way to them as RFC 5280 (4.1) lays them out, and nothing else is looked at:
whether a certificate is one at all is left to who loads it.
"""

import binascii
import logging
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline import metrics
from pipeline.connectors.tls import unreadable

logger = logging.getLogger(__name__)

WARNED_S = 14 * 86_400.0
"""So long before it expires a certificate is warned of; the rule of Prometheus says the same."""
_EVERY_S = 86_400.0
_REMEDIES = {
    "metrics": "renew it there, the port reads it again",
    "kafka.security": "renew it there and start this process again, which reads it once",
}
"""By the section of the configuration that names the file."""
_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]*)-----END ")
_VERSION, _UTC_TIME = 0xA0, 0x17


class Expiry:
    """Certificates that are shown, by the section that names them. Called on several threads."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, float]] = {}
        """File, and when it expires in seconds since 1970."""

    def note(self, section: str, file: str) -> None:
        """Take note of a file, in place of the one before of its section.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise unreadable(f"{section}.certificate_file", file, error) from error
        try:
            expires_s = expires(content)
        except ValueError as error:
            logger.warning("%s.certificate_file: when %s expires is not known: %s", section, file, error)
            if self._shown.pop(section, None) is not None:
                metrics.CERTIFICATE_EXPIRES.remove(section)
            return
        self._shown[section] = file, expires_s
        metrics.CERTIFICATE_EXPIRES.labels(section).set(expires_s)

    def look(self, now_s: float) -> None:
        """Warn of those that expire soon, or have; `now_s` is in seconds since 1970."""
        for section, (file, expires_s) in list(self._shown.items()):
            left_s = expires_s - now_s
            if left_s >= WARNED_S:
                continue
            when = f"{datetime.fromtimestamp(expires_s, UTC):%Y-%m-%d %H:%M} UTC"
            told = f"expires at {when}, in {left_s / 86_400:.1f} days" if left_s > 0 else f"has expired at {when}"
            logger.warning("%s.certificate_file: %s %s; %s", section, file, told, _REMEDIES[section])

    def begin(self, now_s: Callable[[], float], every_s: float = _EVERY_S) -> threading.Event:
        """Look now, and again and again on a thread that keeps no process alive, until what this returns is set."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(every_s):
                self.look(now_s())

        self.look(now_s())
        threading.Thread(target=run, name="certificates", daemon=True).start()
        return ended


def expires(pem: bytes) -> float:
    """Return when the first of a file's certificates expires, in seconds since 1970.

    Raises:
        ValueError: there is none, or one whose date cannot be read.
    """
    try:
        dates = [_not_after(binascii.a2b_base64(body)) for body in _PEM.findall(pem)]
    except IndexError as error:
        raise ValueError("a certificate is cut off") from error
    if not dates:
        raise ValueError("it holds no certificate")
    return min(dates)


def _not_after(der: bytes) -> float:
    _, at, _ = _field(der, 0)
    _, at, _ = _field(der, at)  # What is signed.
    kind, _, end = _field(der, at)
    if kind == _VERSION:
        at = end
    for _ in ("serial number", "signature", "issuer"):
        _, _, at = _field(der, at)
    _, at, _ = _field(der, at)  # From when on and until when it is valid.
    _, _, at = _field(der, at)
    kind, at, end = _field(der, at)
    text = der[at:end].decode("ascii")
    if kind == _UTC_TIME:
        # Two digits for the year; later ones have four.
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _field(der: bytes, at: int) -> tuple[int, int, int]:
    """Return (kind, where its content begins, where it ends) of the field at a place."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin])
    return der[at], begin, begin + length
