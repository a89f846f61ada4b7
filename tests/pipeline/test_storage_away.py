"""Storage that fails while a worker runs: scoring goes on, the state is only older, and nothing is lost."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pipeline.connectors.checkpoints import StoredCheckpoints
from pipeline.connectors.memory import MemoryCheckpoints
from pipeline.connectors.storage import ObjectStorage
from pipeline.errors import ConfigError, TransientError
from pipeline.protocols import Part, TopicPartition
from pipeline.stopping import Stop
from pipeline.worker import Worker, WorkerOptions
from tests.streams import Bench, bench_options, drain, feature_payloads, series_payloads

PLACE = TopicPartition("metrics", 0)


def failed() -> float:
    return sum(
        REGISTRY.get_sample_value("offkey_checkpoints_failed_total", {"stream": stream}) or 0.0
        for stream in ("machines", "payments")
    )


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    bench = Bench()
    bench.fill(series_payloads(), feature_payloads())
    drain(bench.worker())
    return bench.alerts()


def eager() -> WorkerOptions:
    return bench_options(checkpoint_every_s=0)


class Storage(MemoryCheckpoints):
    """Takes checkpoints until `error` is set, or while `hanging` is, keeps those who write."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def write(self, part: Part) -> None:
        self.answers.wait()
        if self.error is not None:
            raise self.error
        super().write(part)


@pytest.fixture
def storage() -> Iterator[Storage]:
    made = Storage()
    yield made
    made.answers.set()


@pytest.mark.parametrize("error", [TransientError("storage is full"), ConfigError("storage is read-only")])
def test_scoring_goes_on_and_the_failure_is_counted_and_said_once(
    undisturbed: list[dict[str, Any]], storage: Storage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(checkpoints=storage, options=eager())
    bench.fill(series_payloads(), feature_payloads())
    worker, before = bench.worker(), failed()
    worker.step()
    storage.error = error
    for _ in range(4):
        worker.step()
    kept = storage.newest("machines", PLACE, 10**9)
    assert kept is not None
    assert kept.next_offset < bench.broker.committed[PLACE]
    assert failed() - before >= 4
    assert caplog.text.count(str(error)) == 1
    storage.error = None
    drain(worker)
    assert caplog.text.count("storage takes checkpoints again") == 1
    newest = storage.newest("machines", PLACE, 10**9)
    assert newest is not None
    assert newest.next_offset == bench.broker.committed[PLACE]
    assert bench.alerts() == undisturbed


def test_a_restart_after_it_replays_from_the_checkpoint_before(
    undisturbed: list[dict[str, Any]], storage: Storage
) -> None:
    bench = Bench(checkpoints=storage, options=eager())
    bench.fill(series_payloads(), feature_payloads())
    worker = bench.worker()
    worker.step()
    storage.error = TransientError("storage is full")
    for _ in range(3):
        worker.step()
    bench.broker.members.clear()
    storage.error = None
    drain(bench.worker())
    assert {alert["id"]: alert for alert in bench.alerts()} == {alert["id"]: alert for alert in undisturbed}
    assert len(bench.alerts()) == len(undisturbed)


def test_storage_that_never_took_a_checkpoint_is_refused(storage: Storage) -> None:
    storage.error = ConfigError("storage is read-only")
    bench = Bench(checkpoints=storage)
    with pytest.raises(ConfigError, match="storage is read-only"):
        bench.worker().step()


def test_a_partition_gained_while_storage_fails_is_scored_too(storage: Storage) -> None:
    bench = Bench(checkpoints=storage, options=eager())
    bench.fill(series_payloads(30))
    worker = bench.worker()
    drain(worker)
    storage.error = TransientError("storage is full")
    bench.broker.topics["metrics"].append([])
    bench.broker.append("metrics", series_payloads(1)[0][1], key=b"a", partition=2)
    bench.broker.rebalance()
    drain(worker)
    assert bench.broker.committed[TopicPartition("metrics", 2)] == 1
    storage.error = None
    worker.checkpoint()
    newest = storage.newest("machines", TopicPartition("metrics", 2), 10**9)
    assert newest is not None
    assert newest.next_offset == 1


def test_storage_that_hangs_stops_nothing_either(
    undisturbed: list[dict[str, Any]], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.checkpointing._PATIENCE_S", 0.01)
    bench = Bench(checkpoints=storage, options=bench_options(checkpoint_every_s=0, checkpoint_wait_s=0.02))
    bench.fill(series_payloads(), feature_payloads())
    worker, before = bench.worker(), failed()
    worker.step()
    storage.answers.clear()
    drain(worker)
    assert bench.alerts() == undisturbed
    assert failed() > before
    storage.answers.set()
    worker.checkpoint()
    assert worker.partitions.checkpointing.behind() == []


def test_a_stop_waits_for_hanging_storage_no_longer_than_its_budget(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(partitions=1, checkpoints=storage)
    bench.fill(series_payloads(30))
    worker = bench.worker()
    drain(worker)
    storage.answers.clear()
    stop = Stop(budget_s=0.5)
    stop.set()
    worker.run(stop)
    assert stop.left_s() > 0
    assert "no checkpoint of metrics/0 after 0; nothing is lost, the next start replays from there" in caplog.text


def read_only(folder: Path, on: bool) -> None:
    """Root may write anywhere, but not where a folder has to be made in place of a file."""
    parked = folder.with_name(f"{folder.name}-parked")
    if on:
        folder.rename(parked)
        folder.write_text("in the way")
    else:
        folder.unlink()
        parked.rename(folder)


def test_a_folder_that_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pipeline")
    checkpoints = StoredCheckpoints(ObjectStorage((tmp_path / "storage").as_uri()))
    bench = Bench(partitions=1)
    bench.fill(series_payloads(20))
    swap: Callable[[Any], Any] = lambda part: checkpoints if isinstance(part, MemoryCheckpoints) else part  # noqa: E731
    worker: Worker = bench.worker(swap)
    drain(worker)
    worker.checkpoint()
    read_only(tmp_path / "storage", on=True)
    bench.fill(series_payloads(30)[80:])
    drain(worker)
    worker.checkpoint()
    worker.checkpoint()
    assert bench.broker.committed[PLACE] == 120
    assert caplog.text.count("no checkpoint: storage file://") == 1
    read_only(tmp_path / "storage", on=False)
    worker.checkpoint()
    newest = checkpoints.newest("machines", PLACE, 10**9)
    assert newest is not None
    assert newest.next_offset == 120
