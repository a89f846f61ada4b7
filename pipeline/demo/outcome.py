"""Alerts and score curves of the replay -> figures and views of each stream.

Labels come in here, after everything was scored, and nowhere before.

Legend: N rows of a series, P scored points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.arrays import FloatArray
from pipeline.demo.counting import Judged, Tally, judge_series, judge_table, tally_of
from pipeline.demo.data import Recorded, Span
from pipeline.demo.views import SeriesView, StreamView, incidents_of
from pipeline.stages.alerts import Alert

Curves = Mapping[str, npt.NDArray[np.generic]]
"""Columns over scored points: series, time_ms, offset, score, threshold."""

_TITLES = {"machines": "Server machines", "metrics": "Single metrics", "requests": "Web requests"}
_ABOUT = {
    "machines": (
        "Two servers, 38 measurements a minute each, judged together by a recurrent autoencoder. "
        "Budget: one false alarm a day for each machine."
    ),
    "metrics": (
        "Each series a single number: cloud machines, ad exchanges, road traffic, tweets. "
        "One linear autoencoder for all of them, in three views. Budget: one false alarm a day for each series."
    ),
    "requests": (
        "HTTP connections without time or order, each judged by itself by a dense autoencoder. "
        "Every labelled record counts as one incident. Budget: one false alarm in 1,000 records."
    ),
}


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """One stream's replay, as it ended."""

    stream: str
    recorded: Sequence[Recorded]
    alerts: Sequence[Alert]
    """Each once."""
    labels: Mapping[str, Sequence[Span]]
    curves: Curves
    window: int
    seconds: float
    first_offset: int = 0
    """Of a table: offset of its first replayed record."""


def tally_and_view(outcome: StreamOutcome) -> tuple[Tally, StreamView]:
    """Judge a stream's alerts by its labels."""
    is_table = outcome.recorded[0].time_ms_N is None
    judged, series = [], []
    for recorded in outcome.recorded:
        spans = outcome.labels[recorded.name]
        one, view = _table(outcome, recorded, spans) if is_table else _series(outcome, recorded, spans)
        judged.append(one)
        series.append(view)
    tally = tally_of(outcome.recorded, judged, len(outcome.alerts), outcome.seconds)
    title, about = _TITLES[outcome.stream], _ABOUT[outcome.stream]
    return tally, StreamView(outcome.stream, title, about, is_table, tally, series)


def _series(outcome: StreamOutcome, recorded: Recorded, spans: Sequence[Span]) -> tuple[Judged, SeriesView]:
    assert recorded.time_ms_N is not None
    alerts = [alert for alert in outcome.alerts if alert.series == recorded.name]
    opened = [alert for alert in alerts if alert.state in ("opened", "reopened")]
    judged = judge_series(opened, recorded.time_ms_N, spans, outcome.window)
    of_series_P = outcome.curves["series"] == recorded.name
    replayed_ms_N = recorded.time_ms_N[recorded.train_rows :]
    on_time = np.flatnonzero(np.diff(np.maximum.accumulate(replayed_ms_N), prepend=-1) > 0)
    # The worker leaves late records out, so the points are matched by their time.
    time_ms_P, row_P, point_P = np.intersect1d(
        replayed_ms_N[on_time], outcome.curves["time_ms"][of_series_P], assume_unique=True, return_indices=True
    )
    view = SeriesView(
        name=recorded.name,
        x_N=time_ms_P.astype(np.float64),
        values_NF=recorded.values_NF[recorded.train_rows + on_time[row_P]],
        features=recorded.features,
        score_N=_floats(outcome.curves["score"][of_series_P][point_P]),
        threshold_N=_floats(outcome.curves["threshold"][of_series_P][point_P]),
        spans=[(float(recorded.time_ms_N[first]), float(recorded.time_ms_N[last])) for first, last in spans],
        found=judged.found,
        incidents=incidents_of(alerts, judged.verdicts),
    )
    return judged, view


def _table(outcome: StreamOutcome, recorded: Recorded, spans: Sequence[Span]) -> tuple[Judged, SeriesView]:
    # The topic has one partition, so a record's offset tells its row.
    row_of = {alert.incident: alert.offset - outcome.first_offset + recorded.train_rows for alert in outcome.alerts}
    judged = judge_table([(alert, row_of[alert.incident]) for alert in outcome.alerts], spans)
    row_P = outcome.curves["offset"].astype(np.int64) - outcome.first_offset + recorded.train_rows
    view = SeriesView(
        name=recorded.name,
        x_N=row_P.astype(np.float64),
        values_NF=recorded.values_NF[row_P],
        features=recorded.features,
        score_N=_floats(outcome.curves["score"]),
        threshold_N=_floats(outcome.curves["threshold"]),
        spans=[(float(first), float(last)) for first, last in spans],
        found=judged.found,
        incidents=incidents_of(
            outcome.alerts, judged.verdicts, {incident: float(row) for incident, row in row_of.items()}
        ),
    )
    return judged, view


def _floats(column_P: npt.NDArray[np.generic]) -> FloatArray:
    return column_P.astype(np.float64)
