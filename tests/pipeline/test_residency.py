"""A step asks the device for nothing before its scores are there: on a GPU the host would wait each time.

Here the CPU is the device, so what is refused are the operations whose result the host would have to look at. On a
GPU `tests/gpu/test_scores.py` has the client library itself watch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.protocols import PartitionRecords
from tests.pipeline.test_delays import pipeline_of
from tests.pipeline.test_streams import PLACES, records_of
from tests.streams import feature_payloads, lanes, series_payloads

ASKING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "bincount", "repeat_interleave"}
ASKING |= {"_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"}
BY_INDEX = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


class NothingAsked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what has to be looked at before the host can go on; counts what else there was."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        self.calls += 1
        if name in ASKING:
            raise AssertionError(f"{name} asks the device")
        if name in BY_INDEX and any(each is not None and each.dtype == torch.bool for each in args[1]):
            raise AssertionError(f"{name} by a mask asks the device how many there are")
        return func(*args, **(kwargs or {}))


def test_what_asks_is_refused() -> None:
    x = torch.arange(3)
    for asks in (lambda: x[x > 1], lambda: x.sum().item(), lambda: torch.nonzero(x), lambda: bool(x[0] > 1)):
        with NothingAsked(), pytest.raises(AssertionError, match="asks"):
            asks()


@pytest.mark.parametrize(("architecture", "delay"), [("vanilla", 0), ("vanilla", 3), ("views", 0), ("views", 3)])
def test_a_step_over_series_asks_for_nothing(architecture: str, delay: int) -> None:
    pipeline = pipeline_of(architecture, delay)
    records, place, alerts = records_of(series_payloads(100)), PLACES["machines"], 0
    pipeline.process([PartitionRecords(place, records[:100])])
    for low in range(100, len(records), 37):
        with NothingAsked() as nothing:
            outcome = pipeline.process([PartitionRecords(place, records[low : low + 37])])
        alerts += len(outcome.alerts)
        assert outcome.points_scored
        assert nothing.calls
    assert alerts, "what explains an alert was not asked for"


def test_a_step_over_features_asks_for_nothing() -> None:
    pipeline = lanes()[1].pipeline
    with NothingAsked() as nothing:
        outcome = pipeline.process([PartitionRecords(PLACES["payments"], records_of(feature_payloads()))])
    assert outcome.alerts
    assert nothing.calls
