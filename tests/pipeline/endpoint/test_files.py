"""The files of the port of metrics and probes: renewed in place, wrong, and as commands find them."""

import json
import logging
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.connectors.door import Door
from pipeline.errors import ConfigError
from pipeline.metrics_settings import MetricsSettings
from tests.certificates import Authority
from tests.commands import configured, only_line
from tests.endpoints import RIGHT, USER, ask, is_told, login


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
