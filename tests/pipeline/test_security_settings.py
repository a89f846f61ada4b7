"""Who offkey is to a cluster is named without secrets in the configuration, and each mistake is one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_settings
from pipeline.connectors.connection import Connection
from pipeline.errors import ConfigError
from tests.pipeline.configurations import check_secret_is_refused

ROOT = Path(__file__).parents[2]
SCRAM = {"tls": True, "mechanism": "SCRAM-SHA-256", "username": "a", "password_file": "/x"}


def write(tmp_path: Path, security: Any) -> Path:
    path = tmp_path / "offkey.yaml"
    settings = {"streams": {"machines": {"topic": "metrics"}}, "kafka": {"security": security}}
    path.write_text(json.dumps(settings, indent=1))
    return path


@pytest.mark.parametrize(
    ("security", "said"),
    [
        ({"tls": "y"}, "tls: 'y' is neither true nor false; write one of them"),
        ({"mechanism": "SCRAM-SHA-1"}, "mechanism is 'SCRAM-SHA-1'; it takes .*did you mean 'SCRAM-SHA-"),
        ({"ca_file": "/x"}, "ca_file: it needs `tls: true`; add that, or take it out"),
        ({"certificate_file": "/x"}, "certificate_file: it needs `tls: true`"),
        ({"tls": True, "key_file": "/x"}, "key_file: it needs a certificate_file; add that, or take it out"),
        ({"tls": True, "key_password_file": "/x"}, "key_password_file: it needs a certificate_file"),
        ({"username": "a"}, "username: it is of `mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512`; set that"),
        ({"password_file": "/x"}, "password_file: it is of `mechanism: PLAIN, SCRAM"),
        ({**SCRAM, "token_file": "/x"}, "token_file: it is of `mechanism: OAUTHBEARER`; set that, or take it out"),
        ({**SCRAM, "mechanism": "OAUTHBEARER"}, "username: it is of `mechanism: PLAIN"),
        ({"tls": True, "mechanism": "OAUTHBEARER"}, "token_file: it is missing, and OAUTHBEARER needs it; add it"),
        ({"tls": True, "mechanism": "PLAIN"}, "username: it is missing, and PLAIN needs it; add it"),
        ({"tls": True, "mechanism": "PLAIN", "username": "a"}, "password_file: it is missing, and PLAIN needs it"),
        (
            {**SCRAM, "tls": False, "mechanism": "PLAIN"},
            "mechanism: PLAIN sends the password as it is; set `tls: tr",
        ),
        ({"mechanism": "OAUTHBEARER", "token_file": "/x"}, "mechanism: OAUTHBEARER sends the token as it is; set"),
        ({**SCRAM, "in_clear": True}, "in_clear: it is for PLAIN and OAUTHBEARER without `tls`; take it out"),
        ({"pasword_file": "/x"}, "pasword_file is no setting; did you mean 'password_file'"),
    ],
)
def test_a_mistake_is_a_line(security: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, security)
    with pytest.raises(ConfigError, match=rf"^{path}:\d+: kafka\.security\.{said}") as raised:
        load_settings(path)
    assert "\n" not in str(raised.value)


def test_what_means_something_is_taken(tmp_path: Path) -> None:
    assert not load_settings(write(tmp_path, {})).kafka.security.tls
    for security in (
        SCRAM,
        {**SCRAM, "tls": False},
        {**SCRAM, "mechanism": "PLAIN", "tls": False, "in_clear": True},
    ):
        assert load_settings(write(tmp_path, security)).kafka.security.in_words().endswith(" as a")


@pytest.mark.parametrize("key", ["password", "key_password"])
def test_a_secret_in_the_configuration_is_refused_and_not_told(key: str, tmp_path: Path) -> None:
    check_secret_is_refused(write(tmp_path, {"tls": True, key: "planted"}), f"kafka.security.{key}")


def test_a_secret_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {key: each for key, each in SCRAM.items() if key != "password_file"}
    monkeypatch.setenv("OFFKEY_KAFKA__SECURITY__PASSWORD", "0123")
    settings = load_settings(write(tmp_path, given))
    assert Connection.of(settings.kafka).security.password == "0123"
    assert "0123" not in repr(settings) + settings.model_dump_json()
    # Set by both, it would not be clear which one counts.
    with pytest.raises(ConfigError, match=r"kafka\.security\.password_file: `password` is set too; keep one"):
        load_settings(write(tmp_path, SCRAM))


@pytest.mark.parametrize("text", ["{password: 4711}", "{password: [4711]}", "{key_password: {a: 4711}}"])
def test_a_secret_of_another_kind_is_not_told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_KAFKA__SECURITY", text)
    with pytest.raises(ConfigError, match="password is something else than it takes, text: put quotes") as raised:
        load_settings(write(tmp_path, {}))
    assert "4711" not in str(raised.value)


def test_the_page_shows_what_is_taken(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "deploy" / "security.md").read_text(), re.DOTALL)
    shown = [each for each in blocks if "scrape_configs" not in each]
    assert len(shown) == len(blocks) - 1 == 4
    for each in shown:
        path = tmp_path / "offkey.yaml"
        path.write_text("streams: {machines: {topic: metrics}}\n" + each)
        settings = load_settings(path)
        assert settings.kafka.security.tls or settings.metrics.in_words().startswith("TLS, for clients")
