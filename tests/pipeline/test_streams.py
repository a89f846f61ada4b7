"""The whole path from records to scores: any cut into polls gives the same scores, bit for bit."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stream import Outcome, StreamPipeline
from tests.records import Record
from tests.streams import BEGIN_MS, SERIES, Payload, feature_payloads, lanes, series_payloads

PLACES = {"machines": TopicPartition("metrics", 0), "payments": TopicPartition("payments", 0)}
PAYLOADS = {"machines": series_payloads(60), "payments": feature_payloads(310)}


def records_of(payloads: Sequence[Payload]) -> list[Record]:
    return [Record(n, BEGIN_MS + 10**9, key, value) for n, (key, value) in enumerate(payloads)]


def scores(outcomes: Sequence[Outcome]) -> dict[int, float]:
    return {
        int(offset): float(score)
        for outcome in outcomes
        for offset, score in zip(outcome.scored.offset_M, outcome.scored.score_M, strict=True)
        if not np.isnan(score)
    }


def run(pipeline: StreamPipeline, place: TopicPartition, records: Sequence[Record], cuts: Sequence[int]) -> Any:
    edges = sorted({0, len(records), *(cut for cut in cuts if cut < len(records))})
    outcomes = [pipeline.process([PartitionRecords(place, records[low:high])]) for low, high in pairwise(edges)]
    return scores(outcomes), [alert for outcome in outcomes for alert in outcome.alerts]


@pytest.mark.parametrize("architecture", ["vanilla", "recurrent"])
@pytest.mark.parametrize("stream", ["machines", "payments"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 309), max_size=12))
def test_polls_do_not_matter(stream: str, architecture: str, cuts: list[int]) -> None:
    index = list(PLACES).index(stream)
    whole, cut = (lanes(architecture=architecture)[index].pipeline for _ in range(2))
    records = records_of(PAYLOADS[stream])
    assert run(cut, PLACES[stream], records, cuts) == run(whole, PLACES[stream], records, [])


@pytest.mark.parametrize("stream", ["machines", "payments"])
@pytest.mark.parametrize("at", [1, 37, 150])
def test_a_restored_state_goes_on_bit_for_bit(stream: str, at: int) -> None:
    index, place, records = list(PLACES).index(stream), PLACES[stream], records_of(PAYLOADS[stream])
    through = lanes()[index].pipeline
    expected, _ = run(through, place, records, [at])
    first, second = lanes()[index].pipeline, lanes()[index].pipeline
    before, _ = run(first, place, records[:at], [])
    second.restore(TopicPartition(place.topic, 9), {})
    second.restore(place, first.snapshot(place))
    after, _ = run(second, place, records[at:], [])
    assert before | after == expected


def test_partitions_of_one_poll_are_scored_together() -> None:
    pipeline, alone = lanes()[0].pipeline, lanes()[0].pipeline
    records = records_of(PAYLOADS["machines"])
    other = TopicPartition("metrics", 1)
    both = pipeline.process([PartitionRecords(PLACES["machines"], records), PartitionRecords(other, records)])
    one = alone.process([PartitionRecords(PLACES["machines"], records)])
    assert both.points_scored == 2 * one.points_scored
    assert both.series_moved == 4
    assert [a.id for a in both.alerts if a.partition == 0] == [a.id for a in one.alerts]
    pipeline.drop(other)
    assert pipeline.series_held == 4


def test_a_poll_of_nothing_but_rejects_changes_nothing() -> None:
    for lane, place in zip(lanes(), PLACES.values(), strict=True):
        outcome = lane.pipeline.process(
            [PartitionRecords(place, [Record(0, 0, None, b"x"), Record(1, 0, b"a", None)])]
        )
        assert len(outcome.rejects) == 2
        assert not outcome.alerts
        assert outcome.points_scored == 0


def test_a_model_with_another_scaling_takes_the_state_over() -> None:
    """State restored under a model that knows the series by another scaling keeps its values."""
    records, place = records_of(PAYLOADS["machines"]), PLACES["machines"]
    old, new = lanes()[0].pipeline, lanes()[0].pipeline
    run(old, place, records[:120], [])
    arrays = old.snapshot(place)
    center, scale = arrays["center"].copy(), arrays["scale"].copy()
    arrays["rows"] = ((arrays["rows"] * scale[:, None] + center[:, None] - 5) / 3).astype(np.float32)
    arrays["center"], arrays["scale"] = np.full_like(center, 5), np.full_like(scale, 3)
    new.restore(place, arrays)
    expected, _ = run(old, place, records[120:], [])
    found, _ = run(new, place, records[120:], [])
    known = [offset for offset in expected if offset % 4 != 3]  # The fourth series is not in the model.
    assert [found[offset] for offset in known] == pytest.approx([expected[offset] for offset in known], abs=1e-3)
    assert SERIES.window == 8
