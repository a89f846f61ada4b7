"""The one small server of a process, for its metrics and its probes: `/metrics`, `/healthz` and `/readyz`.

A probe answers with JSON: the verdict, the reasons and some facts, 200 where all is well and 503 where not.

**Who is told what.** TLS is of the port. A password and a client's certificate are asked for by `/metrics` alone:
the kubelet has no certificate to show, and a probe that is refused since a password was changed would restart a
worker that does well. So the probes refuse nobody, and who lacks what `/metrics` asks for is told the verdict of a
probe and nothing else: reasons name topics, brokers and users.

**Whoever is slow waits alone.** Each connection has a thread, on which TLS is agreed on too. There may be so many
of them: more would take the process' descriptors. Who comes when all places are taken gets that of another one: of
those that have not said yet what they want the one that has been there longest, else of those that are answered. A
probe says at once what it wants and takes its answer, so whoever holds all places on purpose keeps none out. What a
client does wrong is said at level `debug`, for anybody can make lines of it.
"""

import io
import json
import logging
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any, Protocol, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer, make_server

from pipeline import metrics
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from pipeline.health import Health

logger = logging.getLogger(__name__)

PATHS = ("/metrics", "/healthz", "/readyz")
_REQUEST_S = 10.0
"""How long a client may take to agree on TLS, and then to say what it wants."""
_AT_ONCE = 64
"""Connections; a Prometheus and two probes have a few."""
_LEAVING_S = 1.0
"""How long one that has to go may take, before who comes for its place is sent away."""
_HANDSHAKE = b"\x16"
"""How a connection begins that is to be encrypted."""
_IN_CLEAR = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nThis port speaks HTTPS.\n"
_ODD_VERSION = re.compile(r"version=(?!\d+(\.\d+)*\s*(?:[;,]|$))")
"""Of a format, in an `Accept`: the client that writes metrics fails on one that is no numbers."""
_CERTIFIED = "offkey.certified"
_LONGEST_LINE = 65_536
_ASKED = {"401": "a user and a password are asked for", "403": "a client's certificate is asked for"}


class Door(Protocol):
    """Who is let in; see `pipeline.connectors.door`. Asked by several threads."""

    def tls(self) -> ssl.SSLContext | None:
        """Return what the next connection is encrypted with; None: with nothing."""

    def refusal(self, authorization: str, certified: bool) -> str | None:
        """Return the status that refuses who shows no more than this; None: it is let in."""


