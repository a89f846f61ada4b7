"""Recorded rows -> messages in the order in which they would have come.

Within a stream rows follow event time over all series, each series in its recorded order; streams share the
way evenly, so that all of them end together. Records hold no label.

Legend: N rows.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from models.arrays import IntArray
from pipeline.demo.data import Recorded
from pipeline.protocols import Message

TOPICS = {"machines": "demo.machines", "metrics": "demo.metrics", "requests": "demo.requests"}
PARTITIONS = {
    "demo.machines": 2,
    "demo.metrics": 2,
    "demo.requests": 1,
    "demo.alerts": 1,
    "demo.dead-letters": 1,
    "demo.feedback": 1,
}
"""One partition for the table: its records are known again by their offset."""


def training(streams: Mapping[str, Sequence[Recorded]]) -> Iterator[Message]:
    """Yield the history that models are trained on."""
    return _interleaved(streams, {name: [range(r.train_rows) for r in streams[name]] for name in streams})


def replayed(streams: Mapping[str, Sequence[Recorded]]) -> Iterator[Message]:
    """Yield the rest, which the worker scores."""
    return _interleaved(streams, {name: [range(r.train_rows, len(r)) for r in streams[name]] for name in streams})


def message_of(recorded: Recorded, row: int) -> Message:
    """Return one row as a record."""
    body: dict[str, object] = {}
    if recorded.stream == "metrics":
        body["metric"] = recorded.name
    if recorded.time_ms_N is not None:
        body["ts"] = int(recorded.time_ms_N[row])
    body |= zip(recorded.features, recorded.values_NF[row].tolist(), strict=True)
    key = recorded.name.encode() if recorded.time_ms_N is not None else None
    return Message(TOPICS[recorded.stream], key, msgspec.json.encode(body))


def _interleaved(
    streams: Mapping[str, Sequence[Recorded]], rows: Mapping[str, Sequence[range]]
) -> Iterator[Message]:
    every = [recorded for name in streams for recorded in streams[name]]
    first_of = np.cumsum([0, *(len(streams[name]) for name in streams)])
    parts = []
    for first, name in zip(first_of, streams, strict=False):
        series_N, row_N = _by_time(streams[name], rows[name])
        share_N = np.arange(len(row_N)) / max(len(row_N), 1)
        parts.append((share_N, series_N + first, row_N))
    share_N, series_N, row_N = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    for at in np.argsort(share_N, kind="stable").tolist():
        yield message_of(every[series_N[at]], int(row_N[at]))


def _by_time(recorded: Sequence[Recorded], rows: Sequence[range]) -> tuple[IntArray, IntArray]:
    """Return (series, row) of every record of a stream, in order of event time.

    A clock that steps back does not reorder its series: such a record comes late, as it did when recorded.
    """
    series_N = np.repeat(np.arange(len(recorded)), [len(span) for span in rows])
    row_N = np.concatenate([np.arange(span.start, span.stop) for span in rows])
    time_N = np.concatenate(
        [
            np.arange(span.start, span.stop)
            if one.time_ms_N is None
            else np.maximum.accumulate(one.time_ms_N[span.start : span.stop])
            for one, span in zip(recorded, rows, strict=True)
        ]
    )
    order = np.argsort(time_N, kind="stable")
    return series_N[order], row_N[order]
