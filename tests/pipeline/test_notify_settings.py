"""Who is told is named without secrets in the configuration, and each mistake is one line."""

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_settings
from pipeline.errors import ConfigError
from pipeline.secret_files import read_secret
from tests.pipeline.configurations import check_secret_is_refused
from tests.receiving import MISSING

ROOT = Path(__file__).parents[2]
HOOK = {"type": "webhook", "url": "https://example.org/hook"}


def write(tmp_path: Path, receivers: Any, **notify: Any) -> Path:
    path = tmp_path / "offkey.yaml"
    settings = {"streams": {"machines": {"topic": "metrics"}}, "notify": {"receivers": receivers, **notify}}
    path.write_text(json.dumps(settings, indent=1))
    return path


@pytest.mark.parametrize(
    ("receiver", "said"),
    [
        ({"type": "slak"}, "type is 'slak'; it takes .*did you mean 'slack'?"),
        ({"type": "webhook", "ulr": "x"}, "ulr is no setting; did you mean 'url'?"),
        ({"type": "webhook"}, "receivers.a.url: it is missing; add it, or url_file"),
        ({"type": "pagerduty"}, "receivers.a.routing_key_file: it is missing; add it"),
        ({**HOOK, "url_file": "/x"}, "url_file: `url` is set too; keep one"),
        ({**HOOK, "routing_key_file": "/x"}, "routing_key_file: it is of `type: pagerduty`; take it out"),
        ({**HOOK, "resend": "1m"}, "resend: it is of `type: alertmanager`; take it out"),
        ({"type": "alertmanager", "url": "http://a", "retry_for": "1h"}, "slack or pagerduty or webhook`"),
        ({**HOOK, "timeout": "2h"}, "timeout: '2h' is too short or too long"),
        ({**HOOK, "url": "ftp://x"}, "url: that is no address of a receiver"),
        ({**HOOK, "url": "http://a b"}, "url: that is no address of a receiver"),
        ({**HOOK, "url": "http://a:99999"}, "url: that is no address of a receiver"),
        ({**HOOK, "url": "http://me:word@a"}, "url: it holds a user or password; .* authorization_file"),
    ],
)
def test_a_mistake_is_a_line(receiver: dict[str, str], said: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"a": receiver})
    with pytest.raises(ConfigError, match=rf"^{path}:\d+: notify\.receivers\.a\.") as raised:
        load_settings(path)
    raised.match(said.replace("?", r"\?").replace("(", r"\("))
    assert "\n" not in str(raised.value)
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize(
    ("key", "kind"),
    [("secret", "webhook"), ("authorization", "webhook"), ("routing_key", "pagerduty"), ("url", "slack")],
)
def test_a_secret_in_the_configuration_is_refused_and_not_told(key: str, kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"a": {"type": kind, key: "https://planted"}})
    check_secret_is_refused(path, f"notify.receivers.a.{key}")


def test_a_secret_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_NOTIFY__RECEIVERS__A__SECRET", "0123")
    settings = load_settings(write(tmp_path, {"a": HOOK}))
    secret = settings.notify.receivers["a"].secret
    assert secret is not None
    # Text as it is: read as YAML it would be a number.
    assert secret.get_secret_value() == "0123"
    assert "0123" not in repr(settings)
    assert "0123" not in settings.model_dump_json()


def test_links_name_what_there_is(tmp_path: Path) -> None:
    load_settings(write(tmp_path, {}, link="https://grafana/{stream}?x={opened_ms}"))
    with pytest.raises(ConfigError, match=r"notify.link: there is no \{host\}; there are: \{stream\}, "):
        load_settings(write(tmp_path, {}, link="https://grafana/{host}"))
    with pytest.raises(ConfigError, match=r"receivers.a b: a receiver's name has letters"):
        load_settings(write(tmp_path, {"a b": HOOK}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no line of plain text"),
        (b"a\nb\n", "holds no line of plain text"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_holds_no_secret_is_a_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        read_secret(None, str(path), "notify.receivers.a.secret_file")
    assert str(raised.value).startswith(f"notify.receivers.a.secret_file: {path} {said}")
    assert "\n" not in str(raised.value)


def test_a_secret_is_the_files_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("abc \r\n")
    assert read_secret(None, str(path), "x") == "abc "
    assert read_secret(None, None, "x") is None


def test_the_page_shows_what_is_taken(tmp_path: Path) -> None:
    page = (ROOT / "deploy" / "notify.md").read_text()
    receivers, inhibiting = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "offkey.yaml"
    path.write_text("streams: {machines: {topic: metrics}}\n" + receivers)
    known = load_settings(path).notify.receivers
    assert [each.type for each in known.values()] == ["alertmanager", "slack", "pagerduty", "webhook"]
    if shutil.which("amtool") is None:
        pytest.skip(MISSING)
    path.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n" + inhibiting)
    checked = subprocess.run(["amtool", "check-config", str(path)], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    assert "2 inhibit rules" in checked.stdout


def test_the_template_shows_what_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "offkey.yaml"
    text = files("pipeline").joinpath("template.yaml").read_text()
    shown = text[text.index("# notify:") : text.index("\nmetrics:")]
    path.write_text("streams: {machines: {topic: metrics}}\n" + re.sub("^# ", "", shown, flags=re.MULTILINE))
    assert list(load_settings(path).notify.receivers) == ["pager", "chat"]
