"""A benign deviation that recurs, marked once: `python -m tests.benchmarks.feedback [SCATTER [SEED]...]`.

Three seeded series of three features, a point every ten minutes: four weeks to learn from, forty that a worker's
stages see as records. Once a week, never at the same time, a job runs on one of them: for half an hour load and
memory are up, by an amount of its own each time, whose logarithm scatters by SCATTER (.1 unless it is said). When
the first incident of it is told to be over, somebody says `false_alarm`, which acts from the next record on. In
some weeks something else happens: latency up, load and latency up, everything zero, or load and memory down by as
much as the job has them up, twice each in every series; and where the job runs, load and memory up by three times
what it does.

`repeats_before`: runs of the job after the mark that begin an incident where nothing was said; `repeats_after`:
where it was. `other_incidents_lost`: what else begins one without feedback and not with it; `stronger_before` and
`stronger_after`: three times the job, which is of its kind and alerts only where its score is clearly above the
marked peak. `elsewhere`: the same job on another series, of which nothing was said. `restored`: whether from the
record on that a retraction acts from, half way, all incidents that begin are those of a run where nothing was ever
said. Sums over the seeds (0, 1 and 2 unless they are said).
"""

import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from models.arrays import FloatArray
from models.detector import Detector
from models.files import from_files, to_files
from pipeline.config import StreamSettings
from pipeline.connectors.memory import MemoryRecord
from pipeline.history import Read
from pipeline.incident_log import Course, begun, feedback_on
from pipeline.lanes import build_lane
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.alerts import Alert
from pipeline.stages.incidents import STARTS
from pipeline.stream_series import SeriesPipeline
from pipeline.train import fit_stream

CPU, PLACE = torch.device("cpu"), TopicPartition("metrics", 0)
BEGIN_MS, INTERVAL_MS, DAY = 1_700_000_000_000, 600_000, 144
LEARNED, SEEN, EVERY = 28 * DAY, 40 * 7 * DAY, 7 * DAY
SERIES, FEATURES = [f"s{number}" for number in range(3)], ("load", "memory", "latency")
MARKED, ELSEWHERE, JOB, LASTS, BIG = 0, 1, 6.0, 3, 3.0
SETTINGS = StreamSettings.model_validate(
    {"topic": PLACE.topic, "time": "ts", "features": list(FEATURES), "alerts": {"budget": "1 per week"}}
)


class Event(NamedTuple):
    """What is put into a series: rows `begin` to `begin + LASTS` of those that a worker sees."""

    series: int
    begin: int
    what: str


OTHERS = {
    "latency up": (0, 0, 1),
    "load and latency up": (0.7, 0, 1),
    "load and memory down": (-1, -0.6, 0),
    "everything zero": None,
}
_JOB = (1, 0.6, 0)


def events_of(random: np.random.Generator) -> list[Event]:
    """Return the job's runs and the others, none within half a day of another in one series."""
    found: list[Event] = []
    for series in range(len(SERIES)):
        slots = np.arange(2 * DAY, SEEN - EVERY, EVERY)
        begins = slots + random.integers(0, EVERY - DAY, len(slots))
        kinds = list(OTHERS) * 2
        if series in (MARKED, ELSEWHERE):
            kinds += ["bigger"] * 2
        # The first runs of the job come before the others, so that most lie behind the mark.
        other = random.choice(np.arange(5, len(begins)), len(kinds), replace=False)
        at = dict(zip(other.tolist(), random.permutation(kinds).tolist(), strict=True))
        for number, begin in enumerate(begins.tolist()):
            what = at.get(number, "job" if series in (MARKED, ELSEWHERE) else None)
            if what is not None:
                found.append(Event(series, begin, what))
    return found


def rows_of(seed: int, scatter: float) -> tuple[FloatArray, list[Event]]:
    """Return the values [S, LEARNED + SEEN, F] and what is put into those that are seen."""
    random = np.random.default_rng(seed)
    at = np.arange(LEARNED + SEEN)
    x_STF = np.empty((len(SERIES), len(at), len(FEATURES)))
    for series in range(len(SERIES)):
        phase = random.uniform(0, 2 * np.pi, 2)
        day = 2 * np.pi * at / DAY
        season = np.sin(day + phase[0]) + 0.4 * np.sin(2 * day + phase[1])
        load = np.clip(season + 0.5, 0, None) + 0.3 * random.standard_normal(len(at))
        noise = 0.3 * random.standard_normal((3, len(at)))
        x_STF[series] = np.column_stack([load, 5 + 0.5 * season, season + 0.3 * load**2]) + noise.T
    events = events_of(random)
    for event in events:
        rows = slice(LEARNED + event.begin, LEARNED + event.begin + LASTS)
        by = OTHERS.get(event.what, _JOB)
        if by is None:
            x_STF[event.series, rows] = 0
            continue
        size = JOB * (BIG if event.what == "bigger" else 1.0)
        if event.what == "job":
            size *= float(np.exp(scatter * random.standard_normal()))
        x_STF[event.series, rows] += size * np.array(by)
    return x_STF, events


def records_of(x_STF: FloatArray) -> list[MemoryRecord]:
    """Return what a worker sees, as records."""
    found: list[MemoryRecord] = []
    for row in range(LEARNED, LEARNED + SEEN):
        at_ms = BEGIN_MS + INTERVAL_MS * row
        for series, name in enumerate(SERIES):
            values = dict(zip(FEATURES, x_STF[series, row].tolist(), strict=True))
            value = json.dumps({"ts": at_ms, **values}).encode()
            found.append(MemoryRecord(len(found), at_ms, name.encode(), value, ()))
    return found


