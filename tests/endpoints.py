"""The port of metrics and probes, asked as Prometheus and a kubelet do."""

import base64
import json
import ssl
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def facts(self) -> Any:
        return json.loads(self.text)


def login(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def ask(
    port: int, path: str, authorization: str | None = None, ca: Path | None = None, own: Path | None = None
) -> Answer:
    """Ask over TLS where there is a `ca` to trust, with a certificate of our `own` where there is one."""
    if ca is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
    else:
        context = ssl.create_default_context(cafile=ca)
        if own is not None:
            context.load_cert_chain(own)
        connection = HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    with closing(connection):
        connection.request("GET", path, headers={} if authorization is None else {"Authorization": authorization})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(), dict(answer.headers))


USER, PASSWORD = "prometheus", "planted-4711: it may hold colons"
RIGHT = login(USER, PASSWORD)


def is_told(answer: Answer) -> bool:
    return answer.status == 200 and "# TYPE offkey_lag_records gauge" in answer.text
