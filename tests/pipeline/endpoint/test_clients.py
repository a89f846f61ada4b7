"""The port of metrics and probes: clients that are silent, drip, or hold all places keep nobody out."""

import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.connectors.door import Door
from pipeline.endpoint import serve
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.endpoints import ask, is_told


def test_who_is_silent_holds_nobody_up(
    opened: Callable[..., int],
    authority: Authority,
    certificate: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("pipeline.endpoint._REQUEST_S", 1.0)
    port = opened(certificate_file=certificate)
    hello = ssl.MemoryBIO()
    begun = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        begun.do_handshake()
    with ExitStack() as held:
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(8)]
        for each in silent[4:]:
            each.sendall(hello.read(40) or b"\x16\x03")
        assert is_told(ask(port, "/metrics", ca=authority.certificate))
        for each in silent:
            # They are let go, each when its time is over.
            each.settimeout(5)
            assert each.recv(100) is not None
    assert caplog.records == []


@pytest.mark.parametrize("encrypted", [False, True])
def test_who_drips_is_let_go(
    encrypted: bool,
    opened: Callable[..., int],
    authority: Authority,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.endpoint._REQUEST_S", 1.0)
    port = opened(**({"certificate_file": certificate} if encrypted else {}))
    with ExitStack() as held:
        each = held.enter_context(socket.create_connection(("127.0.0.1", port)))
        if encrypted:
            context = ssl.create_default_context(cafile=authority.certificate)
            each = held.enter_context(context.wrap_socket(each, server_hostname="127.0.0.1"))
        each.settimeout(0.2)
        each.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        for _ in range(25):
            try:
                each.sendall(b"x")
                assert each.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                # Gone with what it had not read.
                pass
            return
    raise AssertionError("it is waited for as long as it says something")


def knocking(port: int, said: bytes) -> socket.socket:
    """Return a connection that says so much, and takes little of an answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    connection.connect(("127.0.0.1", port))
    connection.sendall(said)
    return connection


def rest(connection: socket.socket) -> int:
    """Return how many bytes come yet, until the other side has gone."""
    count = 0
    try:
        while more := connection.recv(1 << 20):
            count += len(more)
    except ConnectionError:
        # Gone with what it had not read.
        pass
    return count


@pytest.mark.parametrize("encrypted", [False, True])
def test_who_holds_all_places_keeps_no_probe_out(
    encrypted: bool, opened: Callable[..., int], authority: Authority, certificate: Path
) -> None:
    port = opened(**({"certificate_file": certificate} if encrypted else {}))
    ca = authority.certificate if encrypted else None
    with ExitStack() as held:
        silent = [held.enter_context(knocking(port, b"\x16" if encrypted else b"GET")) for _ in range(64)]
        for more in range(3):
            # At the first try, each in the place of the one that has been there longest.
            assert ask(port, "/healthz", ca=ca).status == 200
            assert rest(silent[more]) == 0
            silent.append(held.enter_context(knocking(port, b"\x16")))
        for _ in range(100):
            silent.append(held.enter_context(knocking(port, b"\x16")))
        # No more are served than there are places.
        for each in silent[3:-64]:
            assert rest(each) == 0
        assert is_told(ask(port, "/metrics", ca=ca))


class Talkative:
    """A loop that has much to tell."""

    turned_s, stopping, trouble, joined = 0.0, False, "", True

    def facts(self) -> dict[str, object]:
        return {"told": "x" * (1 << 23)}

    def missing(self) -> list[str]:
        return []

    def unfinished(self) -> str:
        return ""


def test_who_is_answered_goes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.endpoint._AT_ONCE", 4)
    port = serve("127.0.0.1", 0, Health(60.0, lambda: 0.0, worker=Talkative()), Door(MetricsSettings()))
    asked = b"GET /readyz HTTP/1.0\r\n\r\n"
    with ExitStack() as held:
        answered = [held.enter_context(knocking(port, asked)) for _ in range(3)]
        # What they wanted is known when the first byte is there; the others wait for them to read.
        assert [each.recv(1) for each in answered] == [b"H"] * 3
        silent = held.enter_context(knocking(port, b"GET"))
        assert ask(port, "/healthz").status == 200
        assert rest(silent) == 0
        answered.append(held.enter_context(knocking(port, asked)))
        assert answered[3].recv(1) == b"H"
        assert ask(port, "/healthz").status == 200
        assert rest(answered[0]) < 1 << 23
        assert all(rest(each) > 1 << 23 for each in answered[1:])
