"""A worker whose storage ends it, or fails, at any call: what is known then is the state of its offset."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from pipeline.connectors.memory import MemoryCheckpoints, MemoryStorage
from pipeline.errors import ConfigError, TransientError
from pipeline.part_memory import Arrays, PartMemory
from pipeline.protocols import Chain, Checkpoint, Part
from tests import streams
from tests.pipeline.checkpointed import PLACES, assert_same
from tests.streams import (
    Bench,
    bench_options,
    drain,
    feature_payloads,
    series_payloads,
)


class Ended(BaseException):
    """Ends a worker at a call of its storage, as SIGKILL would."""


class Sabotaged(MemoryStorage):
    """Storage that ends the worker, or fails, before or after its n-th call, and counts them."""

    def __init__(self, error: BaseException | None = None, at: int = -1, *, after: bool = False) -> None:
        super().__init__()
        self.error, self.at, self.after = error, at, after
        self.calls: list[str] = []

    def _call(self, name: str, *args: Any) -> Any:
        self.calls.append(name)
        fatal = self.error is not None and len(self.calls) == self.at
        if fatal and not self.after:
            raise self.error  # type: ignore[misc]
        result = getattr(super(), name)(*args)
        if fatal:
            raise self.error  # type: ignore[misc]
        return result

    def get(self, name: str) -> bytes | None:
        found: bytes | None = self._call("get", name)
        return found

    def create(self, name: str, content: bytes | memoryview) -> bool:
        return bool(self._call("create", name, content))

    def list(self, folder: str) -> list[str]:
        names: list[str] = self._call("list", folder)
        return names

    def delete(self, name: str) -> None:
        self._call("delete", name)


class On(MemoryCheckpoints):
    """Checkpoints on a storage that is there."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__()
        self.storage = self._storage = storage


def sabotaged(monkeypatch: pytest.MonkeyPatch, storage: Sabotaged) -> Bench:
    monkeypatch.setattr("pipeline.checkpointing.PART_BYTES", 1)
    monkeypatch.setattr("pipeline.patience._FIRST_BACKOFF_S", 0.0)
    bench = Bench(partitions=1, checkpoints=On(storage), options=bench_options(checkpoint_every_s=0))
    bench.fill(series_payloads(60), feature_payloads(310))
    return bench


def calls_of_a_run(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[dict[str, Any]]]:
    storage = Sabotaged()
    bench = sabotaged(monkeypatch, storage)
    drain(bench.worker(max_poll_records=60))
    return storage.calls, bench.alerts()


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_ends_at_any_call_of_storage_is_followed_by_one_that_knows_all(
    after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, expected = calls_of_a_run(monkeypatch)
    assert set(calls) == {"get", "create", "list", "delete"}
    assert expected
    for at in range(1, len(calls) + 1, 1 if len(calls) < 150 else 2):
        storage = Sabotaged(Ended(), at, after=after)
        bench = sabotaged(monkeypatch, storage)
        with pytest.raises(Ended):
            drain(bench.worker(max_poll_records=60))
        bench.broker.members.clear()
        storage.error = None
        drain(bench.worker(max_poll_records=45))
        assert bench.alerts() == expected, (at, calls[at - 1])
        for stream, place in PLACES.items():
            newest = On(storage).newest(stream, place, 10**9)
            assert newest is not None
            assert newest.next_offset == bench.broker.committed[place]
            assert_same(streams.state_of(newest), final_state(stream))


@cache
def final_state(stream: str) -> Arrays:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(60), feature_payloads(310))
    worker = bench.worker()
    drain(worker)
    (pipeline,) = (lane.pipeline for lane in worker.lanes if lane.name == stream)
    return pipeline.snapshot(PLACES[stream])


@pytest.mark.parametrize("error", [TransientError("storage is full"), ConfigError("storage is read-only")])
def test_storage_that_fails_at_any_call_costs_no_state(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But for what a partition begins with, which is refused where it cannot be read or written at first."""
    calls, expected = calls_of_a_run(monkeypatch)
    first = calls.index("create", calls.index("create") + 1) + 1
    for at in range(first + 1, len(calls) + 1, 3):
        caplog.clear()
        storage = Sabotaged(error, at)
        bench = sabotaged(monkeypatch, storage)
        worker, raised = bench.worker(max_poll_records=60), ""
        while len(storage.calls) < at:
            try:
                worker.step()
            except (TransientError, ConfigError) as refused:
                raised = str(refused)
        drain(worker)
        worker.checkpoint()
        assert {alert["id"] for alert in bench.alerts()} == {alert["id"] for alert in expected}
        assert str(error) in raised + caplog.text
        for stream, place in PLACES.items():
            newest = On(storage).newest(stream, place, 10**9)
            assert newest is not None
            assert newest.next_offset == bench.broker.committed[place]
            assert_same(streams.state_of(newest), final_state(stream))


def test_parts_that_make_no_state_are_refused_and_those_before_them_taken(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(series_payloads(60))
    first = bench.worker(max_poll_records=60)
    drain(first)
    first.checkpoint()
    at = first.partitions.progress[PLACES["machines"]]
    # A part whose rows no part names: it can be read, but not put together.
    arrays = {**first.lanes[0].pipeline.snapshot(PLACES["machines"]), "slots": np.array([0, 1, 2, 9])}
    arrays |= {"named": np.array([0]), "dropped": np.zeros(0, np.int64), "names": np.frombuffer(b'["a"]', np.uint8)}
    facts = Checkpoint("machines", PLACES["machines"], at.topic_id, 240, "v1", first.lanes[0].pipeline.shape)
    bench.checkpoints.write(Part(facts, Chain(), PartMemory.of(arrays), closes=True))
    bench.broker.members.clear()
    second = bench.worker()
    drain(second)
    assert caplog.text.count("3 of its series have no name in the parts before it") == 2
    assert caplog.text.count("is refused, the one before is taken") == 1
    assert_same(second.lanes[0].pipeline.snapshot(PLACES["machines"]), final_state("machines"))
