"""POST requests over one connection that is kept: the standard library's client, with what it lacks.

- **One deadline** for all of a request. The client's timeout is for each read: a receiver that sends a byte now and
  then would hold it for hours.
- A connection that the other side has closed meanwhile is opened anew at once; what is sent twice so is the same
  alert.
- A redirect is followed to the same scheme, host and port only, and as a POST (307 and 308): alerts and their keys
  go to nobody whom the configuration does not name.
- Of an answer's body only the beginning is read.
"""

import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

from pipeline.connectors.tls import trusting
from pipeline.errors import TransientError
from pipeline.receivers.answers import Answer

_READ_BYTES = 4096
_MOST_REDIRECTS = 3
_FOLLOWED = (307, 308)


class HttpPost:
    """Sends to one address; see `pipeline.receivers.answers.Post`. Used by one thread."""

    def __init__(
        self,
        url: str,
        now_s: Callable[[], float],
        *,
        timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        ca_key: str = "ca_file",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember the address; nothing is connected yet.

        Args:
            url: http:// or https://.
            now_s: the time of day, for a `Retry-After` that is a date.
            timeout_s: how long a request may take as a whole; the look-up of a host's name comes on top.
            headers: of every request.
            ca_file: certificates to trust in place of the system's; `ca_key` is what names them.
            clock: what deadlines are reckoned by.

        Raises:
            ConfigError: `ca_file` cannot be read, or holds no certificate.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None, "the settings have seen to it"
        self._origin = parts.scheme, parts.hostname, parts.port
        self._target = _target(url)
        self.host = parts.netloc
        self._timeout_s, self._now_s, self._clock = timeout_s, now_s, clock
        self._headers = {"User-Agent": "offkey", "Accept": "*/*", **(headers or {})}
        self._tls = trusting(ca_file, ca_key) if parts.scheme == "https" else None
        self._connection: _Plain | None = None

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        deadline_s = self._clock() + self._timeout_s
        target = self._target
        try:
            for _ in range(_MOST_REDIRECTS):
                response = self._asked(target, body, {**self._headers, **headers}, deadline_s)
                location = response.headers.get("Location", "")
                answer = self._answered(response)
                if not 300 <= answer.status < 400:
                    return answer
                where = urljoin(self._url(target), location)
                if answer.status not in _FOLLOWED or not location or _origin(where) != self._origin:
                    return Answer(answer.status, "", None, _host(where) or "nowhere")
                target = _target(where)
            return Answer(answer.status, "", None, f"{self.host}, again and again")
        except (OSError, HTTPException) as error:
            self.close()
            raise TransientError(f"{self.host}: {self._why(error)}") from error

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self, target: str, body: bytes, headers: Mapping[str, str], deadline_s: float) -> HTTPResponse:
        """Return the answer to one request, its body unread."""
        reused = self._connection is not None
        try:
            return self._ask(target, body, headers, deadline_s)
        except TimeoutError:
            raise
        except (ConnectionError, HTTPException):
            # The other side may close a connection that was idle, just as we use it.
            self.close()
            if not reused:
                raise
        return self._ask(target, body, headers, deadline_s)

    def _ask(self, target: str, body: bytes, headers: Mapping[str, str], deadline_s: float) -> HTTPResponse:
        left_s = deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        if self._connection is None:
            _, host, port = self._origin
            if self._tls is None:
                self._connection = _Plain(host, port, timeout=left_s)
            else:
                self._connection = _Secure(host, port, timeout=left_s, context=self._tls)
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._connection
        connection.response_class = cast(
            "type[HTTPResponse]",
            lambda sock, *args, **more: HTTPResponse(
                cast("socket.socket", _Until(sock, deadline_s, self._clock)), *args, **more
            ),
        )
        connection.sock.settimeout(max(deadline_s - self._clock(), 0.001))
        connection.request("POST", target, body, dict(headers))
        connection.sock.sendall(b"".join(connection.pieces))
        connection.pieces.clear()
        return connection.getresponse()

    def _answered(self, response: HTTPResponse) -> Answer:
        text = response.read(_READ_BYTES).decode("utf-8", "replace").strip()
        if response.will_close or response.read(1):
            self.close()
        return Answer(response.status, text, self._retry_after(response.headers.get("Retry-After", "")))

    def _retry_after(self, text: str) -> float | None:
        """Return the seconds that the header asks for, which may be a number or a date; None: it says nothing."""
        if text.strip().isdecimal():
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        return max(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - self._now_s(), 0.0)

    def _url(self, target: str) -> str:
        return f"{self._origin[0]}://{self.host}{target}"

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({error.verify_message}); is `ca_file` right?"
        if isinstance(error, OSError):
            return f"cannot be reached ({error.strerror or error})"
        return f"no answer of HTTP ({type(error).__name__})"


class _Plain(HTTPConnection):
    """Gathers a request: the client itself sends headers and body one by one, which takes twice as long."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.pieces: list[bytes] = []

    def send(self, data: Any) -> None:
        self.pieces.append(data)


class _Secure(_Plain, HTTPSConnection):
    """The same, over TLS."""


class _Until:
    """A socket as an answer reads it: nothing after the deadline."""

    def __init__(self, sock: socket.socket, deadline_s: float, clock: Callable[[], float]) -> None:
        self._sock, self._deadline_s, self._clock = sock, deadline_s, clock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Bounded(self._sock, self._deadline_s, self._clock))


class _Bounded(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline_s: float, clock: Callable[[], float]) -> None:
        self._sock, self._deadline_s, self._clock = sock, deadline_s, clock
        # Holds the socket open while the answer is read, though the connection may be closed before.
        self._inner = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._inner.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        return None


def _host(url: str) -> str:
    """Return whom a redirect names; its path may hold a secret."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return ""
