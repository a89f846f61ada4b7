"""What is said on standard error, and how."""

from typing import Literal

from pipeline.setting_types import Section


class LogSettings(Section):
    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line with stream, topic, partition, offset, version and receiver as
    fields; of `worker`, `record`, `schedule` and `notify`."""
