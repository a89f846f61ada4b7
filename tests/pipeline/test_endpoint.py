"""The port of metrics and probes: who is let in over what, who is told what, and who can hold nobody up."""

import json
import logging
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.door import Door
from pipeline.endpoint import serve
from pipeline.errors import ConfigError
from pipeline.health import Health
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.commands import configured, only_line
from tests.endpoints import Answer, ask, login

USER, PASSWORD = "prometheus", "planted-4711: it may hold colons"
RIGHT = login(USER, PASSWORD)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Path:
    return authority.sign("metrics", ["127.0.0.1"])


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture
def opened() -> Callable[..., int]:
    """Serve what a process that starts says, by these keys of `metrics`; return the port."""

    def begin(**metrics: Any) -> int:
        given = {key: str(value) if isinstance(value, Path) else value for key, value in metrics.items()}
        return serve("127.0.0.1", 0, Health(60.0), door=Door(MetricsSettings.model_validate(given)))

    return begin


@pytest.fixture(autouse=True)
def nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """What clients do wrong leaves no traceback, and no secret."""
    yield
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert "planted" not in said


def is_told(answer: Answer) -> bool:
    return answer.status == 200 and "# TYPE offkey_lag_records gauge" in answer.text


def test_it_is_served_over_tls(opened: Callable[..., int], authority: Authority, certificate: Path) -> None:
    port = opened(certificate_file=certificate)
    assert is_told(ask(port, "/metrics", ca=authority.certificate))
    # Nothing is asked for there, so nothing is kept back.
    assert "why" in ask(port, "/readyz", ca=authority.certificate).facts
    for path in ("/metrics", "/healthz"):
        answer = ask(port, path)
        assert (answer.status, answer.text) == (400, "This port speaks HTTPS.\n")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic !",
        "Basic é",
        f"Bearer {PASSWORD}",
        RIGHT.removeprefix("Basic "),
        login(USER, ""),
        login(USER, PASSWORD[:-1]),
        login(USER, f"{PASSWORD}x"),
        login(USER, PASSWORD.upper()),
        login("somebody", PASSWORD),
        login("", f"{USER}:{PASSWORD}"),
    ],
)
def test_who_has_no_password_is_told_a_verdict_only(
    authorization: str | None, opened: Callable[..., int], authority: Authority, certificate: Path, password: Path
) -> None:
    port = opened(certificate_file=certificate, username=USER, password_file=password)
    refused = ask(port, "/metrics", authorization, authority.certificate)
    assert (refused.status, refused.facts) == (401, {"why": "a user and a password are asked for"})
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="offkey"'
    for path, told in (("/healthz", (200, {"alive": True})), ("/readyz", (503, {"ready": False}))):
        answer = ask(port, path, authorization, authority.certificate)
        assert (answer.status, answer.facts) == told


@pytest.mark.parametrize("scheme", ["Basic", "basic"])
def test_who_has_it_is_told_all(
    scheme: str, opened: Callable[..., int], authority: Authority, certificate: Path, password: Path
) -> None:
    port, right = opened(certificate_file=certificate, username=USER, password_file=password), RIGHT
    right = right.replace("Basic", scheme)
    assert is_told(ask(port, "/metrics", right, authority.certificate))
    assert ask(port, "/readyz", right, authority.certificate).facts["why"]
    assert "limit_s" in ask(port, "/healthz", right, authority.certificate).facts


def test_a_password_may_be_taken_in_clear(opened: Callable[..., int]) -> None:
    port = opened(username="prométheus", password="0123", in_clear=True)
    assert ask(port, "/metrics").status == 401
    assert is_told(ask(port, "/metrics", login("prométheus", "0123")))


def test_a_certificate_is_asked_for_by_metrics_alone(
    opened: Callable[..., int], authority: Authority, certificate: Path, password: Path, tmp_path: Path
) -> None:
    ca, known = authority.certificate, authority.sign("client", ["client"])
    stranger = Authority(tmp_path, "stranger").sign("client", ["client"])
    expired = authority.sign("expired", ["client"], expired=True)
    port = opened(certificate_file=certificate, ca_file=ca)
    assert is_told(ask(port, "/metrics", ca=ca, own=known))
    refused = ask(port, "/metrics", ca=ca)
    assert (refused.status, refused.facts) == (403, {"why": "a client's certificate is asked for"})
    # As a kubelet asks: it has none.
    assert ask(port, "/healthz", ca=ca).facts == {"alive": True}
    assert "why" in ask(port, "/healthz", ca=ca, own=known).facts
    for wrong in (stranger, expired):
        with pytest.raises(OSError, match=r"(?i)alert|reset|EOF"):
            ask(port, "/metrics", ca=ca, own=wrong)
    # Where both are asked for, one is not enough.
    port = opened(certificate_file=certificate, ca_file=ca, username=USER, password_file=password)
    assert ask(port, "/metrics", RIGHT, ca).status == 403
    assert ask(port, "/metrics", None, ca, known).status == 401
    assert is_told(ask(port, "/metrics", RIGHT, ca, known))


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


