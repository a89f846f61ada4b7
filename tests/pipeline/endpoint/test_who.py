"""The port of metrics and probes: who is let in over what, and who is told what."""

from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pipeline.health import Health
from tests.certificates import Authority
from tests.endpoints import PASSWORD, RIGHT, USER, ask, is_told, login


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
