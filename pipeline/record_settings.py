"""What the recorder keeps and how it goes about it: the keys below a stream's `record`, and below `recorder`."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from pipeline.setting_types import DurationOrNever, Section, Size, Wait, Whole, no_truth

_KEPT_S = 90 * 86_400


class RecordSettings(Section):
    keep: Annotated[DurationOrNever, Field(json_schema_extra={"default": "90d"})] = _KEPT_S
    """How long snapshots are kept, by their records' Kafka timestamps: 90d unless you say; or never removed."""
    keep_bytes: Size | None = None
    """How large a stream's snapshots may be, such as 100 GB: beyond, the oldest are removed. No bound unless you
    say."""


class RecorderSettings(Section):
    port: Annotated[int, Field(ge=0, le=65_535), BeforeValidator(no_truth)] = 9109
    """Where its metrics and probes listen, on `metrics.host`; 0 takes a free port and logs it."""
    file_age: Wait = 300
    """A file is closed so long after its first record at most: a restart reads so much again."""
    file_rows: Whole = 500_000
    """A file of so many rows is closed."""
    file_bytes: Size = 32 << 20
    """A file whose rows take so much memory is closed; packed they take a third of that or less."""
    open_bytes: Size = 96 << 20
    """Memory for the rows of all files that are not closed. While storage takes none, the recorder waits then."""
    tidy_every: Wait = 600
    """How often files that are too old or too many are removed, and small ones merged."""
    merged_bytes: Size = 64 << 20
    """Small files of past days are merged into ones of this size, which is taken in memory for it."""