def serve(host: str, port: int, health: "Health", door: Door, key: str = "metrics.port") -> int:
    """Serve the three paths; return the port, which is a free one where 0 was asked for.

    Raises:
        ConfigError: the address cannot be bound.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = type("Server", (_Server,), {"address_family": family})
        server: _Server = make_server(str(address[0]), port, _application(health, door), bound, _Handler)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {host}:{port} ({error.strerror}); set `metrics.host` and `{key}`"
        ) from error
    server.door = door
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return int(server.server_port)


def _application(health: "Health", door: Door) -> Callable[..., Iterable[bytes]]:
    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in PATHS:
            return _answer(start_response, "404 Not Found", {"paths": PATHS})
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", {"methods": ["GET", "HEAD"]})
        refused = door.refusal(environ.get("HTTP_AUTHORIZATION", ""), environ[_CERTIFIED])
        if path != "/metrics":
            well, facts = health.alive() if path == "/healthz" else health.ready()
            if refused:
                facts = {"alive" if path == "/healthz" else "ready": well}
            body: Iterable[bytes] = _answer(start_response, "200 OK" if well else "503 Service Unavailable", facts)
        elif refused:
            asked = [("WWW-Authenticate", 'Basic realm="offkey"')] if refused.startswith("401") else []
            body = _answer(start_response, refused, {"why": _ASKED[refused[:3]]}, asked)
        else:
            asked_for = environ.get("HTTP_ACCEPT", "")
            if _ODD_VERSION.search(asked_for):
                asked_for = ""
            # That one answers GET alone.
            body = metrics.EXPOSITION(
                {**environ, "REQUEST_METHOD": "GET", "HTTP_ACCEPT": asked_for}, start_response
            )
        return body if environ["REQUEST_METHOD"] == "GET" else ()

    return application


def _answer(
    start_response: "StartResponse", status: str, facts: dict[str, Any], headers: Sequence[tuple[str, str]] = ()
) -> Sequence[bytes]:
    content = json.dumps(facts).encode() + b"\n"
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    start_response(status, [*own, *headers])
    return [content]


@dataclass(eq=False)
class _Guest:
    """A connection that is served."""

    handle: socket.socket
    """The connection once more: its own descriptor is closed at any time, and may be another one's then."""
    heard: bool = False
    """It has said what it wants."""
    leaving: bool = False


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = _AT_ONCE
    door: Door

    def __init__(self, *given: Any) -> None:
        self._guests: dict[Any, _Guest] = {}
        """By the socket that was accepted, in the order in which they came."""
        self._changed, self._own = threading.Condition(), threading.local()
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._enter(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be begun, to do so at its end.
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._own.guest = self._guests[request]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def note_heard(self) -> None:
        """Take note that the connection of this thread has said what it wants."""
        self._own.guest.heard = True

    def _enter(self, request: Any) -> bool:
        """Give a connection a place; return False where there is none, and nobody goes."""
        with self._changed:
            if len(self._guests) >= _AT_ONCE:
                self._send_one_away()
                if not self._changed.wait_for(lambda: len(self._guests) < _AT_ONCE, _LEAVING_S):
                    return False
            self._guests[request] = _Guest(request.dup())
        return True

    def _send_one_away(self) -> None:
        staying = [guest for guest in self._guests.values() if not guest.leaving]
        going = next((guest for guest in staying if not guest.heard), staying[0] if staying else None)
        if going is not None:
            going.leaving = True
            # Whatever its thread waits for is over by that, unless the client was quicker.
            with suppress(OSError):
                going.handle.shutdown(socket.SHUT_RDWR)

    def _leave(self, request: Any) -> None:
        with self._changed:
            self._guests.pop(request).handle.close()
            self._changed.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        tls = self.door.tls()
        if tls is None:
            return super().finish_request(request, client_address)
        request.settimeout(_REQUEST_S)
        first = request.recv(1, socket.MSG_PEEK)
        if first == _HANDSHAKE:
            with tls.wrap_socket(request, server_side=True) as encrypted:
                super().finish_request(encrypted, client_address)
        elif first:
            # Read before, or closing would take the answer away.
            request.recv(_LONGEST_LINE)
            request.sendall(_IN_CLEAR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _tell(sys.exc_info()[1], client_address)


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Within(self.connection, _REQUEST_S))

    def handle(self) -> None:
        """Answer one request, as the class above does, but that `_Answering` says what goes wrong."""
        self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
        if len(self.raw_requestline) > _LONGEST_LINE:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif self.parse_request():
            self.server.note_heard()
            self.connection.settimeout(_REQUEST_S)
            answering = _Answering(self.rfile, cast(IO[bytes], self.wfile), sys.stderr, self.get_environ())
            answering.request_handler = self
            application = self.server.get_app()
            assert application is not None
            answering.run(application)

    def get_environ(self) -> "WSGIEnvironment":
        encrypted = self.connection if isinstance(self.connection, ssl.SSLSocket) else None
        # Of a certificate that is not trusted no connection comes about.
        return {**super().get_environ(), _CERTIFIED: encrypted is not None and bool(encrypted.getpeercert())}

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe comes every few seconds."""


class _Within(io.RawIOBase):
    """What a client says, all of it within one time: that of a socket begins anew with each byte."""

    def __init__(self, connection: socket.socket, most_s: float) -> None:
        super().__init__()
        self._connection, self._until_s = connection, time.monotonic() + most_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it has not said in time what it wants")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)


class _Answering(ServerHandler):
    request_handler: _Handler
    """What the base class asks for."""

    def log_exception(
        self, exc_info: "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]"
    ) -> None:
        _tell(exc_info[1], self.request_handler.client_address)


def _tell(error: BaseException | None, client_address: Any) -> None:
    if isinstance(error, OSError):
        logger.debug("%s: %s", client_address[0], error)
    else:
        logger.error("a question of %s is not answered", client_address[0], exc_info=error)
