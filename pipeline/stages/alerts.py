"""Transitions -> alerts: what is published, as a CloudEvent with a JSON body.

In Kafka's binary mode the attributes are headers and the value is the body; `structured` puts both into one
JSON object, the form of a line in a file. `alert.schema.json` beside the package is the schema of that form.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray
from pipeline.protocols import Message, TopicPartition
from pipeline.stages.feedback import Moved
from pipeline.stages.incidents import Severity, State, derived_id

EVENT_TYPE = "offkey.incident."


class FeatureView(msgspec.Struct, frozen=True):
    """What one feature had to do with an alert."""

    observed: float
    expected: float
    """What the autoencoder made of it, in the feature's own unit."""
    share: float
    """Part of the score that this feature caused; the shares of an alert sum to one."""
    band: float | None = None
    """How far from the expected value is usual, in the same unit: 99 of 100 training points were as near."""


class PixelView(msgspec.Struct, frozen=True):
    """What one value of one pixel had to do with an alert of an image."""

    row: int
    """From 0 at the top."""
    column: int
    """From 0 at the left."""
    channel: int
    """0 to 2: red, green, blue; 3: alpha. Of grey images 0."""
    observed: float
    expected: float
    share: float


class StormMember(msgspec.Struct, frozen=True):
    """One series of a storm."""

    series: str
    incident: str
    severity: Severity
    score: float | None
    """null: it is silent."""


class StormView(msgspec.Struct, frozen=True):
    """What a storm holds."""

    series: int
    """How many have joined it so far."""
    worst: list[StormMember]
    """Some of them, the worst first."""


class FeedbackView(msgspec.Struct, frozen=True):
    """What feedback had to do with an incident's beginning."""

    incidents: list[str]
    """Those that something was said of, and that this one is like."""
    raised_by: float
    """How far the threshold lies above the series' own for that; negative: below."""


class Alert(msgspec.Struct, frozen=True):
    """One transition of an incident: the body of an alert."""

    incident: str
    """Id of the incident: the same in all its alerts."""
    stream: str
    series: str
    """Name of the series; "" for records of kind `features` and `images`, and for a storm."""
    fields: dict[str, str]
    """What names the series: its fields, or the record's key."""
    state: State
    """reopened: strange again soon after it was resolved. repeated: it goes on unchanged. accepted: the series has
    been as strange for `accept_after`, which is its usual from here on. silent: an incident of its own, the series
    has sent nothing for `silence` intervals. stale: the series has stopped, so nothing more will be told. storm: an
    incident of its own, so many series began one that no more are told one by one."""
    severity: Severity
    score: float | None
    """-10 log10 of the probability that a normal point looks as strange; the incident's highest since it was opened
    or reopened. null: the incident is of silence, or a storm."""
    threshold: float | None
    """null as `score` is."""
    opened_ms: int
    """Event time of the record that opened the incident, or the deadline that a silent series missed; of a storm,
    the partition's time; ms since the epoch."""
    event_ms: int
    """Event time of the record that caused this alert; of a silent or stale one, the deadline that has passed; of a
    storm, and of what was muted first and is told now, the partition's time."""
    features: dict[str, FeatureView]
    """Largest share first. Empty where no point was judged just now: of storms, of silent and stale ones, and of
    what was muted first. Of an image its regions, such as `rows 0-6, columns 7-13`: means of their pixels' values,
    from 0 to 255, and the sum of their shares."""
    model_version: str
    topic: str
    partition: int
    offset: int
    """Of the record that caused this alert; of a silent or stale one, a record of another series, with which the
    partition's time passed the deadline."""
    row: int = 0
    """Row in the record, for formats that hold several."""
    points_back: int = 0
    """How many points before this one, within its window, the error is largest; 0: it is this one."""
    storm: StormView | msgspec.UnsetType = msgspec.UNSET
    """Of a storm only."""
    feedback: FeedbackView | msgspec.UnsetType = msgspec.UNSET
    """Where an incident began, or began again, at a threshold that feedback has moved."""
    pixels: list[PixelView] | msgspec.UnsetType = msgspec.UNSET
    """Of an image: the values of largest share."""

    @property
    def id(self) -> str:
        """Derived from where the record lies and what it did: a consumer can drop repeats by it.

        What a silence did is derived from the deadline in place of a record, and from the incident that it ends, if
        any: a series may have to leave twice at one time of its partition.
        """
        place = TopicPartition(self.topic, self.partition)
        if self.state == "stale":
            return derived_id(self.stream, place, self.event_ms, self.row, self.incident, self.state)
        at = self.event_ms if self.state == "silent" else self.offset
        return derived_id(self.stream, place, at, self.row, self.series, self.state)


