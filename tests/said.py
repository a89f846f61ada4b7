"""Feedback for tests."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.feedback import VERSION, Deviation, Feedback, Verdict

Sign = Literal[-1, 1]


def deviation(shares: Mapping[str, float], signs: Mapping[str, Sign] | None = None) -> Deviation:
    """Return one of these shares; all observed above what was expected, unless `signs` says otherwise."""
    return Deviation(dict(shares), dict.fromkeys(shares, 1) if signs is None else dict(signs))


CPU_UP = deviation({"cpu": 0.9, "mem": 0.1}, {"cpu": 1})


def said(
    incident: str,
    verdict: Verdict = "false_alarm",
    *,
    series: str = "a",
    peak: float | None = 50.0,
    deviations: Sequence[Deviation] = (CPU_UP,),
    **changes: Any,
) -> Feedback:
    """Return a word on an incident of the series a of the stream `machines`, at a peak of 50."""
    told: dict[str, Any] = {
        "by": "me@here",
        "at_ms": 1,
        "stream": "machines",
        "topic": "metrics",
        "partition": 0,
        "opened_ms": 100,
        "ended_ms": 200,
        "threshold": None if peak is None else 30.0,
    }
    return Feedback(
        VERSION, incident, verdict, series=series, peak=peak, deviations=list(deviations), **{**told, **changes}
    )
