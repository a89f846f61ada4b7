"""Requests to a real server on loopback: one connection, one deadline, and no redirect to strangers."""

import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from pipeline.connectors.embedded import free_port
from pipeline.connectors.http_post import HttpPost
from pipeline.errors import ConfigError, TransientError
from tests.receiving import Hook, Reply

NOW_S = 1_700_000_000.0


def post_to(url: str, **changes: float) -> HttpPost:
    return HttpPost(
        url, lambda: NOW_S, timeout_s=changes.get("timeout_s", 10.0), headers={"Authorization": "Bearer x"}
    )


def test_a_request_arrives_as_it_was_sent_and_the_connection_is_kept() -> None:
    with Hook() as hook:
        post = post_to(f"{hook.url}/some/path?team=a")
        for body in (b"one", b"two"):
            answer = post.post(body, {"Content-Type": "text/plain"})
            assert (answer.status, answer.text) == (200, "ok")
        first, second = hook.requests
        assert (first.path, first.body, second.body) == ("/some/path?team=a", b"one", b"two")
        assert first.headers["Authorization"] == "Bearer x"
        assert first.headers["Content-Type"] == "text/plain"
        assert first.connection == second.connection
        post.close()


def test_a_connection_that_was_closed_meanwhile_is_opened_anew() -> None:
    with Hook([Reply(hangs_up=True)]) as hook:
        post = post_to(hook.url)
        assert [post.post(b"x", {}).status for _ in range(2)] == [200, 200]
        assert len({request.connection for request in hook.requests}) == 2
        post.close()


def test_a_long_answer_is_read_to_its_beginning() -> None:
    with Hook([Reply(500, body=b"y" * 10_000_000)]) as hook:
        post = post_to(hook.url)
        assert len(post.post(b"x", {}).text) == 4096
        assert post.post(b"x", {}).status == 200
        post.close()


@pytest.mark.parametrize("reply", [Reply(hangs=True), Reply(drips=True)], ids=["hangs", "drips"])
def test_who_does_not_answer_in_time_is_left(reply: Reply) -> None:
    with Hook([reply]) as hook:
        post = post_to(hook.url, timeout_s=0.5)
        began_s = time.monotonic()
        with pytest.raises(TransientError, match=r"^127\.0\.0\.1:\d+: no answer within 0\.5 s$"):
            post.post(b"x", {})
        assert time.monotonic() - began_s < 10
        assert post.post(b"x", {}).status == 200
        post.close()


def test_nobody_there_is_a_line() -> None:
    with pytest.raises(TransientError, match=r"^127\.0\.0\.1:\d+: cannot be reached \(Connection refused\)$"):
        post_to(f"http://127.0.0.1:{free_port()}").post(b"x", {})


def test_a_redirect_is_followed_on_the_same_host_only() -> None:
    with Hook() as stranger, Hook() as hook:
        moved = Reply(307, {"Location": "/new?x=1"})
        away = Reply(307, {"Location": f"{stranger.url}/new"})
        for reply, location in ((moved, ""), (away, f"127.0.0.1:{stranger.port}")):
            hook.replies.append(reply)
            answer = post_to(hook.url).post(b"x", {})
            assert (answer.status, answer.redirects_to) == (200 if not location else 307, location)
        assert [request.path for request in hook.requests] == ["/", "/new?x=1", "/"]
        assert hook.requests[1].body == b"x"
        assert stranger.requests == []


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_turns_a_post_into_a_get_is_not_followed(status: int) -> None:
    with Hook([Reply(status, {"Location": "/new"})]) as hook:
        answer = post_to(hook.url).post(b"x", {})
        assert (answer.status, answer.redirects_to) == (status, f"127.0.0.1:{hook.port}")
        assert len(hook.requests) == 1


def test_redirects_without_end_are_not_followed_without_end() -> None:
    with Hook(usual=Reply(308, {"Location": "/"})) as hook:
        assert "again and again" in post_to(hook.url).post(b"x", {}).redirects_to
        assert len(hook.requests) == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (format_datetime(datetime.fromtimestamp(NOW_S + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW_S - 90, UTC), usegmt=True), 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_how_long_to_wait_may_be_a_number_or_a_date(text: str, seconds: float | None) -> None:
    with Hook([Reply(429, {"Retry-After": text})]) as hook:
        assert post_to(hook.url).post(b"x", {}).retry_after_s == seconds


def test_what_is_no_http_is_a_line(tls_hook: tuple[str, Path]) -> None:
    url, _ = tls_hook
    with pytest.raises(TransientError, match=r"no answer of HTTP|cannot be reached"):
        post_to(url.replace("https", "http")).post(b"x", {})


def test_a_certificate_is_checked(tls_hook: tuple[str, Path], tmp_path: Path) -> None:
    url, certificate = tls_hook
    trusting = HttpPost(url, lambda: NOW_S, ca_file=str(certificate))
    assert trusting.post(b"x", {}).status == 200
    trusting.close()
    with pytest.raises(TransientError, match=r"its certificate is not trusted \(self.signed certificate\)"):
        HttpPost(url, lambda: NOW_S).post(b"x", {})
    with pytest.raises(TransientError, match=r"its certificate is not trusted .*mismatch"):
        HttpPost(url.replace("127.0.0.1", "localhost"), lambda: NOW_S, ca_file=str(certificate)).post(b"x", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        HttpPost(url, lambda: NOW_S, ca_file=str(tmp_path / "none.pem"))
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="holds no certificate"):
        HttpPost(url, lambda: NOW_S, ca_file=str(tmp_path / "empty.pem"))


@pytest.fixture
def tls_hook(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server with a certificate of its own for 127.0.0.1, and that certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=hook", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Hook(tls=context) as hook:
        yield hook.url, certificate
