"""What the demo's alerts are worth beside the labels: found incidents, false alarms, and the budget for them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from models.arrays import IntArray
from pipeline.demo.data import Recorded, Span
from pipeline.stages.alerts import Alert

MARGIN_POINTS = 32
"""An opening so near to a labelled span counts neither as found nor as false."""
COUNTING = (
    "Series: a labelled incident is found when an alert of state `opened` or `reopened` has its event time inside "
    f"the labelled span, first to last labelled point; an opening up to {MARGIN_POINTS} points (by the series' "
    "median interval) before or after a span is neither found nor false; any other opening is a false alarm. "
    "Table: each labelled record is an incident, found when it raises an alert; an alert on an unlabelled record "
    "is a false alarm. Repeats of an alert (equal ids) count once. The budget is one false alarm a day of its own "
    "replayed time for each series, one in 1,000 replayed records for the table. `records` are those replayed, "
    "`alerts` all states. `seconds` of a stream run from its first replayed record to the last one scored, of the "
    "total from the start of the demo to the writing of this file."
)

DAY_MS = 86_400_000
Verdict = Literal["found", "near", "false"]


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of one stream, or of all of them."""

    records: int
    alerts: int
    incidents_labelled: int
    incidents_found: int
    false_alarms: int
    false_alarm_budget: float
    seconds: float

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of each opening and of each labelled span of one series."""

    verdicts: Mapping[str, Verdict]
    """Incident id -> verdict."""
    found: Sequence[bool]
    """For each labelled span, whether an alert opened inside it."""
    false_alarms: int
    """Openings and reopenings that are false."""


def judge_series(opened: Sequence[Alert], time_ms_N: IntArray, spans: Sequence[Span], window: int) -> Judged:
    """Judge the openings of one series by event time.

    Args:
        opened: alerts of states `opened` and `reopened` of this series; the first one of an incident, or one that
            finds something, gives its verdict.
        time_ms_N: event times of all rows that `spans` points into.
        window: points around a span in which an opening counts neither as found nor as false.
    """
    first_ms = np.array([time_ms_N[first : last + 1].min() for first, last in spans], np.int64)
    last_ms = np.array([time_ms_N[first : last + 1].max() for first, last in spans], np.int64)
    margin_ms = window * interval_ms(time_ms_N)
    verdicts: dict[str, Verdict] = {}
    found, false_alarms = np.zeros(len(spans), bool), 0
    for alert in opened:
        inside = (first_ms <= alert.event_ms) & (alert.event_ms <= last_ms)
        near = (first_ms - margin_ms <= alert.event_ms) & (alert.event_ms <= last_ms + margin_ms)
        verdict: Verdict = "found" if inside.any() else "near" if near.any() else "false"
        if verdict == "found" or alert.incident not in verdicts:
            verdicts[alert.incident] = verdict
        found |= inside
        false_alarms += verdict == "false"
    return Judged(verdicts, found.tolist(), false_alarms)


def judge_table(opened: Sequence[tuple[Alert, int]], spans: Sequence[Span]) -> Judged:
    """Judge the alerts of a table, each with the row of its record; every labelled row is an incident."""
    labelled = [row for first, last in spans for row in range(first, last + 1)]
    rows = {row for _, row in opened}
    wanted = set(labelled)
    verdicts: dict[str, Verdict] = {a.incident: "found" if row in wanted else "false" for a, row in opened}
    return Judged(verdicts, [row in rows for row in labelled], sum(one == "false" for one in verdicts.values()))


def budget_of(recorded: Recorded) -> float:
    """Return how many false alarms the replayed part of a series or table may raise."""
    if recorded.time_ms_N is None:
        return (len(recorded) - recorded.train_rows) / 1000
    replayed_ms_N = recorded.time_ms_N[recorded.train_rows :]
    return float(replayed_ms_N.max() - replayed_ms_N.min()) / DAY_MS


def tally_of(replayed: Sequence[Recorded], judged: Sequence[Judged], alerts: int, seconds: float) -> Tally:
    """Sum up one stream from what was replayed and how each of its series was judged."""
    return Tally(
        records=sum(len(recorded) - recorded.train_rows for recorded in replayed),
        alerts=alerts,
        incidents_labelled=sum(len(one.found) for one in judged),
        incidents_found=sum(sum(one.found) for one in judged),
        false_alarms=sum(one.false_alarms for one in judged),
        false_alarm_budget=round(sum(budget_of(recorded) for recorded in replayed), 3),
        seconds=round(seconds, 3),
    )


def total_of(tallies: Sequence[Tally], seconds: float) -> Tally:
    """Sum the streams; `seconds` is that of the whole demo."""
    return Tally(
        records=sum(tally.records for tally in tallies),
        alerts=sum(tally.alerts for tally in tallies),
        incidents_labelled=sum(tally.incidents_labelled for tally in tallies),
        incidents_found=sum(tally.incidents_found for tally in tallies),
        false_alarms=sum(tally.false_alarms for tally in tallies),
        false_alarm_budget=round(sum(tally.false_alarm_budget for tally in tallies), 3),
        seconds=round(seconds, 3),
    )


def summary(total: Tally, streams: Mapping[str, Tally], course: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of `summary.json`; `course`: what the worker went through, in counts."""
    return {
        "total": asdict(total),
        "streams": {name: asdict(tally) for name, tally in streams.items()},
        **course,
        "counting": COUNTING,
    }


def interval_ms(time_ms_N: IntArray) -> float:
    """Return the median time between two points."""
    return float(np.median(np.diff(time_ms_N)))
