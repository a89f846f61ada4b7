"""What Slack, PagerDuty and generic webhooks are sent, and that a signature is one."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from pipeline.errors import ConfigError
from pipeline.protocols import TopicPartition
from pipeline.receivers.told import Told
from pipeline.receivers.webhooks import Template, generic, pagerduty, secret_bytes, slack
from pipeline.stages.alerts import Alert, FeatureView, message
from pipeline.stages.incidents import ENDS, State
from tests.pipeline.receivers.test_wording import HOSTILE
from tests.pipeline.stages.test_alerts import SCHEMA, alert
from tests.records import Record

NOW_MS = 1_700_000_000_999


def told(said: Alert) -> Told:
    sent = message(said, "offkey.alerts")
    return Told(TopicPartition("offkey.alerts", 0), Record(5, 1, sent.key, sent.value, sent.headers), said)


def rendered(template: Template, said: Alert) -> tuple[Any, Mapping[str, str]]:
    body, headers = template(told(said))
    return json.loads(body), headers


def test_slack_reads_what_happened_and_why() -> None:
    body, headers = rendered(slack(None), alert())
    assert body["text"] == (
        "machines web-1: opened, major, score 41.5 (threshold 31.2)\ncpu = 0.9, expected 0.3; share 100%"
    )
    assert headers["Content-Type"] == "application/json"
    escaped, _ = rendered(slack(None), alert(series="<a&amp;b>"))
    assert escaped["text"].startswith("machines &lt;a&amp;amp;b&gt;: opened")
    linked, _ = rendered(slack("https://grafana/{series}"), alert())
    assert linked["text"].endswith("\n<https://grafana/web-1|aaaaaaaaaaaa>")


@pytest.mark.parametrize("name", [*HOSTILE, "<!channel> <@U1> &amp; <http://x|y>"])
def test_no_name_is_markup_in_slack(name: str) -> None:
    body, _ = rendered(slack(None), alert(series=name, features={name: FeatureView(1, 0, 1)}))
    text = body["text"]
    assert "<" not in text
    assert ">" not in text
    assert text.count("&") == sum(text.count(each) for each in ("&amp;", "&lt;", "&gt;"))
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) == 2
    assert len(text) < 4000


@pytest.mark.parametrize(
    ("state", "action"),
    [("opened", "trigger"), ("worsened", "trigger"), ("reopened", "trigger"), *((end, "resolve") for end in ENDS)],
)
def test_pagerduty_joins_an_incident_by_its_id(state: State, action: str) -> None:
    body, _ = rendered(pagerduty("k" * 32, "https://grafana/{series}"), alert(state=state))
    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == ("k" * 32, action, "a" * 32)
    payload = body["payload"]
    assert (payload["severity"], payload["timestamp"]) == ("error", "2023-11-14T22:13:20.123Z")
    assert (payload["source"], payload["component"], payload["class"]) == ("machines web-1", "machines", "anomaly")
    assert payload["custom_details"]["explanation"] == "cpu = 0.9, expected 0.3; share 100%"
    assert payload["custom_details"]["field host"] == "web-1"
    assert body["links"] == [{"href": "https://grafana/web-1", "text": "offkey"}]


@pytest.mark.parametrize("name", HOSTILE)
def test_pagerduty_is_sent_nothing_that_it_refuses_for_its_length(name: str) -> None:
    features = {f"{name}{n}": FeatureView(1, 0, 0.1) for n in range(100)}
    body, _ = rendered(
        pagerduty("k", None), alert(stream=name, series=name, fields={name: name}, features=features)
    )
    assert len(body["payload"]["summary"]) <= 1024
    assert body["payload"]["summary"].isprintable()
    assert len(json.dumps(body)) < 50_000


@pytest.mark.parametrize("name", ["web-1", *HOSTILE])
def test_a_generic_webhook_gets_the_event_as_the_schema_has_it_and_nothing_is_lost(name: str) -> None:
    said = alert(series=name, fields={"host": name}, features={name: FeatureView(1, 0, 1)})
    body, headers = rendered(generic(None, lambda: NOW_MS), said)
    jsonschema.validate(body, SCHEMA)
    assert body["data"]["series"] == name
    assert list(body["data"]["features"]) == [name]
    assert (body["id"], headers["webhook-id"]) == (said.id, said.id)
    assert "webhook-signature" not in headers


def test_the_signature_is_of_id_time_and_body() -> None:
    secret = b"not so secret"
    body, headers = generic(secret, lambda: NOW_MS)(told(alert()))
    assert headers["webhook-timestamp"] == "1700000000"
    signed = headers["webhook-id"].encode() + b".1700000000." + body
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_a_secret_is_text_or_base64() -> None:
    assert secret_bytes("some text", "s") == b"some text"
    assert secret_bytes("whsec_" + base64.b64encode(b"\x00\xff").decode(), "s") == b"\x00\xff"
    with pytest.raises(ConfigError, match=r"^s: what follows whsec_ is no base64") as raised:
        secret_bytes("whsec_no base64!", "s")
    assert "no base64!" not in str(raised.value)
