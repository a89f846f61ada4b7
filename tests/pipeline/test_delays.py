"""Several views, a memory and rows that wait: live scores are those of a whole series, however polls cut it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.arrays import IntArray
from models.detector import Detector
from models.files import from_files, to_files
from models.online_tail import SERIES_PACE, OnlineTail
from models.scaling import Scaling
from pipeline.lanes import build_lane
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages.scoring import Scorer
from pipeline.stages.series import Points, SeriesTable
from pipeline.stages.windows import Windows
from pipeline.stream import Outcome, StreamPipeline
from tests.records import Record
from tests.streams import BEGIN_MS, CPU, SERIES, Payload, series_detector, series_payloads

PLACE = TopicPartition("metrics", 0)
SHAPES = [("vanilla", 0), ("vanilla", 3), ("views", 0), ("views", 3)]


def copied(architecture: str) -> Detector:
    return from_files(to_files(series_detector(architecture)))


def pipeline_of(architecture: str, delay: int) -> StreamPipeline:
    alerts = SERIES.alerts.model_copy(update={"delay": delay})
    held = SERIES.model_copy(update={"alerts": alerts, "missing": "hold", "hold_points": 3})
    return build_lane("machines", held, copied(architecture), "v1", CPU).pipeline


def with_holes(payloads: Sequence[Payload]) -> list[Payload]:
    """Take a value from some records: now and then, and at one time from all series twice in a row."""
    holed: list[Payload] = []
    for number, (key, value) in enumerate(payloads):
        row = json.loads(value or b"")
        if number % 37 == 20 or 150 <= number < 158:
            del row["mem"]
        holed.append((key, json.dumps(row).encode()))
    return holed


RECORDS = [Record(n, BEGIN_MS + 10**9, *pair) for n, pair in enumerate(with_holes(series_payloads(90)))]
HELD = {record.offset for record in RECORDS if b"mem" not in (record.value or b"")}


def run(pipeline: StreamPipeline, records: Sequence[Record], cuts: Sequence[int] = ()) -> list[Outcome]:
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    outcomes = []
    for low, high in pairwise(edges):
        outcome = pipeline.process([PartitionRecords(PLACE, records[low:high])])
        outcomes.append(replace(outcome, scored_now=lambda now=outcome.scored: now))  # type: ignore[misc]
    return outcomes


def scores(outcomes: Sequence[Outcome]) -> dict[int, tuple[int, float]]:
    """Return (event time of the judged row, its score) by the offset that let it be judged."""
    return {
        int(offset): (int(time_ms), float(score))
        for outcome in outcomes
        for offset, time_ms, score in zip(
            outcome.scored.offset_M, outcome.scored.time_ms_M, outcome.scored.score_M, strict=True
        )
        if not np.isnan(score)
    }


def alerts(outcomes: Sequence[Outcome]) -> list[Any]:
    return [alert for outcome in outcomes for alert in outcome.alerts]


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, len(RECORDS)), max_size=12))
def test_polls_do_not_matter(architecture: str, delay: int, cuts: list[int]) -> None:
    whole, cut = (
        run(pipeline_of(architecture, delay), RECORDS),
        run(pipeline_of(architecture, delay), RECORDS, cuts),
    )
    assert scores(cut) == scores(whole)
    assert alerts(cut) == alerts(whole)


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
def test_records_one_by_one_are_scored_as_all_at_once(architecture: str, delay: int) -> None:
    """There are polls of which no row is read, and such of which none is judged."""
    one_by_one = run(pipeline_of(architecture, delay), RECORDS, range(len(RECORDS)))
    whole = run(pipeline_of(architecture, delay), RECORDS)
    assert scores(one_by_one) == scores(whole)
    assert alerts(one_by_one) == alerts(whole)
    assert alerts(whole)


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
def test_every_row_is_judged_once_but_held_and_warming_ones(architecture: str, delay: int) -> None:
    judged = [
        (offset % 4, time_ms)
        for offset, (time_ms, _) in scores(run(pipeline_of(architecture, delay), RECORDS)).items()
    ]
    expected = [
        (record.offset % 4, json.loads(record.value or b"")["ts"])
        for record in RECORDS
        if 4 * 8 <= record.offset < len(RECORDS) - 4 * delay and record.offset not in HELD
    ]
    assert sorted(judged) == sorted(expected)


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
@pytest.mark.parametrize("at", [1, 30, 37, 150, 154, 158])
def test_a_restored_state_goes_on_bit_for_bit(architecture: str, delay: int, at: int) -> None:
    first, second = pipeline_of(architecture, delay), pipeline_of(architecture, delay)
    before = run(first, RECORDS[:at])
    second.restore(TopicPartition(PLACE.topic, 9), [])
    second.restore(PLACE, [first.snapshot(PLACE)])
    after = run(second, RECORDS[at:])
    through = run(pipeline_of(architecture, delay), RECORDS)
    assert scores(before) | scores(after) == scores(through)
    assert alerts([*before, *after]) == alerts(through)


@pytest.mark.parametrize("old", SHAPES)
@pytest.mark.parametrize("new", SHAPES)
@pytest.mark.parametrize("at", [20, 37, 155, 200])
def test_another_delay_or_other_views_take_the_state_over(
    old: tuple[str, int], new: tuple[str, int], at: int
) -> None:
    """Rows are then judged by what comes next: soon every one is, and never a held or warming one."""
    first, second = pipeline_of(*old), pipeline_of(*new)
    run(first, RECORDS[:at])
    second.restore(PLACE, [first.snapshot(PLACE)])
    found, through = scores(run(second, RECORDS[at:])), scores(run(pipeline_of(*new), RECORDS))
    assert all(np.isfinite(score) for _, score in found.values())
    assert found.keys() <= through.keys()
    assert {offset: time_ms for offset, (time_ms, _) in found.items()} == {
        offset: time_ms for offset, (time_ms, _) in through.items() if offset in found
    }
    late = at + 4 * (new[1] + 1)
    assert {offset for offset in through if offset >= late} <= found.keys()


@pytest.mark.parametrize(("old", "new"), [(3, 8), (2, 4), (8, 3)])
def test_no_row_is_judged_twice_when_the_delay_changes(old: int, new: int) -> None:
    first, second = pipeline_of("views", old), pipeline_of("views", new)
    before = scores(run(first, RECORDS[:200])).items()
    second.restore(PLACE, [first.snapshot(PLACE)])
    after = scores(run(second, RECORDS[200:])).items()
    judged = [[(offset % 4, time_ms) for offset, (time_ms, _) in part] for part in (before, after)]
    assert not set(judged[0]) & set(judged[1])


@pytest.mark.parametrize("at", [36, 40, 48, 80])
def test_after_a_longer_delay_a_second_restore_changes_nothing(at: int) -> None:
    """Of series so young that the ring is not full, the rows that there are stay where they are."""
    short, long, again = pipeline_of("views", 0), pipeline_of("views", 8), pipeline_of("views", 8)
    run(short, RECORDS[:at])
    long.restore(PLACE, [short.snapshot(PLACE)])
    run(long, RECORDS[at : at + 4])
    again.restore(PLACE, [long.snapshot(PLACE)])
    assert scores(run(again, RECORDS[at + 4 :])) == scores(run(long, RECORDS[at + 4 :]))


def surprise_live(detector: Detector, delay: int, values_NF: np.ndarray) -> np.ndarray:
    """Return the raw surprise of each row of series a, at the place of the row that is judged."""
    scorer = Scorer(detector, CPU, delay)
    table = SeriesTable(
        2, detector.spec.window, known_scaling=detector.scaling.for_series, known_interval_ms=lambda name: 1.0
    )
    windows = Windows(table, estimate_scaling=detector.scaling.for_new, device=CPU, near=scorer.near)
    slot = int(table.add_all(PLACE, ["a"])[0])
    count = len(values_NF)
    index_N, found_N = np.arange(count), np.full(count, np.nan)
    points = Points(np.full(count, slot), index_N, index_N, values_NF, np.zeros(count, bool), index_N, 0 * index_N)
    tail = Surprise(CPU, SERIES_PACE)
    for scores in scorer.score_windows(points, windows, tail):
        found_N[scores.judged.time_ms_M] = scores.score_K
    return found_N


class Surprise(OnlineTail):
    """No recalibration: the score is the surprise."""

    def follow(self, slot_K: IntArray, surprise_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return surprise_K, torch.zeros(len(slot_K), dtype=torch.bool)


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
def test_live_scores_are_those_of_the_whole_series(architecture: str, delay: int) -> None:
    detector = copied(architecture)
    payloads = series_payloads(300)[::4]
    rows = [json.loads(value or b"") for _, value in payloads]
    values_NF = np.array([[row["cpu"], row["mem"]] for row in rows])
    live_N = surprise_live(detector, delay, values_NF)
    whole_N = detector.score_series("a", values_NF, [delay])[delay]
    # Before, windows reach back to where the series is taken to have stood still.
    full = 2 * detector.spec.window
    assert np.isfinite(live_N[full : 300 - delay]).all()
    np.testing.assert_allclose(live_N[full : 300 - delay], whole_N[full : 300 - delay], atol=1e-4, rtol=1e-5)
    assert (whole_N[full:] > 30).any()


@pytest.mark.parametrize(("architecture", "delay"), SHAPES)
def test_an_alert_tells_the_judged_row_and_the_record_that_let_it_be_judged(architecture: str, delay: int) -> None:
    detector = copied(architecture)
    opened = [alert for alert in alerts(run(pipeline_of(architecture, delay), RECORDS)) if alert.state == "opened"]
    assert opened
    rows = [{"offset": record.offset, **json.loads(record.value or b"")} for record in RECORDS]
    for alert in opened:
        row = next(row for row in rows if row["ts"] == alert.event_ms and row["offset"] % 4 == alert.offset % 4)
        assert alert.offset == row["offset"] + 4 * delay
        for name in ("cpu", "mem"):
            assert alert.features[name].observed == pytest.approx(row[name], rel=1e-5, abs=1e-6)
        if alert.series != "new":
            expected_F = expected_at(detector, alert.series, rows, row["offset"])
            for name, expected in zip(("cpu", "mem"), expected_F, strict=True):
                assert alert.features[name].expected == pytest.approx(expected, rel=1e-4, abs=1e-4)


def expected_at(detector: Detector, series: str, rows: list[dict[str, Any]], offset: int) -> np.ndarray:
    """Return what the detector makes of a row, held values filled in."""
    last: Mapping[str, float] = {}
    values = []
    for row in rows[offset % 4 : offset + 1 : 4]:
        last = {**last, **row}
        values.append([last["cpu"], last["mem"]])
    pair = detector.scaling.for_series(series)
    assert pair is not None
    z_TF = torch.from_numpy(Scaling.apply(np.array(values[-detector.spec.window :]), *pair))
    expected_F: np.ndarray = detector.explain(z_TF[None]).expected_BF[0].numpy() * pair[1] + pair[0]
    return expected_F
