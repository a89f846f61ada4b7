"""What the report draws: plain arrays and incidents, wherever they come from.

Legend: N points, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.arrays import FloatArray
from pipeline.demo.counting import Tally, Verdict
from pipeline.stages.alerts import Alert, FeatureView
from pipeline.stages.incidents import ENDS, Severity

BY_LABEL: Mapping[Verdict, str] = {"found": "found", "near": "beside a label", "false": "false alarm"}


@dataclass(frozen=True, slots=True)
class IncidentView:
    """One incident from its opening to its last alert."""

    id: str
    verdict: Verdict
    severity: Severity
    """The worst that it reached."""
    x: float
    """Where it opened: event time in ms, or the record's number in a table."""
    opened_ms: int
    ended_ms: int | None
    """None: still open when the replay ended, or a record of a table. Of a reopened one, its last end."""
    accepted: bool
    """It ended because its level was accepted."""
    score: float
    threshold: float
    features: Sequence[tuple[str, FeatureView]]
    """As they were at the opening, largest share first."""
    stale: bool = False
    """It ended because its series stopped."""


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series with its scores."""

    name: str
    x_N: FloatArray
    """Event times in ms, or record numbers in a table; ascending."""
    values_NF: FloatArray
    features: Sequence[str]
    score_N: FloatArray
    """NaN: not scored."""
    threshold_N: FloatArray
    spans: Sequence[tuple[float, float]]
    """First and last x of each labelled incident."""
    found: Sequence[bool]
    incidents: Sequence[IncidentView]
    words: Mapping[Verdict, str] = field(default_factory=lambda: BY_LABEL)
    """What the verdicts are called."""
    told: str = ""
    """What is said of its incidents; "": how many labels were found."""

    @property
    def highest_score(self) -> float:
        return float(np.nanmax(self.score_N, initial=0.0))


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream: its figures and its series."""

    name: str
    title: str
    about: str
    is_table: bool
    tally: Tally
    series: Sequence[SeriesView]


def incidents_of(
    alerts: Sequence[Alert], verdicts: Mapping[str, Verdict], row_of: Mapping[str, float] | None = None
) -> list[IncidentView]:
    """Put the alerts of one series together into incidents, in order of opening.

    Args:
        row_of: for a table, the record's number for each incident.
    """
    of_incident: dict[str, list[Alert]] = {}
    for alert in alerts:
        of_incident.setdefault(alert.incident, []).append(alert)
    views = []
    for incident, course in of_incident.items():
        first = next((alert for alert in course if alert.state == "opened"), None)
        if first is None or first.threshold is None:
            continue
        highest, worst = max(
            ((alert.score, alert) for alert in course if alert.score is not None), key=lambda told: told[0]
        )
        ended = course[-1] if course[-1].state in ENDS else None
        views.append(
            IncidentView(
                incident,
                verdicts[incident],
                worst.severity,
                row_of[incident] if row_of is not None else float(first.opened_ms),
                first.opened_ms,
                ended.event_ms if ended else None,
                ended is not None and ended.state == "accepted",
                highest,
                first.threshold,
                list(first.features.items()),
                ended is not None and ended.state == "stale",
            )
        )
    return sorted(views, key=lambda view: view.x)
