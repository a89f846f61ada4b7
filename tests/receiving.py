"""Receivers of alerts for tests: an HTTP server whose answers are as told, and a real Alertmanager."""

import json
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from pipeline.connectors.embedded import free_port

MISSING = "prometheus-alertmanager is missing; it and amtool come with: apt-get install prometheus-alertmanager"
_START_S = 60.0


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Port of who sent it: the same for requests over one connection."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    hangs: bool = False
    """Says nothing before the server closes."""
    drips: bool = False
    """Sends a byte of its headers now and then, without end."""
    hangs_up: bool = False
    """Closes the connection behind the answer, without a word about it."""


_TAKEN = Reply()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who left in the middle: that is what tests are about."""


class Hook:
    """A server on loopback. Requests are answered by `replies` in turn, then by `usual`."""

    def __init__(
        self, replies: Iterable[Reply] = (), usual: Reply = _TAKEN, tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.replies, self.usual = list(replies), usual
        self._closing = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are written one by one, and the second would wait for the first's acknowledgement.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                made = Request(self.path, dict(self.headers), body, self.client_address[1])
                hook.requests.append(made)
                hook._answer(self, hook.replies.pop(0) if hook.replies else hook.usual)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        if tls is not None:
            # The handshake is made on the thread of the connection, which may fail it.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.hangs:
            self._closing.wait(_START_S)
            return
        if reply.drips:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self._closing.wait(0.05):
                try:
                    handler.wfile.write(b".")
                except OSError:
                    return
            return
        handler.send_response(reply.status)
        for name, text in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(reply.body)
        handler.close_connection = reply.hangs_up


class AlertmanagerProcess:
    """A real Alertmanager on loopback, that forgets all when it is started again."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("prometheus-alertmanager") is None:
            pytest.skip(MISSING)
        self._folder, self._port, self._starts = folder, free_port(), 0
        self.url = f"http://127.0.0.1:{self._port}"
        # Nobody is paged by it; resolved alerts are kept for as long as it takes to ask.
        (folder / "am.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._starts += 1
        self._log = (self._folder / "am.log").open("ab")
        storage = self._folder / f"storage-{self._starts}"
        self._process = subprocess.Popen(
            [
                "prometheus-alertmanager",
                f"--config.file={self._folder / 'am.yml'}",
                f"--storage.path={storage}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--cluster.listen-address=",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        until_ready(self._process, self.url, self._folder / "am.log")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
        self._log.close()

    def firing(self) -> list[dict[str, Any]]:
        """Return the alerts that amtool lists as active."""
        return self._amtool("alert", "query", "--active")

    def _amtool(self, *arguments: str) -> list[dict[str, Any]]:
        asked = ["amtool", f"--alertmanager.url={self.url}", "-o", "json", *arguments]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def until(what: Callable[[], bool], otherwise: str = "it did not get there in time") -> None:
    """Wait for something that another process or thread does."""
    deadline_s, pause = time.monotonic() + _START_S, threading.Event()
    while not what():
        assert time.monotonic() < deadline_s, otherwise
        pause.wait(0.05)


def until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait for a server of the Prometheus project; where it ends instead, fail with the end of its log."""

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    until(is_ready, f"nothing is ready at {url}; what it said is in {log}")