@dataclass
class Seen:
    """What the stages tell of the records."""

    alerts: list[Alert] = field(default_factory=list)
    marked_at: int | None = None
    """The row from which on the feedback acts."""

    def ended(self, jobs: Sequence[Event]) -> Course | None:
        """Return the first incident of a job, once it is told to be over."""
        for event in jobs:
            if self.found(event):
                begin_ms = BEGIN_MS + INTERVAL_MS * (LEARNED + event.begin)
                alerts = [a for a in self.alerts if a.series == SERIES[MARKED] and a.opened_ms >= begin_ms]
                course = begun(alerts[0])
                for alert in alerts[1:]:
                    course = course.after(alert)
                return None if course.ended_ms is None else course
        return None

    def found(self, event: Event) -> bool:
        """Tell whether an incident begins in an event, or within an hour after it."""
        begin_ms = BEGIN_MS + INTERVAL_MS * (LEARNED + event.begin)
        return any(
            alert.state in STARTS
            and alert.series == SERIES[event.series]
            and begin_ms <= alert.event_ms < begin_ms + 2 * LASTS * INTERVAL_MS
            for alert in self.alerts
        )


def seen_by_stages(
    detector: Detector,
    records: Sequence[MemoryRecord],
    jobs: Sequence[Event],
    *,
    mark: bool,
    retract_at: int = SEEN,
) -> Seen:
    """Run the records through the stages, an hour a poll, and mark the job's first incident."""
    lane = build_lane("machines", SETTINGS, from_files(to_files(detector)), "v1", CPU)
    stages, seen = lane.pipeline, Seen()
    assert isinstance(stages, SeriesPipeline)
    stages.restore(PLACE, [])
    marked: Course | None = None
    for row in range(0, SEEN, LASTS):
        begin, end = len(SERIES) * row, len(SERIES) * (row + LASTS)
        if mark and seen.marked_at is None and (course := seen.ended(jobs)):
            marked, seen.marked_at = course, row
            said = feedback_on(course, "false_alarm", by="somebody", at_ms=0)
            stages.adopt_feedback(PLACE, begin, {said.incident: said})
        if mark and marked is not None and row == retract_at:
            stages.adopt_feedback(PLACE, begin, {})
        seen.alerts += stages.process([PartitionRecords(PLACE, records[begin:end])]).alerts
    return seen


def of_seed(seed: int, scatter: float) -> dict[str, int]:
    x_STF, events = rows_of(seed, scatter)
    columns = {
        name: (BEGIN_MS + INTERVAL_MS * np.arange(LEARNED), x_STF[n, :LEARNED]) for n, name in enumerate(SERIES)
    }
    read = Read(columns, len(SERIES) * LEARNED, 0, 0, [], {})
    detector = fit_stream("machines", SETTINGS, FEATURES, read, device=CPU, progress=lambda share: None)
    records = records_of(x_STF)
    runs = [event for event in events if event.what == "job"]
    jobs = [event for event in runs if event.series == MARKED]
    without = seen_by_stages(detector, records, jobs, mark=False)
    with_it = seen_by_stages(detector, records, jobs, mark=True)
    half = SEEN // 2 // LASTS * LASTS
    taken_back = seen_by_stages(detector, records, jobs, mark=True, retract_at=half)
    assert with_it.marked_at is not None
    later = [event for event in jobs if event.begin >= with_it.marked_at]
    elsewhere = [event for event in runs if event.series == ELSEWHERE and event.begin >= with_it.marked_at]
    others = [event for event in events if event.what not in ("job", "bigger")]
    stronger = [event for event in events if event.what == "bigger" and event.series == MARKED]
    half_ms = BEGIN_MS + INTERVAL_MS * (LEARNED + half)
    restored = [[alert for alert in seen.alerts if alert.opened_ms >= half_ms] for seen in (without, taken_back)]
    return {
        "repeats": len(later),
        "repeats_before": sum(map(without.found, later)),
        "repeats_after": sum(map(with_it.found, later)),
        "other_incidents": sum(map(without.found, others)),
        "other_incidents_lost": sum(without.found(event) and not with_it.found(event) for event in others),
        "stronger_before": sum(map(without.found, stronger)),
        "stronger_after": sum(map(with_it.found, stronger)),
        "elsewhere_before": sum(map(without.found, elsewhere)),
        "elsewhere_after": sum(map(with_it.found, elsewhere)),
        "restored": restored[0] == restored[1],
    }


def main() -> None:
    began_s = time.perf_counter()
    torch.set_num_threads(1)
    scatter = float(sys.argv[1]) if sys.argv[1:] else 0.1
    seeds = [int(text) for text in sys.argv[2:]] or [0, 1, 2]
    by_seed = {str(seed): of_seed(seed, scatter) for seed in seeds}
    keys = next(iter(by_seed.values()))
    result = {key: sum(one[key] for one in by_seed.values()) for key in keys if key != "restored"}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(
        json.dumps(
            {
                **result,
                "scatter": scatter,
                "restored": all(one["restored"] for one in by_seed.values()),
                "by_seed": by_seed,
                "seconds": round(time.perf_counter() - began_s),
                "machine": machine,
            }
        )
    )


if __name__ == "__main__":
    main()
