"""Parts that add rows to those before: whatever was cut, failed or begun anew, the state goes on where it stood."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.part_memory import Arrays, PartMemory, read_part
from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages import windows
from pipeline.stream import StreamPipeline
from tests.records import Record
from tests.streams import BEGIN_MS, SERIES, Payload, lanes, retrained_detector, series_detector, series_payloads

PLACE = TopicPartition("metrics", 0)
SHAPES = [("vanilla", 0), ("vanilla", 3), ("views", 0), ("views", 3)]


def with_holes(payloads: Sequence[Payload]) -> list[Payload]:
    """Take a value from some records, so that rows are held that no window is read for."""
    holed: list[Payload] = []
    for number, (key, value) in enumerate(payloads):
        row = json.loads(value or b"")
        if number % 23 == 20:
            del row["mem"]
        holed.append((key, json.dumps(row).encode()))
    return holed


RECORDS = [Record(n, BEGIN_MS + 10**9, *pair) for n, pair in enumerate(with_holes(series_payloads(90)))]


def pipeline_of(architecture: str, delay: int) -> StreamPipeline:
    alerts = SERIES.alerts.model_copy(update={"delay": delay})
    window = None if architecture == "views" else 8
    held = SERIES.model_copy(update={"alerts": alerts, "missing": "hold", "hold_points": 3, "window": window})
    return lanes(held, architecture)[0].pipeline


def run(pipeline: StreamPipeline, low: int, high: int) -> list[Any]:
    """Return what records come to: each score, and each alert with its score."""
    if low == high:
        return []
    outcome = pipeline.process([PartitionRecords(PLACE, RECORDS[low:high])])
    scored = outcome.scored
    found = zip(scored.offset_M.tolist(), scored.series, scored.score_M.tolist(), strict=True)
    return [*found, *((alert.id, alert.state, alert.score) for alert in outcome.alerts)]


class Chain:
    """The parts that a pipeline has cut."""

    def __init__(self, pipeline: StreamPipeline) -> None:
        self.pipeline, self.memory = pipeline, PartMemory()
        self.renew()

    def renew(self) -> None:
        self.pipeline.begin_chain(PLACE)
        self.parts: list[Arrays] = []

    def cut(self, most_bytes: int, *, fails: bool = False) -> bool:
        cut = self.pipeline.cut(PLACE, self.memory, most_bytes)
        if fails:
            self.pipeline.uncut(PLACE, cut)
            return False
        self.parts.append(read_part(bytearray(self.memory.seal({})))[1])
        return cut.closes

    def close(self, most_bytes: int = 1 << 20) -> list[Arrays]:
        while not self.cut(most_bytes):
            pass
        return self.parts


def of_one_restart(pipeline: StreamPipeline, shape: tuple[str, int]) -> dict[str, bytes]:
    """Return the state after a restart: errors that can count no more are left out by it, and only by it."""
    again = pipeline_of(*shape)
    again.restore(PLACE, [pipeline.snapshot(PLACE)])
    return {name: array.tobytes() for name, array in again.snapshot(PLACE).items()}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("poll"), st.integers(1, 40)),
        st.tuples(st.just("poll"), st.integers(1, 12)),
        st.tuples(st.just("part"), st.booleans()),
        st.tuples(st.just("part"), st.just(False)),
        st.tuples(st.just("renew"), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=20, deadline=None)
@given(steps=STEPS, begin=st.integers(0, 150), most_bytes=st.sampled_from([1, 1_500, 1 << 20]))
def test_a_state_of_parts_goes_on_to_the_last_bit(
    shape: tuple[str, int], lean: bool, steps: list[tuple[str, int]], begin: int, most_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MANY", 1 if lean else 1 << 30)
        live = pipeline_of(*shape)
        run(live, 0, begin)
        chain, offset = Chain(live), begin
        for step, how in steps:
            if step == "poll":
                run(live, offset, min(offset + how, 250))
                offset = min(offset + how, 250)
            elif step == "part":
                chain.cut(most_bytes, fails=bool(how))
            else:
                chain.renew()
        restored = pipeline_of(*shape)
        restored.restore(PLACE, chain.close(most_bytes))
        if not lean:
            assert {name: array.tobytes() for name, array in restored.snapshot(PLACE).items()} == {
                name: array.tobytes() for name, array in live.snapshot(PLACE).items()
            }
        assert of_one_restart(restored, shape) == of_one_restart(live, shape)
        assert run(restored, offset, len(RECORDS)) == run(live, offset, len(RECORDS))


def judged(pipeline: StreamPipeline, low: int, high: int) -> Counter[tuple[str, int]]:
    """Return which rows are judged with these records: series and time of each."""
    scored = pipeline.process([PartitionRecords(PLACE, RECORDS[low:high])]).scored
    return Counter(zip(scored.series, scored.time_ms_M.tolist(), strict=True))


def in_parts(
    shape: tuple[str, int], polls: Sequence[int]
) -> tuple[StreamPipeline, list[Arrays], Counter[tuple[str, int]]]:
    """Return a pipeline after these polls, its parts, one after each, and what was judged."""
    live, offset, rows = pipeline_of(*shape), 0, Counter[tuple[str, int]]()
    chain = Chain(live)
    for count in polls:
        rows += judged(live, offset, offset + count)
        offset += count
        assert chain.cut(1 << 20)
    return live, chain.parts, rows


def test_rows_are_added_but_to_series_that_warm() -> None:
    _, parts, _ = in_parts(("vanilla", 3), [8, 20, 12, 8, 8, 40])
    whole = [sorted(arrays["slots"].tolist()) for arrays in parts]
    points = [arrays["added.points"].tolist() if "added.points" in arrays else [] for arrays in parts]
    # The eighth point of each is the last one that warms it; of the last part so much is new that all is written.
    every = [0, 1, 2, 3]
    assert whole == [every, every, every, [], [], every]
    assert points == [[], [], [], [2] * 4, [2] * 4, []]
    assert [arrays["rows"].shape[1:] for arrays in parts] == [(11, 2)] * 6
    assert [len(arrays.get("added.rows", ())) for arrays in parts] == [0, 0, 0, 8, 8, 0]


def test_a_part_holds_no_more_of_a_tail_than_what_moved() -> None:
    """A block has sixteen points, scores begin with the ninth, and one of the last three series' is held."""
    _, parts, _ = in_parts(("vanilla", 0), [4 * 20, 4, 4, 4, 4, 4, 4, 4])
    assert [arrays["added.learned"].tolist() for arrays in parts[1:]] == [[], [], [], [0], [1, 2, 3], [], []]


