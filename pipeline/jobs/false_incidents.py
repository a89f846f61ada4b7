"""False incidents of an evaluated series, counted by the same stage that raises them in production.

An incident is false where it opens, or is reopened, outside every labelled span widened by one window: both are
told to people. A budget allows so many in the rows where one could open.

Legend: N scored rows.
"""

from dataclasses import dataclass

import numpy as np

from models.arrays import BoolArray, FloatArray, IntArray
from pipeline.alert_settings import AlertSettings
from pipeline.budgets import Budget
from pipeline.protocols import TopicPartition
from pipeline.stages.incidents import STARTS, Incidents, Transition
from pipeline.stages.series import Points

WEEK_MS = 7 * 86_400_000.0


@dataclass(frozen=True)
class FalseIncidents:
    """How often a series would have been alarmed about nothing."""

    opened: int
    """Openings and reopenings."""
    quiet_rows: int
    """Rows outside the widened spans."""
    allowed: float
    """What the budget allows in that many rows."""

    def per_week(self, interval_ms: float) -> float:
        """Return them for a week of quiet rows; none where there is not one such row."""
        return self.opened / (self.quiet_rows * interval_ms / WEEK_MS) if self.quiet_rows else 0.0


def widened(label_N: BoolArray, window: int) -> BoolArray:
    """Tell which rows lie in a labelled span, or within `window` rows of one."""
    edges = np.diff(label_N.astype(np.int8), prepend=0, append=0)
    first, end = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    change = np.zeros(len(label_N) + 1, np.int64)
    np.add.at(change, np.maximum(first - window, 0), 1)
    np.add.at(change, np.minimum(end + window, len(label_N)), -1)
    return np.asarray(change[:-1].cumsum() > 0, np.bool_)


def false_incidents(
    time_ms_N: IntArray,
    score_N: FloatArray,
    label_N: BoolArray,
    *,
    threshold: float,
    window: int,
    budget: Budget,
    interval_ms: float,
    accepted_N: BoolArray | None = None,
) -> FalseIncidents:
    """Return the false incidents of a series whose scores reach `threshold`.

    Args:
        time_ms_N, score_N, label_N: of the scored rows, in their order.
        window: rows by which labelled spans are widened.
        accepted_N: the rows with which a level was accepted; by default none was.
    """
    accepted_N = np.zeros(len(score_N), np.bool_) if accepted_N is None else accepted_N
    transitions = followed(time_ms_N, score_N, accepted_N, threshold, AlertSettings())
    near_N = widened(label_N, window)
    opened = sum(one.state in STARTS and not near_N[one.position] for one in transitions)
    quiet = int((~near_N).sum())
    return FalseIncidents(opened, quiet, quiet / float(budget.points_per_incident(interval_ms)))


def followed(
    time_ms_N: IntArray, score_N: FloatArray, accepted_N: BoolArray, threshold: float, alerts: AlertSettings
) -> list[Transition]:
    """Return what the stage of incidents makes of one series' scored rows, in their order."""
    rows = len(score_N)
    points = Points(
        slot_M=np.zeros(rows, np.int64),
        index_M=np.arange(rows),
        time_ms_M=time_ms_N,
        values_MF=np.zeros((rows, 0)),
        held_M=np.zeros(rows, np.bool_),
        offset_M=np.arange(rows),
        inner_M=np.zeros(rows, np.int64),
    )
    stage = Incidents(
        "evaluation", alerts.quiet_points, hysteresis=alerts.hysteresis, merge_points=alerts.merge_points
    )
    partition = TopicPartition("evaluation", 0)
    return stage.follow(points, score_N, np.full(rows, threshold), ["series"], [partition], accepted_N)
