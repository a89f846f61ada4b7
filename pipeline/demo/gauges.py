"""The worker's `/metrics`, as the numbers that the demo shows."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

_LINE = re.compile(r'^(offkey_\w+)\{[^}]*?stream="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gauges:
    """One reading; every number is for each stream and 0 where the worker has not told it yet."""

    values: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(metric, stream) -> value, summed over further labels."""

    def of(self, metric: str, stream: str) -> int:
        return int(self.values.get((metric, stream), 0))


def parse(text: str) -> Gauges:
    """Read the samples that carry a stream."""
    values: dict[tuple[str, str], float] = {}
    for metric, stream, value in _LINE.findall(text):
        values[metric, stream] = values.get((metric, stream), 0.0) + float(value)
    return Gauges(values)


def read(url: str) -> Gauges | None:
    """Return the present reading, or None where nothing answers yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return parse(response.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