def test_a_series_that_follows_another_model_is_written_whole() -> None:
    """Its rows are scaled anew, and what it has asked that model is no row."""
    lane = lanes(others={"v1": series_detector, "v2": retrained_detector})[0]
    live, chain = lane.pipeline, Chain(lane.pipeline)
    run(live, 0, 120)
    assert chain.cut(1 << 20)
    live.use(lane.slot.of("v2"))
    run(live, 120, 122)
    assert chain.cut(1 << 20)
    assert sorted(chain.parts[-1]["slots"].tolist()) == [0, 1]
    run(live, 122, 125)
    assert chain.cut(1 << 20)
    assert chain.parts[-1]["added.slots"].tolist() == [0]
    restored = lanes()[0].pipeline
    restored.restore(PLACE, chain.parts)
    found, expected = (pipeline.snapshot(PLACE) for pipeline in (restored, live))
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


@pytest.mark.parametrize(
    ("old", "new"), [*product(SHAPES, SHAPES), (("views", 3), ("views", 8)), (("views", 4), ("views", 2))]
)
@pytest.mark.parametrize("polls", [[60, 8, 4, 5], [160, 16]])
def test_another_delay_or_other_views_take_parts_over(
    old: tuple[str, int], new: tuple[str, int], polls: list[int]
) -> None:
    """The same rows are judged after it as after a whole state, and none again."""
    live, parts, before = in_parts(old, polls)
    assert "added.slots" in parts[-1]
    of_parts, of_one = pipeline_of(*new), pipeline_of(*new)
    of_parts.restore(PLACE, parts)
    of_one.restore(PLACE, [live.snapshot(PLACE)])
    after = judged(of_parts, sum(polls), len(RECORDS))
    assert after == judged(of_one, sum(polls), len(RECORDS))
    assert set((before + after).values()) == {1}