def test_files_are_renewed_in_place(
    opened: Callable[..., int],
    authority: Authority,
    password: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    later = Authority(tmp_path, "later")
    served = tmp_path / "served.pem"
    served.write_bytes(authority.sign("served", ["127.0.0.1"]).read_bytes())
    port = opened(certificate_file=served, username=USER, password_file=password)
    assert is_told(ask(port, "/metrics", RIGHT, authority.certificate))

    served.write_text("half of it")
    for _ in range(3):
        assert is_told(ask(port, "/metrics", RIGHT, authority.certificate))
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"goes on with the files that it has read before: metrics.certificate_file: {served}: " in said

    served.write_bytes(later.sign("renewed", ["127.0.0.1"]).read_bytes())
    password.write_text("another\n")
    assert ask(port, "/metrics", RIGHT, later.certificate).status == 401
    assert is_told(ask(port, "/metrics", login(USER, "another"), later.certificate))
    with pytest.raises(ssl.SSLError, match=r"self-signed|unable to get"):
        ask(port, "/metrics", login(USER, "another"), authority.certificate)
    assert caplog.messages.count("the port of metrics has read its files again") == 1

    password.unlink()
    assert is_told(ask(port, "/metrics", login(USER, "another"), later.certificate))


_WITHOUT_DESCRIPTORS = """
import os, resource, shutil, sys
from pipeline.connectors.door import Door
from pipeline.metrics_settings import MetricsSettings

served, renewed = sys.argv[1:]
door = Door(MetricsSettings(certificate_file=served))
before = door.tls()
shutil.copy(renewed, served)
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
print(door.tls() is before, flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, most)
print(door.tls() is before, flush=True)
"""


def test_a_file_that_could_not_be_opened_for_a_while_is_read_all_the_same(
    authority: Authority, tmp_path: Path
) -> None:
    """Descriptors are out as it is renewed, which is no fault of the file, and it does not change again."""
    served = tmp_path / "served.pem"
    served.write_bytes(authority.sign("first", ["127.0.0.1"]).read_bytes())
    renewed = authority.sign("second", ["127.0.0.1"])
    asked = [sys.executable, "-c", _WITHOUT_DESCRIPTORS, str(served), str(renewed)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("version", ["abc", "1.x", "1.0.0"])
def test_a_format_of_no_known_version_is_no_bug(
    version: str, opened: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"Accept": f"application/openmetrics-text;version={version};q=0.5,*/*;q=0.1"}
    with closing(HTTPConnection("127.0.0.1", opened(), timeout=5)) as connection:
        connection.request("GET", "/metrics", headers=asked)
        answer = connection.getresponse()
        assert answer.status == 200
        assert ("openmetrics" in answer.headers["Content-Type"]) == (version == "1.0.0")
    assert caplog.records == []


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_a_head_is_a_get_without_a_body(path: str, opened: Callable[..., int]) -> None:
    with closing(HTTPConnection("127.0.0.1", opened(), timeout=5)) as connection:
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")


def test_what_is_a_bug_is_told(
    opened: Callable[..., int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = opened()
    monkeypatch.setattr(Health, "alive", lambda _: 1 / 0)
    assert ask(port, "/healthz").status == 500
    (record,) = caplog.records
    assert record.getMessage() == "a question of 127.0.0.1 is not answered"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_wrong_file_is_a_line(authority: Authority, certificate: Path, password: Path, tmp_path: Path) -> None:
    hidden, other = authority.sign("hidden", ["a"], password="x"), authority.sign("other", ["a"])
    nowhere, text, two, umlaut, long = (tmp_path / name for name in ("nowhere", "text", "two", "umlaut", "long"))
    text.write_text("no certificate")
    two.write_text("planted\nplanted\n")
    umlaut.write_text("plantéd\n")
    long.write_text("planted" * 200)
    key = tmp_path / "key"
    key.write_text(other.read_text().partition("-----BEGIN CERTIFICATE-----")[0])
    tls = {"certificate_file": certificate}
    mistakes: list[tuple[dict[str, Path], str]] = [
        (
            {"certificate_file": nowhere},
            f"certificate_file: {nowhere} cannot be read (No such file",
        ),
        ({"certificate_file": tmp_path}, f"certificate_file: {tmp_path} cannot be read (Is a directory); name"),
        ({"certificate_file": text}, f"certificate_file: {text}: no certificate with its key can be read from"),
        (
            {"certificate_file": hidden},
            f"certificate_file: {hidden} is encrypted; name a file with its pass",
        ),
        # It can be opened, and not read: as one that goes in between.
        ({"certificate_file": Path("/proc/self/mem")}, "certificate_file: /proc/self/mem cannot be read (Input/"),
        (
            {"certificate_file": hidden, "key_password_file": long},
            "key_password_file: password cannot be longer than 1024 bytes; give the pass",
        ),
        ({**tls, "key_file": nowhere}, f"key_file: {nowhere} cannot be read (No such file"),
        ({**tls, "key_file": text}, f"key_file: {text}: no certificate with its key can be read from there"),
        ({**tls, "key_file": key}, f"key_file: {key} is not the key of {certificate}; name the one that is"),
        (
            {"certificate_file": hidden, "key_password_file": password},
            f"certificate_file: {hidden}: no certif",
        ),
        ({**tls, "ca_file": nowhere}, f"ca_file: {nowhere} cannot be read (No such file"),
        ({**tls, "ca_file": text}, f"ca_file: {text} holds no certificate; name a file in PEM"),
        ({**tls, "password_file": nowhere}, f"password_file: {nowhere} cannot be read (No such file"),
        ({**tls, "password_file": two}, f"password_file: {two} holds no line of plain text; write the"),
        (
            {**tls, "password_file": umlaut},
            f"password_file: {umlaut} holds no line of plain text; write the",
        ),
    ]
    for files, said in mistakes:
        given = {name: str(path) for name, path in files.items()}
        given |= {"username": USER} if "password_file" in files else {}
        settings = MetricsSettings.model_validate(given)
        with pytest.raises(ConfigError) as raised:
            Door(settings)
        line = str(raised.value)
        assert line.startswith(f"metrics.{said}"), line
        assert line.isprintable()
        assert "planted" not in line


@pytest.mark.parametrize("command", ["worker", "record", "schedule", "notify"])
def test_each_command_refuses_to_start_with_it(
    command: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    receivers = {"pager": {"type": "alertmanager", "url": "http://127.0.0.1:1"}}
    nowhere = str(tmp_path / "nowhere")
    config = configured(
        tmp_path, metrics={"port": 0, "certificate_file": nowhere}, notify={"port": 0, "receivers": receivers}
    )
    status, printed, errors = run(command, str(config))
    assert (status, printed) == (2, "")
    assert only_line(errors).startswith(f"metrics.certificate_file: {nowhere} cannot be read (No such file")


@pytest.mark.parametrize(("place", "ends_with"), [("1/0", 2), ("1/1", 1)])
def test_a_process_that_is_started_again_meanwhile_does_not_end_all(
    place: str, ends_with: int, tmp_path: Path
) -> None:
    half = tmp_path / "half.pem"
    half.write_text("half of it")
    config = configured(tmp_path, metrics={"port": 0, "certificate_file": str(half)})
    asked = ["worker", str(config), "--supervised", place]
    with subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *asked],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == ends_with
    assert only_line(said).startswith(f"metrics.certificate_file: {half}: no certificate with its key can be read")


def test_check_looks_at_the_files(
    run: Callable[..., tuple[int, str, str]], certificate: Path, password: Path, tmp_path: Path
) -> None:
    def row() -> tuple[str, str]:
        _, printed, _ = run("check", str(config), "--json")
        (found,) = [row for row in json.loads(printed) if row["what"] == "metrics"]
        return found["verdict"], found["found"]

    metrics = {"certificate_file": str(certificate), "username": USER, "password_file": str(password)}
    config = configured(tmp_path, metrics=metrics)
    assert row() == ("ok", "TLS, for prometheus by password")
    password.unlink()
    assert row() == ("wrong", f"metrics.password_file: {password} cannot be read (No such file or directory)")
