"""Buffers of many series hold less, and nothing that comes out of them is another."""

from typing import Any

import numpy as np
import pytest

from pipeline.protocols import PartitionRecords, TopicPartition
from pipeline.stages import windows
from pipeline.stream import Lane
from tests.records import Record
from tests.streams import BEGIN_MS, SERIES, Payload, batches, lanes, payloads_of, series_payloads, series_rows

PLACE = TopicPartition("metrics", 0)


def lane(architecture: str, delay: int) -> Lane:
    alerts = SERIES.alerts.model_copy(update={"delay": delay})
    settings = SERIES.model_copy(update={"alerts": alerts, "window": None if architecture == "views" else 8})
    return lanes(settings, architecture)[0]


def run(lane: Lane, payloads: list[Payload], size: int, first: int = 0) -> list[Any]:
    """Return (offset, series, score) of all that was scored, and the alerts, in the order of offsets."""
    found: list[Any] = []
    offset = first
    for part in batches(payloads, size):
        records = [Record(offset + i, BEGIN_MS + 10**9, *payload) for i, payload in enumerate(part)]
        offset += len(records)
        outcome = lane.pipeline.process([PartitionRecords(PLACE, records)])
        scored = outcome.scored
        found += zip(scored.offset_M.tolist(), scored.series, scored.score_M.tolist(), strict=True)
        found += [(alert.offset, alert.series, alert.state, alert.score) for alert in outcome.alerts]
    return sorted(found, key=repr)


def with_crowd() -> list[Payload]:
    """The usual series, and half way a crowd of others: buffers change over while series are warm."""
    usual, crowd = series_payloads(120), [f"crowd-{number}" for number in range(100)]
    return [*usual[:240], *payloads_of(crowd, series_rows(crowd, 12, 4, {})), *usual[240:]]


@pytest.mark.parametrize("many", [1, 128])
@pytest.mark.parametrize("size", [7, 400])
@pytest.mark.parametrize(("architecture", "delay"), [("vanilla", 0), ("views", 0), ("views", 3)])
def test_lean_buffers_give_the_same(
    monkeypatch: pytest.MonkeyPatch, architecture: str, delay: int, size: int, many: int
) -> None:
    payloads = with_crowd()
    usual = run(lane(architecture, delay), payloads, 97)
    monkeypatch.setattr(windows, "MANY", many)
    assert run(lane(architecture, delay), payloads, size) == usual


@pytest.mark.parametrize("lean", [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize(("architecture", "delay"), [("vanilla", 0), ("views", 0), ("views", 3)])
def test_a_state_goes_on_in_other_buffers(
    monkeypatch: pytest.MonkeyPatch, architecture: str, delay: int, lean: tuple[bool, bool]
) -> None:
    payloads = series_payloads(120)
    usual = run(lane(architecture, delay), payloads, 97)
    found: list[Any] = []
    states: list[Any] = []
    for is_lean, part, first in zip(lean, (payloads[:300], payloads[300:]), (0, 300), strict=True):
        monkeypatch.setattr(windows, "MANY", 1 if is_lean else 1 << 30)
        stages = lane(architecture, delay)
        stages.pipeline.restore(PLACE, states)
        found += run(stages, part, 41, first)
        states = [stages.pipeline.snapshot(PLACE)]
    assert sorted(found, key=repr) == usual
    assert len(states[0]["rows"]) == 4
    assert np.isfinite(states[0]["rows"]).all()
