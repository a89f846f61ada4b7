"""Who is let in at the port of metrics is named without secrets in the configuration; each mistake is one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from tests.pipeline.configurations import check_secret_is_refused

TLS = {"certificate_file": "/x"}
LOGIN = {"username": "prometheus", "password_file": "/y"}


def write(tmp_path: Path, metrics: Any) -> Path:
    path = tmp_path / "offkey.yaml"
    path.write_text(json.dumps({"streams": {"machines": {"topic": "metrics"}}, "metrics": metrics}, indent=1))
    return path


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"key_file": "/x"}, "key_file: it needs a certificate_file; add that, or take it out"),
        ({"ca_file": "/x"}, "ca_file: it needs a certificate_file; add that, or take it out"),
        ({"key_password_file": "/x"}, "key_password_file: it needs a certificate_file; add that, or take it out"),
        ({**TLS, "username": "a"}, "password_file: it is missing, and a username needs it; add it"),
        ({**TLS, "username": "a:b"}, "username: 'a:b' holds a colon, which ends a name in HTTP; take it out"),
        ({**TLS, "password_file": "/y"}, "password_file: it needs a username; add that, or take it out"),
        (LOGIN, "password_file: clients would send it as it is; name a certificate_file, or set `in_clear: true`"),
        ({"host": "127.0.0.1", **LOGIN}, "password_file: clients would send it as it is"),
        ({**TLS, **LOGIN, "in_clear": True}, "in_clear: it is for a password without a certificate_file; take it"),
        ({"in_clear": True}, "in_clear: it is for a password without a certificate_file; take it out"),
        ({**LOGIN, "in_clear": "y"}, "in_clear: 'y' is neither true nor false; write one of them"),
        ({"certificate": "/x"}, "certificate is no setting; did you mean 'certificate_file'"),
    ],
)
def test_a_mistake_is_a_line(metrics: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, metrics)
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    line = str(raised.value)
    assert line.startswith(f"{path}:"), line
    assert f" metrics.{said}" in line, line
    assert "\n" not in line


def test_what_means_something_is_taken(tmp_path: Path) -> None:
    words = {
        "not encrypted": {},
        "TLS": TLS,
        "TLS, for clients with a certificate, for prometheus by password": {**TLS, **LOGIN, "ca_file": "/x"},
        "not encrypted, for prometheus by password": {**LOGIN, "in_clear": True},
    }
    for said, metrics in words.items():
        assert load_settings(write(tmp_path, metrics)).metrics.in_words() == said


@pytest.mark.parametrize("key", ["password", "key_password"])
def test_a_secret_in_the_configuration_is_refused_and_not_told(key: str, tmp_path: Path) -> None:
    check_secret_is_refused(write(tmp_path, {**TLS, "username": "a", key: "planted"}), f"metrics.{key}")


def test_a_secret_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_METRICS__PASSWORD", "0123")
    settings = load_settings(write(tmp_path, {**TLS, "username": "a"}))
    assert settings.metrics.password is not None
    assert settings.metrics.password.get_secret_value() == "0123"
    assert "0123" not in repr(settings) + settings.model_dump_json()
    # Set by both, it would not be clear which one counts.
    monkeypatch.setenv("OFFKEY_METRICS__PASSWORD_FILE", "/y")
    with pytest.raises(ConfigError, match=r"metrics\.password_file: `password` is set too; keep one"):
        load_settings(write(tmp_path, {**TLS, "username": "a"}))
