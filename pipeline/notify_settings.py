"""Who is told of incidents, and how: the keys below `notify`.

A secret is given by the environment or by a file that `..._file` names, never in the configuration itself: that
lies in repositories, is printed and mailed. The address of a Slack webhook is one too, for whoever has it may
write.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from pipeline.mistakes import mistake_at
from pipeline.receivers.links import PLACE, PLACES
from pipeline.secret_settings import refuse_twice
from pipeline.setting_types import LONGEST_WAIT, WRITTEN, Name, Section, Wait, between, no_truth
from pipeline.yaml_lines import Keys

PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
_DAY_S = 86_400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_ONLY = {
    "secret": ("webhook",),
    "routing_key": ("pagerduty",),
    "resend": ("alertmanager",),
    "horizon": ("alertmanager",),
    "start": ("slack", "pagerduty", "webhook"),
    "retry_for": ("slack", "pagerduty", "webhook"),
}
"""Keys that mean something to some types only."""


def require_url(text: str) -> str:
    """Return an address that alerts can be sent to.

    Raises:
        ValueError: it is none; the text does not repeat it, for it may hold a secret.
    """
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not text.isascii() or not text.isprintable() or " " in text or parts.fragment:
        raise ValueError("that is no address of a receiver; write http://host:port/path or https://...")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user or password; take them out, and name a file as authorization_file")
    return text


def _link(text: str) -> str:
    require_url(PLACE.sub("x", text))
    for place in PLACE.findall(text):
        if place not in PLACES:
            raise ValueError(f"there is no {{{place}}}; there are: {', '.join(f'{{{each}}}' for each in PLACES)}")
    return text


class ReceiverSettings(Section):
    type: Literal["alertmanager", "slack", "pagerduty", "webhook"]
    """alertmanager: its API v2. slack: an incoming webhook, of Mattermost too. pagerduty: Events API v2. webhook: a
    CloudEvent as JSON, as `alert.schema.json` has it."""
    url: Annotated[str, AfterValidator(require_url)] | None = None
    """Where it listens: of an Alertmanager without `/api/v2/alerts`; of PagerDuty its own, unless you say."""
    url_file: Name | None = None
    """A file that holds it; of Slack it is a secret."""
    authorization: SecretStr | None = None
    """Value of the header Authorization, `Bearer ...` or `Basic ...`; only by the environment."""
    authorization_file: Name | None = None
    """A file that holds it."""
    secret: SecretStr | None = None
    """Signs what a webhook is sent, HMAC-SHA256, as Standard Webhooks do; only by the environment."""
    secret_file: Name | None = None
    """A file that holds it: any text, or `whsec_` and base64."""
    routing_key: SecretStr | None = None
    """Integration key of PagerDuty; only by the environment."""
    routing_key_file: Name | None = None
    """A file that holds it."""
    ca_file: Name | None = None
    """Certificates to trust in place of the system's, as PEM."""
    timeout: Annotated[float, between("10ms", "1 min"), WRITTEN] = 5
    """How long one request may take, from its first byte to the last of the answer."""
    retry_for: Wait = 3600
    """How long one alert is tried before it becomes a dead letter, and the next one has its turn. What is refused
    for good becomes one at once; of an Alertmanager nothing is given up."""
    start: Literal["latest", "earliest"] = "latest"
    """Where to begin at the first start; later ones go on where the last one ended."""
    resend: Annotated[float, between("100ms", "1h"), WRITTEN] = 60
    """How often an Alertmanager is told again of what is open; it is to forget it after five times as long."""
    horizon: Annotated[float, between("1 min", LONGEST_WAIT), WRITTEN] = 7 * _DAY_S
    """An incident of which the topic has told nothing for so long is taken for over by an Alertmanager."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for key, types in _ONLY.items():
            for name in (key, f"{key}_file"):
                if name in self.model_fields_set and self.type not in types:
                    raise mistake_at((name,), f"it is of `type: {' or '.join(types)}`; take it out")
        refuse_twice(self)
        if self.type != "pagerduty" and self.url is None and self.url_file is None:
            raise mistake_at(("url",), "it is missing; add it, or url_file")
        if self.type == "pagerduty" and self.routing_key is None and self.routing_key_file is None:
            raise mistake_at(("routing_key_file",), "it is missing; add it")
        return self


class NotifySettings(Section):
    receivers: dict[str, ReceiverSettings] = Field(default={})
    """Who is told, by names of your choice; each has a consumer group of its own, `GROUP-notify-NAME`."""
    link: Annotated[str, AfterValidator(_link)] | None = None
    """A page about an incident: {stream}, {series}, {incident}, {opened_ms} and {event_ms} are filled in."""
    port: Annotated[int, Field(ge=0, le=65_535), BeforeValidator(no_truth)] = 9111
    """Where its metrics and probes listen, on `metrics.host`; 0 takes a free port and logs it."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name in self.receivers:
            if not _NAME.fullmatch(name):
                raise mistake_at(
                    ("receivers", name),
                    "a receiver's name has letters, digits, dots, dashes and underscores only, 100 at most",
                )
        return self


def slack_addresses_written(values: dict[str, Any]) -> Iterator[Keys]:
    """Yield the keys of addresses of Slack in a file's values, whatever else these hold: `url` itself is a text."""
    notify = values.get("notify")
    receivers = notify.get("receivers") if isinstance(notify, dict) else None
    for name, receiver in receivers.items() if isinstance(receivers, dict) else ():
        if isinstance(receiver, dict) and receiver.get("type") == "slack" and receiver.get("url") is not None:
            yield ("notify", "receivers", name, "url")
