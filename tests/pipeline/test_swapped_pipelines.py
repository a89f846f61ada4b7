"""A pipeline whose model changes between two records: states and scalings, without a worker around it."""

import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocols import PartitionRecords, TopicPartition
from tests.records import Record
from tests.streams import BEGIN_MS, VERSIONS, lanes, retrained_detector, series_payloads

PLACE = TopicPartition("metrics", 0)


def test_a_series_that_warms_at_a_swap_is_judged_alike_however_polls_cut_it() -> None:
    """Its interval is its own then, and not the one that only the new model knows."""
    payloads = [
        (b"new", json.dumps({"ts": BEGIN_MS + 10_000 * n, "cpu": float(np.sin(n)), "mem": 0.1 * n}).encode())
        for n in range(40)
    ]
    records = [Record(n, BEGIN_MS + 10**9, *pair) for n, pair in enumerate(payloads)]
    states = []
    for cuts in (range(1, 40), [4], [4, 20]):
        lane = lanes(others=VERSIONS)[0]
        for low, high in pairwise([0, *cuts, 40]):
            lane.pipeline.use(lane.slot.of("v1" if low < 4 else "v2"))
            lane.pipeline.process([PartitionRecords(PLACE, records[low:high])])
        states.append(lane.pipeline.snapshot(PLACE))
    assert states[0]["interval_ms"].tolist() == [10_000]
    for state in states[1:]:
        for name in state:
            np.testing.assert_array_equal(state[name], states[0][name], err_msg=name)


RECORDS = [Record(n, BEGIN_MS + 10**9, *pair) for n, pair in enumerate(series_payloads(40))]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 159), max_size=6), st.integers(1, 159))
def test_any_cut_around_a_swap_gives_the_same_state(cuts: list[int], first_offset: int) -> None:
    states = []
    for edges in ([], cuts):
        lane = lanes(others=VERSIONS)[0]
        ends = sorted({0, first_offset, len(RECORDS), *edges})
        for low, high in pairwise(ends):
            lane.pipeline.use(lane.slot.of("v1" if low < first_offset else "v2"))
            lane.pipeline.process([PartitionRecords(PLACE, RECORDS[low:high])])
        states.append(lane.pipeline.snapshot(PLACE))
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)


def test_series_take_their_scaling_from_the_new_model_at_their_next_record() -> None:
    """What the new model knows is scaled by it; what it does not know keeps the scaling that it has."""
    lane = lanes(others=VERSIONS)[0]
    lane.pipeline.process([PartitionRecords(PLACE, RECORDS[:80])])
    before = lane.pipeline.snapshot(PLACE)
    lane.pipeline.use(lane.slot.of("v2"))
    lane.pipeline.process([PartitionRecords(PLACE, RECORDS[80:83])])
    after = lane.pipeline.snapshot(PLACE)
    known = retrained_detector().scaling
    # In the order of names: a, b and c had a record since, `new` had none.
    for row, name in enumerate(["a", "b"]):
        center_F, scale_F = known.for_series(name) or (np.nan, np.nan)
        np.testing.assert_array_equal(after["center"][row], center_F)
        np.testing.assert_array_equal(after["scale"][row], scale_F)
        raw = before["rows"][row, 1:] * before["scale"][row] + before["center"][row]
        moved = after["rows"][row, :-1] * scale_F + center_F
        np.testing.assert_allclose(moved, raw, atol=1e-5)
        payload = json.loads(RECORDS[80 + row].value or b"")
        newest = after["rows"][row, -1] * scale_F + center_F
        np.testing.assert_allclose(newest, [payload["cpu"], payload["mem"]], atol=1e-5)
    for row in (2, 3):
        np.testing.assert_array_equal(after["scale"][row], before["scale"][row])
    assert len({*after["mark"][:3].tolist()}) == 1
    assert after["mark"][3] == before["mark"][3] != after["mark"][0]
