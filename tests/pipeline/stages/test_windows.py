"""Every point past the warm-up gets exactly its own window, however polls cut the stream."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.arrays import FloatArray
from pipeline.protocols import TopicPartition
from pipeline.stages.decode import Batch
from pipeline.stages.rounds import Near
from pipeline.stages.series import SeriesTable
from pipeline.stages.windows import SLACK, Windows

PLACE = TopicPartition("metrics", 0)
WINDOW = 3


def estimate(rows_TF: FloatArray) -> tuple[FloatArray, FloatArray]:
    return rows_TF.min(axis=0), rows_TF.max(axis=0) - rows_TF.min(axis=0) + 1


def stages(known: bool) -> tuple[SeriesTable, Windows]:
    table = SeriesTable(
        1,
        WINDOW,
        known_scaling=lambda name: (np.array([10.0]), np.array([2.0])) if known else None,
        known_interval_ms=lambda name: None,
    )
    return table, Windows(table, estimate_scaling=estimate, device=torch.device("cpu"))


def poll(names: Sequence[str], first_offset: int) -> Batch:
    """The value of a point is its offset, so that windows can be told apart."""
    offset_N = np.arange(first_offset, first_offset + len(names))
    return Batch(PLACE, names, offset_N, offset_N[:, None].astype(float), offset_N, offset_N, offset_N)


def run(table: SeriesTable, windows: Windows, batch: Batch) -> dict[int, list[float]]:
    """Return the window of each scored offset, in the feature's own unit."""
    points = table.admit([batch]).points
    found: dict[int, list[float]] = {}
    for ready in windows.rounds(points):
        x_BTF = windows.gather(torch.from_numpy(ready.end_M)).numpy().astype(float)
        for position, x_TF in zip(ready.position_M, x_BTF, strict=True):
            slot, offset = points.slot_M[position], int(points.offset_M[position])
            assert offset not in found
            raw = x_TF * table.columns["scale"][slot] + table.columns["center"][slot]
            found[offset] = raw[:, 0].round(3).tolist()
    return found


def expected(names: Sequence[str]) -> dict[int, list[float]]:
    history: dict[str, list[float]] = {}
    windows: dict[int, list[float]] = {}
    for offset, name in enumerate(names):
        past = history.setdefault(name, [])
        past.append(float(offset))
        if len(past) > WINDOW:
            windows[offset] = past[-WINDOW:]
    return windows


@given(
    names=st.lists(st.sampled_from("abcd"), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    known=st.booleans(),
)
def test_polls_do_not_matter(names: list[str], cuts: list[int], known: bool) -> None:
    table, windows = stages(known)
    found: dict[int, list[float]] = {}
    edges = [0, *sorted(cut for cut in cuts if cut <= len(names)), len(names)]
    for low, high in pairwise(edges):
        found |= run(table, windows, poll(names[low:high], low))
    assert found == expected(names)


@pytest.mark.parametrize("size", [1, 7, SLACK, SLACK + 1, 1000])
def test_one_series_many_times_in_a_poll(size: int) -> None:
    table, windows = stages(known=True)
    names = ["a", "b"] * 500
    found: dict[int, list[float]] = {}
    for low in range(0, len(names), size):
        found |= run(table, windows, poll(names[low : low + size], low))
    assert found == expected(names)


@given(
    names=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    at=st.integers(0, 40),
    known=st.booleans(),
)
def test_a_snapshot_goes_on_as_if_nothing_had_happened(names: list[str], at: int, known: bool) -> None:
    at = min(at, len(names))
    table, windows = stages(known)
    found = run(table, windows, poll(names[:at], 0))
    slots = table.held(PLACE)
    held = [table.names[slot] for slot in slots.tolist()]
    rows, columns = windows.snapshot(slots), {name: column[slots] for name, column in table.columns.items()}

    table, windows = stages(known)
    run(table, windows, poll(["z"] * 5, 0))  # so that the slots are other ones
    slots = table.add_all(PLACE, held)
    for name, column in columns.items():
        table.columns[name][slots] = column
    windows.restore(slots, rows)
    found |= run(table, windows, poll(names[at:], at))
    assert found == expected(names)


def test_before_the_rows_that_are_left_a_series_stood_still() -> None:
    """Rows that wait are explained by windows that reach further back than an earlier state kept rows."""
    (table, windows), names = stages(True), ["a"] * 20
    run(table, windows, poll(names, 0))
    waiting, slots = Near(ahead=2), np.array([0])
    deeper = Windows(table, estimate_scaling=estimate, device=torch.device("cpu"), near=waiting)
    deeper.restore(slots, windows.snapshot(slots))
    last = deeper.depth - 1
    x_BTF = deeper.gather(torch.tensor([last, last - waiting.ahead])).numpy() * 2 + 10
    assert x_BTF[:, :, 0].tolist() == [[17, 18, 19], [17, 17, 17]]


def test_a_large_counter_keeps_its_small_steps() -> None:
    table, windows = stages(known=False)
    values = 1e12 + np.arange(8.0)[:, None]
    offset_N = np.arange(8)
    points = table.admit([Batch(PLACE, ["a"] * 8, offset_N, values, offset_N, offset_N, offset_N)]).points
    for ready in windows.rounds(points):
        step = windows.gather(torch.from_numpy(ready.end_M)).diff(dim=1) * float(table.columns["scale"][0, 0])
        torch.testing.assert_close(step.float(), torch.ones_like(step, dtype=torch.float32))


def test_rescaling_keeps_the_values() -> None:
    table, windows = stages(known=True)
    run(table, windows, poll(["a"] * 6, 0))
    slots = np.array([0])
    before = windows.snapshot(slots)["rows"] * 2.0 + 10.0
    windows.rescale(slots, np.array([[5.0]]), np.array([[4.0]]))
    np.testing.assert_allclose(windows.snapshot(slots)["rows"] * 4.0 + 5.0, before)
