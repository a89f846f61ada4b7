"""An alert in words, harmless wherever they are shown: on terminals, in chats, on pages.

Names come from records, so from anybody. What is not printable (newlines, ANSI escapes, marks that turn the
direction of text) is written as an escape, and what is too long is cut, with a hash of the whole so that two stay
two. The alert itself, whole, is where its `record` says.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import UnsetType

from pipeline.stages.alerts import Alert

LONGEST_NAME = 200
_MOST_FEATURES = 8
_HIGHEST = 100.0
"""Scores are shown up to here."""


def shown(text: str, most: int = LONGEST_NAME) -> str:
    """Return text without anything that is not printable, in so many characters at most."""
    if not text.isprintable():
        # Backslashes of its own are doubled then, so that the text can be told.
        text = "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= most:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{text[: most - len(digest) - 1]}…{digest}"


def kind_of(alert: Alert) -> str:
    """Return what the incident is of; the same in all its alerts."""
    if alert.score is not None:
        return "anomaly"
    return "silence" if alert.series else "storm"


def subject(alert: Alert) -> str:
    """Return what is strange: the stream, and its series where there is one."""
    return f"{shown(alert.stream)} {shown(alert.series)}".rstrip()


def headline(alert: Alert) -> str:
    """Return the alert in one line."""
    line = f"{subject(alert)}: {alert.state}, {alert.severity}"
    if alert.score is not None and alert.threshold is not None:
        return f"{line}, score {min(alert.score, _HIGHEST):.1f} (threshold {alert.threshold:.1f})"
    if not isinstance(alert.storm, UnsetType):
        return f"{line}, {alert.storm.series} series at once"
    return f"{line}, of a series that sent nothing"


def feature_lines(alert: Alert, most: int = _MOST_FEATURES) -> Iterator[str]:
    """Yield what explains the score, the largest share first; of a storm its worst series."""
    if not isinstance(alert.storm, UnsetType):
        for member in alert.storm.worst[:most]:
            score = "" if member.score is None else f", score {min(member.score, _HIGHEST):.1f}"
            yield f"{shown(member.series)}: {member.severity}{score}"
    for name, view in list(alert.features.items())[:most]:
        band = "" if view.band is None else f" ± {view.band:g}"
        yield f"{shown(name)} = {view.observed:g}, expected {view.expected:g}{band}; share {view.share:.0%}"
    if len(alert.features) > most:
        yield f"and {len(alert.features) - most} more features"


def record_of(alert: Alert) -> str:
    """Return the place of the record that caused the alert."""
    return f"{alert.topic}/{alert.partition}@{alert.offset}"


def iso(ms: int) -> str:
    """Return a moment as RFC 3339 has it, in UTC."""
    # Integer arithmetic: a float of seconds would round some milliseconds down.
    seconds, rest_ms = divmod(ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ms * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
