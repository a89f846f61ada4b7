"""Alerts to webhooks, one request each: Slack, PagerDuty's Events API v2, or a CloudEvent as JSON.

Each template is a pure function from an alert to a body. A request may come again after a crash: PagerDuty joins
them by the incident, and a generic webhook can drop them by the header `webhook-id`, the id of the alert.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pipeline.errors import ConfigError
from pipeline.protocols import TopicPartition
from pipeline.receivers.answers import Poster
from pipeline.receivers.links import link_of
from pipeline.receivers.told import Told
from pipeline.receivers.wording import feature_lines, headline, iso, kind_of, record_of, shown, subject
from pipeline.stages.alerts import Alert, structured_json
from pipeline.stages.incidents import ENDS

Template = Callable[[Told], tuple[bytes, Mapping[str, str]]]
"""An alert -> the body of a request, and its headers."""

_JSON = {"Content-Type": "application/json"}
_PAGERDUTY_SEVERITIES = {"minor": "warning", "major": "error", "critical": "critical"}
_WITH_PREFIX = "whsec_"


class Webhook:
    """A receiver that is told each alert once; see `pipeline.receivers.told.Receiver`."""

    at_once = 1
    resend_s: float | None = None

    def __init__(self, template: Template, poster: Poster) -> None:
        self._template, self._poster = template, poster

    def note(self, told: Told) -> None:
        """It needs to know of no other alert."""

    def forget(self, place: TopicPartition) -> None:
        """Nothing is known."""

    def settle(self, place: TopicPartition) -> None:
        """Nothing is known."""

    def send(self, told: Sequence[Told]) -> Mapping[int, str]:
        refused = {}
        for index, each in enumerate(told):
            if (why := self._poster.send(*self._template(each))) is not None:
                refused[index] = why
        return refused

    def resend(self, places: Sequence[TopicPartition]) -> None:
        """Nothing is told twice."""

    def open(self) -> int:
        return 0


def slack(link: str | None) -> Template:
    """Return the template of Slack's incoming webhooks, which others understand too."""

    def render(told: Told) -> tuple[bytes, Mapping[str, str]]:
        lines = [headline(told.alert), *feature_lines(told.alert)]
        # A name may hold what Slack takes for a link or a call to everybody: `<!channel>`.
        text = "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if page := link_of(link, told.alert):
            text += f"\n<{page}|{told.alert.incident[:12]}>"
        return msgspec.json.encode({"text": text, "unfurl_links": False, "unfurl_media": False}), _JSON

    return render


def pagerduty(routing_key: str, link: str | None) -> Template:
    """Return the template of PagerDuty's Events API v2: an incident there for each of ours."""

    def render(told: Told) -> tuple[bytes, Mapping[str, str]]:
        alert = told.alert
        event: dict[str, Any] = {
            "routing_key": routing_key,
            "event_action": "resolve" if alert.state in ENDS else "trigger",
            "dedup_key": shown(alert.incident),
            "client": "offkey",
            "payload": {
                "summary": headline(alert),
                "source": subject(alert),
                "severity": _PAGERDUTY_SEVERITIES[alert.severity],
                "timestamp": iso(alert.event_ms),
                "component": shown(alert.stream),
                "class": kind_of(alert),
                "custom_details": details(alert),
            },
        }
        if page := link_of(link, alert):
            event["links"] = [{"href": page, "text": "offkey"}]
        return msgspec.json.encode(event), _JSON

    return render


def generic(secret: bytes | None, now_ms: Callable[[], int]) -> Template:
    """Return the template of a CloudEvent, signed as standardwebhooks.com describes it where there is a secret."""

    def render(told: Told) -> tuple[bytes, Mapping[str, str]]:
        body = structured_json(told.alert, told.record.value or b"")
        # The time of sending, so that the receiver can tell an old request that somebody sends again.
        headers = {"webhook-id": told.alert.id, "webhook-timestamp": str(now_ms() // 1000)}
        if secret is not None:
            headers["webhook-signature"] = signature(
                secret, headers["webhook-id"], headers["webhook-timestamp"], body
            )
        return body, {"Content-Type": "application/cloudevents+json; charset=utf-8", **headers}

    return render


def signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the value of `webhook-signature`: HMAC-SHA256 over id, timestamp and body."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def secret_bytes(text: str, key: str) -> bytes:
    """Return what a secret's text stands for: after `whsec_` base64, as its inventors write it, else itself.

    Raises:
        ConfigError: what follows is no base64; `key` is where it was given.
    """
    if not text.startswith(_WITH_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_WITH_PREFIX), validate=True)
    except binascii.Error as error:
        raise ConfigError(f"{key}: what follows whsec_ is no base64; copy the secret anew") from error


def details(alert: Alert) -> dict[str, str]:
    """Return what is told beside the summary."""
    found = {"incident": shown(alert.incident), "state": alert.state, "severity": alert.severity}
    found |= {"opened": iso(alert.opened_ms), "explanation": "\n".join(feature_lines(alert))}
    if alert.score is not None:
        found["score"] = f"{alert.score:.1f}"
    if alert.threshold is not None:
        found["threshold"] = f"{alert.threshold:.1f}"
    found |= {shown(f"field {name}"): shown(text) for name, text in alert.fields.items()}
    found |= {"model": shown(alert.model_version), "record": shown(record_of(alert))}
    return {name: text for name, text in found.items() if text}
