"""Scores and snapshots of a backtest -> the series to draw: those whose incidents score highest.

Scores of all points are in the folder, values in the snapshots: only those of the series that are drawn are read,
so memory holds no more than a picture needs. Of `kind: features` and `images` a partition is drawn as a series of
its records; of images the means of their regions are drawn.

Legend: N points of a series.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import IntArray
from pipeline.demo.counting import Verdict
from pipeline.demo.views import SeriesView, incidents_of
from pipeline.jobs.backtest import FIRST_MS, LAST_MS, Begun, Replay
from pipeline.jobs.backtest_output import read_scores
from pipeline.jobs.backtest_result import Incident, Result
from pipeline.snapshots import Position
from pipeline.stages.alerts import Alert
from pipeline.stages.regions import Regions

_MOST_SERIES = 12
BY_FEEDBACK: Mapping[Verdict, str] = {"found": "confirmed", "near": "nothing said", "false": "false alarm"}
_VERDICT: Mapping[str | None, Verdict] = {
    "false_alarm": "false",
    "confirmed": "found",
    "expected": "false",
    None: "near",
}

_Part = tuple[Begun, str]
"""What is drawn by itself: a series of a partition."""


def pictures_of(replay: Replay, result: Result, scores: Path, to_ms: int | None) -> list[SeriesView]:
    """Return what is to be drawn, the most telling first; raises as `Snapshots.read` does."""
    chosen = _chosen(result)
    scored = _scored(scores, chosen)
    spec = replay.lane.slot.champion.detector.spec
    regions = None if spec.image is None else Regions(spec.image)
    valued = _valued(replay, chosen, LAST_MS if to_ms is None else to_ms, regions)
    verdicts = {each.course.incident: _VERDICT[each.verdict] for each in result.incidents}
    alerts: dict[tuple[int, str], list[Alert]] = {}
    for begun, alert in result.tally.alerts:
        alerts.setdefault((id(begun), alert.series), []).append(alert)
    features = spec.features if regions is None else regions.names
    views = []
    for begun, name in chosen:
        key = (begun.partition.partition, begun.topic_id, name)
        if key not in valued or key not in scored:
            continue
        value_at, score_at = _same(valued[key], scored[key])
        if not len(value_at):
            continue
        told = alerts.get((id(begun), name), [])
        is_table = not name
        x_N = (valued[key]["offset"] if is_table else valued[key]["time_ms"])[value_at].astype(np.float64)
        own = {alert.incident for alert in told}
        views.append(
            SeriesView(
                name=name or f"{begun.partition.topic}, partition {begun.partition.partition}",
                x_N=x_N,
                values_NF=valued[key]["values"][value_at],
                features=features,
                score_N=scored[key]["score"][score_at],
                threshold_N=scored[key]["threshold"][score_at],
                spans=_warming(begun, x_N, is_table),
                found=(),
                incidents=incidents_of(
                    told, verdicts, {alert.incident: float(alert.offset) for alert in told} if is_table else None
                ),
                words=BY_FEEDBACK,
                told=_told([each for each in result.incidents if each.course.incident in own]),
            )
        )
    return views


def _chosen(result: Result) -> list[_Part]:
    """Return the parts whose incidents score highest, or the first ones where there are none."""
    highest: dict[tuple[int, str], float] = {}
    of: dict[tuple[int, str], _Part] = {}
    for begun, alert in result.tally.alerts:
        if alert.score is not None:
            key = (id(begun), alert.series)
            of[key] = (begun, alert.series)
            highest[key] = max(highest.get(key, 0.0), alert.score)
    ranked = [of[key] for key in sorted(highest, key=lambda key: -highest[key])[:_MOST_SERIES]]
    if ranked or not result.begun:
        return ranked
    names = sorted(result.tally.series)[:3] or [""]
    return [(begun, name) for name in names for begun in result.begun]


def _scored(path: Path, chosen: Sequence[_Part]) -> dict[Any, dict[str, Any]]:
    """Return the scores of what is drawn, by (partition, topic's id, series), in the order of records."""
    asked = frozenset(name for _, name in chosen)
    keys = {(begun.partition.partition, begun.topic_id, name) for begun, name in chosen}
    parts: dict[Any, list[dict[str, Any]]] = {}
    for columns in read_scores(path, asked):
        names, topics = (np.array(columns.pop(column), np.str_) for column in ("series", "topic_id"))
        for partition, topic_id, name in keys:
            which = (columns["partition"] == partition) & (topics == topic_id) & (names == name)
            if which.any():
                part = {column: c[which] for column, c in columns.items()}
                parts.setdefault((partition, topic_id, name), []).append(part)
    return {key: _joined(each) for key, each in parts.items()}


def _valued(
    replay: Replay, chosen: Sequence[_Part], to_ms: int, regions: Regions | None
) -> dict[Any, dict[str, Any]]:
    """Return times and values of what is drawn, by (partition, topic's id, series)."""
    parts: dict[Any, list[dict[str, Any]]] = {}
    for begun in {id(begun): begun for begun, _ in chosen}.values():
        for rows in _rows_of(replay, begun, to_ms):
            for _, name in (part for part in chosen if part[0] is begun):
                if rows.series is None:
                    own = np.ones(len(rows), np.bool_)
                elif name in rows.series:
                    own = rows.code_N == list(rows.series).index(name)
                else:
                    continue
                columns = {"offset": rows.offset_N[own], "row": rows.row_N[own], "time_ms": rows.time_ms_N[own]}
                key = (begun.partition.partition, begun.topic_id, name)
                values_NF = rows.values_NF[own]
                shown_NF = values_NF if regions is None else regions.means(values_NF)
                parts.setdefault(key, []).append(columns | {"values": shown_NF})
    return {key: _joined(each) for key, each in parts.items()}


def _rows_of(replay: Replay, begun: Begun, to_ms: int) -> Iterator[Any]:
    position = Position(begun.topic_id, begun.offset)
    read = replay.snapshots.read(
        replay.lane.name, FIRST_MS, to_ms, lambda gap: None, since={begun.partition: position}
    )
    for rows in read:
        if rows.topic_id != begun.topic_id:
            return
        yield replay.of_model(rows)


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[IntArray, IntArray]:
    """Return where the places of rows that both have stand in each."""
    keys = []
    for each in (one, other):
        key_N = np.empty(len(each["offset"]), [("offset", np.int64), ("row", np.int64)])
        key_N["offset"], key_N["row"] = each["offset"], each["row"]
        keys.append(key_N)
    _, *(at_one, at_other) = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return at_one, at_other


def _warming(begun: Begun, x_N: Any, is_table: bool) -> list[tuple[float, float]]:
    """Return the first stretch of a cold begin, to be shaded."""
    if begun.warming_until_ms is None or is_table or begun.warming_until_ms <= x_N[0]:
        return []
    return [(float(x_N[0]), float(min(begun.warming_until_ms, x_N[-1])))]


def _told(incidents: Sequence[Incident]) -> str:
    false = sum(each.verdict == "false_alarm" for each in incidents)
    said = f" · {false} false by feedback" if false else ""
    return f"{len(incidents):,} incident{'s' * (len(incidents) != 1)}{said}"
