"""The worker's `/metrics`, as the numbers that the demo shows."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

_MODEL = re.compile(r"^offkey_model_info\{([^}]*)\} 1", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_LINE = re.compile(r'^(offkey_\w+)\{[^}]*?stream="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gauges:
    """One reading; every number is for each stream and 0 where the worker has not told it yet."""

    values: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(metric, stream) -> value, summed over further labels."""
    versions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of each stream, those that its partitions are judged by."""

    def of(self, metric: str, stream: str) -> int:
        return int(self.values.get((metric, stream), 0))


def parse(text: str) -> Gauges:
    """Read the samples that carry a stream."""
    values: dict[tuple[str, str], float] = {}
    for metric, stream, value in _LINE.findall(text):
        values[metric, stream] = values.get((metric, stream), 0.0) + float(value)
    versions: dict[str, set[str]] = {}
    for labels in _MODEL.findall(text):
        named = dict(_LABEL.findall(labels))
        versions.setdefault(named["stream"], set()).add(named["version"])
    return Gauges(values, {stream: frozenset(found) for stream, found in versions.items()})


def read(url: str) -> Gauges | None:
    """Return the present reading, or None where nothing answers yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return parse(response.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def answers(url: str) -> bool:
    """Whether something answers there, and says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
