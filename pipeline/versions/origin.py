"""Where a version comes from: `origin.json`, which stands beside the model's own two files and never changes.

The manifest says what the model knows of itself. This says what the pipeline knows: the records it was trained on,
what made it, which version served then, and how the gate judged it. Versions without it serve as well. The file
holds its own hash and is spelled as it is here, so no byte of it changes unseen; fields that a later version of
offkey adds are passed over.
"""

from dataclasses import dataclass, field

import msgspec

from pipeline.sealed import SealError, sealed, unsealed

ORIGIN = "origin.json"
FORMAT, FORMAT_VERSION = "offkey.origin", 1


class OriginError(ValueError):
    """An origin that cannot be read; one line that says why."""


@dataclass(frozen=True, slots=True)
class GateRow:
    """One measure by which a challenger was compared with the champion."""

    measure: str
    champion: float | None
    """None: there was no champion, or it has no such measure."""
    challenger: float | None
    limit: str
    """What the challenger's figure has to be, or what both are figures of."""
    ok: bool = True
    """False: that is a reason to refuse it."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate says of a challenger, and by what."""

    accepted: bool
    rule: str
    """Which of its rules judged: that for a `champion` to beat, or that for the `first` model."""
    reasons: tuple[str, ...]
    """Why it is accepted, or each reason why not."""
    rows: tuple[GateRow, ...]
    held_out_rows: int
    """Rows that both were compared on."""
    anomalies: int
    """Those put into these rows."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the pipeline knows of a version."""

    command: str
    """What made it, such as `offkey train`."""
    trained_ms: int
    """When, by the clock of the machine that trained it."""
    topic: str
    offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each partition that was read: its first offset, and the one after its last."""
    records: int = 0
    """Rows, where a record holds many."""
    rejected: int = 0
    late: int = 0
    series: int = 0
    seconds: float = 0.0
    """How long reading and training took."""
    parent: str | None = None
    """The champion when it was trained."""
    gate: GateResult | None = None
    """None: it was judged by no gate."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


def to_file(origin: Origin) -> bytes:
    """Return the content of `origin.json`."""
    return sealed("origin", msgspec.json.encode(origin))


def from_file(content: bytes) -> Origin:
    """Read an origin.

    Raises:
        OriginError: it is damaged or of a newer format.
    """
    try:
        origin = msgspec.json.decode(unsealed("origin", content), type=Origin)
    except SealError as error:
        raise OriginError(f"{ORIGIN} {error}") from error
    except msgspec.DecodeError as error:
        raise OriginError(f"{ORIGIN} is damaged ({error})") from error
    if (origin.format, origin.format_version) != (FORMAT, FORMAT_VERSION):
        raise OriginError(f"{ORIGIN} is of format {origin.format} {origin.format_version}, not {FORMAT_VERSION}")
    return origin
