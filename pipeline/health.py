"""The probes of a worker, and the one small server for them and its metrics.

`/healthz` says whether the loop turns, `/readyz` whether the worker does its work now: a member of its group, with
the state of every partition in place and replayed, and nothing that makes it try again. Both look at the worker
itself at each question; nothing is set to "ready" in advance. A member that owns no partition, for its group has
more members than partitions, is ready: it takes over at once, and a rollout that waits for it would wait for ever.

The answer is JSON with the reasons, 200 where all is well and 503 where not.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from pipeline import metrics
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from pipeline.worker import Worker

_REQUEST_S = 10.0
"""How long a client may take to say what it wants."""
_MOST_NAMED = 20
"""Reasons in one answer."""


@dataclass
class Health:
    """What the probes answer. Asked on threads of its server; it only reads what the worker's thread writes."""

    turn_limit_s: float
    """How old the loop's last turn may be: longer than any that is legal, with its restoring and waiting."""
    clock: Callable[[], float] = time.monotonic
    worker: "Worker | None" = None
    """Set as soon as it is built: then its models are loaded, and the cluster has answered once."""
    _begun_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun_s = self.clock()

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether the loop turns, with the facts."""
        age_s = self._turn_age_s()
        facts: dict[str, Any] = {"alive": age_s <= self.turn_limit_s, "last_turn_s": round(age_s, 3)}
        facts |= {"limit_s": self.turn_limit_s, "why": [] if facts["alive"] else [self._stuck(age_s)]}
        return facts["alive"], facts

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether records are scored, with what is missing."""
        if self.worker is None:
            return False, {"ready": False, "why": ["starting: models and cluster are waited for"]}
        why = list(self._missing(self.worker))
        progress = self.worker.partitions.progress.copy()
        facts = {
            "ready": not why,
            "why": why[:_MOST_NAMED],
            "models": {lane.name: lane.model_version for lane in self.worker.lanes},
            "partitions_assigned": len(self.worker.partitions.assigned),
            "partitions_restored": len(progress),
        }
        return not why, facts

    def _missing(self, worker: "Worker") -> Iterable[str]:
        age_s = self._turn_age_s()
        if age_s > self.turn_limit_s:
            yield self._stuck(age_s)
        if worker.stopping:
            yield "stopping"
        if worker.trouble:
            yield f"trying again: {worker.trouble}"
        if not worker.joined:
            yield "no member of the group yet, or its coordinator does not answer"
        progress = worker.partitions.progress.copy()
        for partition in sorted(worker.partitions.assigned):
            place, at = f"{partition.topic}/{partition.partition}", progress.get(partition)
            if at is None:
                yield f"{place}: its state is not restored yet"
            elif at.next_offset < at.publish_from:
                yield f"{place}: replays {at.publish_from - at.next_offset} records to restore its state"

    def _turn_age_s(self) -> float:
        turned_s = None if self.worker is None else self.worker.turned_s
        return self.clock() - (self._begun_s if turned_s is None else turned_s)

    def _stuck(self, age_s: float) -> str:
        return f"the loop has not turned for {age_s:.0f} s, and may take {self.turn_limit_s:.0f} s"


def serve(host: str, port: int, health: Health) -> int:
    """Serve `/metrics`, `/healthz` and `/readyz`; return the port, which is a free one where 0 was asked for.

    Raises:
        ConfigError: the address cannot be bound.
    """

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/metrics", "/healthz", "/readyz"):
            return _answer(start_response, "404 Not Found", {"paths": ["/metrics", "/healthz", "/readyz"]})
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", {"methods": ["GET", "HEAD"]})
        if path == "/metrics":
            body: Iterable[bytes] = metrics.EXPOSITION(environ, start_response)
        else:
            well, facts = health.alive() if path == "/healthz" else health.ready()
            body = _answer(start_response, "200 OK" if well else "503 Service Unavailable", facts)
        return body if environ["REQUEST_METHOD"] == "GET" else ()

    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = type("Server", (_Server,), {"address_family": family})
        server: WSGIServer = make_server(str(address[0]), port, application, bound, _Handler)
    except OSError as error:
        raise ConfigError(
            f"metrics: cannot listen on {host}:{port} ({error.strerror}); set `metrics.host` and `metrics.port`"
        ) from error
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    return int(server.server_port)


def _answer(start_response: "StartResponse", status: str, facts: dict[str, Any]) -> Sequence[bytes]:
    content = json.dumps(facts).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe comes every few seconds."""
