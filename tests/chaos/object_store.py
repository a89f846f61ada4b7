"""An object store on loopback that speaks as much of S3 as `ObjectStorage` asks for, and fails when it is told to.

It is no judge of what S3 does: `tests.buckets` is, and both are held to `tests/contracts/test_storage.py`. This one
is there to fail, to hang and to be full in the midst of a worker's requests. The objects live in this process;
workers reach them as they reach a real bucket, over HTTP.
"""

import hashlib
import re
import sys
import threading
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "chaos"
_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_MODIFIED_S = 1_700_000_000
"""One time for all objects: nothing of ours looks at it."""

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class LoopbackStore:
    """Serves one bucket until `close`; each of `failing`, `full` and `delay_s` may change at any time."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failing = False
        """Every request is answered with an error of the server's."""
        self.full = False
        """Nothing can be written, all can be read."""
        self.writes_over = False
        """Conditions are passed over, as early stores of this kind do."""
        self.delay_s = 0.0
        """So long each request waits before it is worked on."""
        self.written: Callable[[str], None] = lambda name: None
        """Called with the name of what was written, before its writer is told; on any thread."""
        self.lock = threading.Lock()
        self._healed = threading.Event()
        bound = type("Handler", (_Handler,), {"store": self})
        self._server = _Server(("127.0.0.1", 0), bound)
        threading.Thread(target=self._server.serve_forever, name="object store", daemon=True).start()

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/offkey"

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells the client where the bucket is."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    def heal(self) -> None:
        """Work again, also on the requests that wait."""
        self.failing = self.full = False
        self.delay_s = 0.0
        self._healed.set()
        self._healed = threading.Event()

    def wait(self) -> None:
        if self.delay_s:
            self._healed.wait(self.delay_s)

    def close(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    store: LoopbackStore
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """An answer's body else waits 40 ms for its head to be acknowledged."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if not self._begin():
            return
        query = parse_qs(asked.query)
        if "list-type" in query:
            self._answer(200, self._listing(query.get("prefix", [""])[0]))
            return
        with self.store.lock:
            content = self.store.objects.get(self._name())
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif asked_for := _RANGE.fullmatch(self.headers.get("Range") or ""):
            start, last = int(asked_for[1]), min(int(asked_for[2]), len(content) - 1)
            headers = {"ETag": _etag(content), "Last-Modified": formatdate(_MODIFIED_S, usegmt=True)}
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            self._answer(206, content[start : last + 1], **headers)
        else:
            self._answer(
                200, content, ETag=_etag(content), **{"Last-Modified": formatdate(_MODIFIED_S, usegmt=True)}
            )

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self._body()
        if not self._begin():
            return
        if self.store.full:
            self._answer(507, b"<Error><Code>InsufficientStorage</Code></Error>")
            return
        with self.store.lock:
            there = self._name() in self.store.objects
            if refused := there and not self.store.writes_over and self.headers.get("If-None-Match") == "*":
                pass
            else:
                self.store.objects[self._name()] = content
        if refused:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        else:
            self.store.written(self._name())
            self._answer(200, b"", ETag=_etag(content))

    def do_DELETE(self) -> None:
        if not self._begin():
            return
        with self.store.lock:
            self.store.objects.pop(self._name(), None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        """Delete many at once."""
        asked = ElementTree.fromstring(self._body())
        if not self._begin():
            return
        names = [found.text or "" for found in asked.iter() if found.tag.rpartition("}")[2] == "Key"]
        with self.store.lock:
            for name in names:
                self.store.objects.pop(name, None)
        deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in names)
        self._answer(200, f"{_XML}<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _begin(self) -> bool:
        self.store.wait()
        if self.store.failing:
            self._answer(500, b"<Error><Code>InternalError</Code></Error>")
            return False
        return True

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _listing(self, prefix: str) -> bytes:
        with self.store.lock:
            found = {name: content for name, content in self.store.objects.items() if name.startswith(prefix)}
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size><ETag>{escape(_etag(content))}</ETag>"
            "<LastModified>2023-11-14T22:13:20.000Z</LastModified></Contents>"
            for name, content in sorted(found.items())
        )
        return (
            f"{_XML}<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{contents}"
            "</ListBucketResult>"
        ).encode()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        try:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            # Whoever asked was killed meanwhile, or has given up waiting.
            self.close_connection = True


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