class CloudEvent(msgspec.Struct, frozen=True):
    """An alert in CloudEvents' structured mode."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: Literal[
        "offkey.incident.opened",
        "offkey.incident.reopened",
        "offkey.incident.worsened",
        "offkey.incident.repeated",
        "offkey.incident.resolved",
        "offkey.incident.accepted",
        "offkey.incident.silent",
        "offkey.incident.stale",
        "offkey.incident.storm",
    ]
    subject: str
    time: str
    datacontenttype: Literal["application/json"]
    data: Alert


def feature_views(
    names: Sequence[str],
    observed_F: FloatArray,
    expected_F: FloatArray,
    band_F: FloatArray,
    share_F: npt.NDArray[np.floating[Any]],
) -> dict[str, FeatureView]:
    """Put the numbers of one point beside the names of their features, largest share first."""
    order_F = np.argsort(-share_F, kind="stable")
    return {
        names[i]: FeatureView(
            _short(observed_F[i]), _short(expected_F[i]), round(float(share_F[i]), 4), _short(band_F[i])
        )
        for i in order_F.tolist()
    }


def pixel_view(row: int, column: int, channel: int, observed: float, expected: float, share: float) -> PixelView:
    """Return what one value of an image had to do with an alert, with no more digits than tell something."""
    return PixelView(row, column, channel, _short(observed), _short(expected), round(share, 4))


def feedback_view(moved: Moved | None) -> FeedbackView | msgspec.UnsetType:
    """Return what is told of a threshold that feedback has moved; unset: it has not."""
    return msgspec.UNSET if moved is None else FeedbackView(list(moved.incidents), round(moved.raised_by, 6))


def message(alert: Alert, topic: str) -> Message:
    """Return the alert as a CloudEvent in Kafka's binary mode, keyed by stream and series."""
    attributes = {"content-type": "application/json", "ce_specversion": "1.0"}
    attributes |= {f"ce_{name}": text for name, text in _attributes(alert).items()}
    headers = [(name, text.encode()) for name, text in attributes.items()]
    key = f"{alert.stream}/{alert.series}".encode()
    return Message(topic, key, msgspec.json.encode(alert), headers)


def structured(headers: Mapping[str, bytes], value: bytes) -> CloudEvent:
    """Put a consumed alert's headers and body into one event.

    Raises:
        msgspec.ValidationError: it is no alert of this version.
    """
    event: dict[str, Any] = {
        name.removeprefix("ce_"): text.decode() for name, text in headers.items() if name.startswith("ce_")
    }
    event |= {"datacontenttype": headers["content-type"].decode(), "data": msgspec.json.decode(value)}
    return msgspec.convert(event, CloudEvent)


def structured_json(alert: Alert, value: bytes) -> bytes:
    """Return a consumed alert in structured mode, its body as it came."""
    event = {"specversion": "1.0", **_attributes(alert), "datacontenttype": "application/json"}
    return msgspec.json.encode({**event, "data": msgspec.Raw(value)})


def alert_of(value: bytes | None) -> Alert | None:
    """Read an alert's body; None: it is none, or of a version that has what we do not know."""
    try:
        return msgspec.json.decode(value or b"", type=Alert)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of an alert in structured mode."""
    schema = msgspec.json.schema(CloudEvent)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "offkey alert", **schema}


def _attributes(alert: Alert) -> dict[str, str]:
    # Integer arithmetic: a float of seconds would round some milliseconds down.
    seconds, ms = divmod(alert.event_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)
    return {
        "id": alert.id,
        "source": f"/offkey/{alert.stream}/{alert.topic}/{alert.partition}",
        "type": EVENT_TYPE + alert.state,
        "subject": alert.series or alert.stream,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _short(value: float) -> float:
    """Keep what a 32-bit value tells and no more digits."""
    return float(f"{float(value):.7g}")
