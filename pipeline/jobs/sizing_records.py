"""Made-up records of a stream, as its settings would have them: to train on and measure with before there are any.

Every series is a noisy cycle of its own phase in each feature. Numbers have four digits after the point. Nothing is
drawn but from a point's number, so records are the same each time.
"""

import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from models.arrays import FloatArray
from models.dataset import Columns
from pipeline.config import StreamSettings
from pipeline.connectors.rehearsed import Payload
from pipeline.formats.fields import Path
from pipeline.setting_types import split_path

ROWS_OF_ARROW = 1_000
"""Rows that a record of many is taken to hold."""
_CYCLE, _PHASES, _NOISE = 97, 89, 0.1
_BEGIN_MS = 86_400_000
_PER_MS = {"ms": 1.0, "s": 1e-3, "us": 1e3, "ns": 1e6}


class MadeUp:
    """Records of a stream, each series' points `interval_ms` apart; of `sources` that have no names alike."""

    def __init__(
        self,
        settings: StreamSettings,
        features: Sequence[str],
        interval_ms: float,
        sources: int = 1,
        name_width: int = 12,
    ) -> None:
        self._settings = settings
        self._features = [split_path(name) for name in features]
        self._interval_ms = interval_ms
        self._sources = sources
        self._width = name_width

    def name(self, number: int) -> str:
        """Return what names a series, in its field or in the first of several, or as a record's key."""
        return f"{number:0{self._width}d}"

    def series_name(self, number: int) -> str:
        """Return the name that the series has in the pipeline."""
        return "/".join([self.name(number), *("0" for _ in (self._settings.series or ["key"])[1:])])

    def columns(self, series: int, points: int) -> Columns:
        """Return rows to train on: of some series, or for records judged by themselves of one table."""
        x_PSF = np.stack([self._values(point, 0, series) for point in range(points)])
        time_ms_P = np.array([self.time_ms(point) for point in range(points)], np.int64)
        if self._settings.kind == "features":
            each_ms = np.arange(points * series) * self._interval_ms / self._sources
            return {"": (each_ms.astype(np.int64), x_PSF.reshape(points * series, -1))}
        # Of these no worker knows anything yet.
        return {f"trained-{number}": (time_ms_P, x_PSF[:, number]) for number in range(series)}

    def payloads(self, point: int, low: int, high: int) -> Iterator[Payload]:
        """Yield the records of the series from `low` to `high` at one point of their time."""
        x_NF, time_ms = self._values(point, low, high), self.time_ms(point)
        if self._settings.format == "arrow":
            for first in range(low, high, self.rows_of_record):
                numbers = range(first, min(first + self.rows_of_record, high))
                yield self._key(first), self._table(numbers, x_NF[first - low :], time_ms), time_ms
            return
        fixed = self._time(time_ms)
        for number, row_F in zip(range(low, high), x_NF.tolist(), strict=True):
            fields = self._names_of(number) + list(zip(self._features, row_F, strict=True)) + fixed
            yield self._key(number), json.dumps(_nested(fields), separators=(",", ":")).encode(), time_ms

    @property
    def rows_of_record(self) -> int:
        """Return how many rows a record holds; a key names one series."""
        tables = self._settings.format == "arrow" and (self._settings.series or self._settings.kind == "features")
        # Cells are bounded as bytes are, and a number takes eight.
        fit = self._settings.max_record_bytes // (16 * (len(self._features) + 2))
        return max(min(ROWS_OF_ARROW, fit), 1) if tables else 1

    def time_ms(self, point: int) -> int:
        """Return the event time of all series' points of this number, in ms since the epoch."""
        return _BEGIN_MS + math.ceil(point * self._interval_ms)

    def _values(self, point: int, low: int, high: int) -> FloatArray:
        random = np.random.default_rng((point, low))
        phase_S1 = (np.arange(low, high) % _PHASES / _PHASES)[:, None]
        x_SF = np.sin(2 * np.pi * (point / _CYCLE + phase_S1) + np.arange(len(self._features)))
        return np.asarray((x_SF + _NOISE * random.standard_normal(x_SF.shape)).round(4), np.float64)

    def _key(self, number: int) -> bytes | None:
        return None if self._settings.kind == "features" or self.rows_of_record > 1 else self.name(number).encode()

    def _names_of(self, number: int) -> list[tuple[Path, Any]]:
        values = [self.name(number), *("0" for _ in self._settings.series or ())]
        return [(split_path(path), value) for path, value in zip(self._settings.series or (), values, strict=False)]

    def _time(self, time_ms: int) -> list[tuple[Path, Any]]:
        if self._settings.time is None:
            return []
        path, unit = split_path(self._settings.time), self._settings.time_unit
        if unit == "iso8601":
            return [(path, datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds"))]
        return [(path, time_ms / 1000 if unit == "s" else int(time_ms * _PER_MS[unit]))]

    def _table(self, numbers: range, x_NF: FloatArray, time_ms: int) -> bytes:
        from pipeline.formats.arrow import encode

        columns: dict[Path, Sequence[Any]] = {}
        for path, _ in self._names_of(0):
            columns[path] = [dict(self._names_of(number))[path] for number in numbers]
        columns |= {path: x_NF[: len(numbers), place].tolist() for place, path in enumerate(self._features)}
        columns |= {path: [value] * len(numbers) for path, value in self._time(time_ms)}
        return encode(columns)


def _nested(fields: Sequence[tuple[Path, Any]]) -> dict[str, Any]:
    """Return values by their paths as objects within objects."""
    found: dict[str, Any] = {}
    for path, value in fields:
        inside = found
        for name in path[:-1]:
            inside = inside.setdefault(name, {})
        inside[path[-1]] = value
    return found
