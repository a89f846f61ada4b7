"""The folder that a backtest leaves: of each stream `alerts.jsonl`, `summary.json`, `report.html`, and if asked for
`scores.parquet`.

Legend: M scored points.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipeline.connectors.parquet import Array, Coded, Reader, Writer
from pipeline.jobs.backtest import Judged
from pipeline.stages.alerts import Alert, message, structured

ALERTS, SUMMARY, REPORT, SCORES = "alerts.jsonl", "summary.json", "report.html", "scores.parquet"
OURS = {ALERTS, SUMMARY, REPORT, SCORES}
"""The files that a backtest writes."""


def write_alerts(folder: Path, alerts: Sequence[Alert], topic: str) -> None:
    """Write each alert as a CloudEvent in a line, as readers of the topic would see it."""
    with (folder / ALERTS).open("wb") as file:
        for alert in alerts:
            sent = message(alert, topic)
            file.write(msgspec.json.encode(structured(dict(sent.headers), sent.value or b"")) + b"\n")


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


ScoreColumns = Mapping[str, Array | Coded]


def score_columns(judged: Judged) -> ScoreColumns:
    """Return the score of each point of a piece of a partition; to be called before the next one is judged."""
    scored, begun = judged.outcome.scored, judged.begun
    count = len(scored.offset_M)
    until_ms = begun.warming_until_ms
    return {
        "topic_id": Coded([begun.topic_id], np.zeros(count, np.int64)),
        "partition": np.full(count, begun.partition.partition, np.int32),
        "offset": scored.offset_M,
        "row": scored.row_M.astype(np.int32),
        "time_ms": scored.time_ms_M,
        "series": _coded(scored.series),
        "score": scored.score_M,
        "threshold": scored.threshold_M,
        "version": Coded([judged.version], np.zeros(count, np.int64)),
        "warming": np.zeros(count, np.bool_) if until_ms is None else scored.time_ms_M < until_ms,
    }


class Scores:
    """Writes the score of each judged point, portion by portion."""

    def __init__(self, path: Path, stream: str) -> None:
        self._writer = Writer({"offkey.stream": stream}, path)

    def add(self, columns: ScoreColumns) -> None:
        """Append what a piece of a partition came to."""
        self._writer.add(columns)

    def close(self) -> None:
        self._writer.close()


def read_scores(path: Path, series: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the columns of some series' points, group by group."""
    reader = Reader(path)
    for group in range(reader.groups):
        columns = reader.read(group)
        names, topics = columns.coded("series"), columns.coded("topic_id")
        asked = np.array([name in series for name in names.names], np.bool_)[names.code_N]
        yield {
            "series": [names.names[code] for code in names.code_N[asked].tolist()],
            "topic_id": [topics.names[code] for code in topics.code_N[asked].tolist()],
            **{name: columns.array(name)[asked] for name in ("partition", "offset", "row", "score", "threshold")},
        }


def _coded(names: Sequence[str]) -> Coded:
    place: dict[str, int] = {}
    code_M = np.fromiter((place.setdefault(name, len(place)) for name in names), np.int64, len(names))
    return Coded(list(place) or [""], code_M)
