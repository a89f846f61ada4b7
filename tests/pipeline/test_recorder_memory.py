"""The memory of a recorder is bounded: in the midst of a poll that unpacks to much, and while storage is away."""

import logging
from typing import Any

import pytest

from pipeline.errors import ConfigError, TransientError
from tests.recording import MUCH, PLACE, Bench, counted, finish, packed_bench, payloads


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return packed_bench(monkeypatch)


def test_files_are_made_in_the_middle_of_a_poll_that_unpacks_to_much(packed: Bench) -> None:
    recorder, rows = packed.recorder(**MUCH), list[int]()
    snapshots: Any = recorder.snapshots
    write = snapshots.write

    def noting(*told: Any) -> int:
        rows.append(len(told[1]))
        return int(write(*told))

    snapshots.write = noting
    assert recorder.step() > 30
    assert len(rows) > 3
    assert max(rows) <= 600 // 30 + 7
    finish(recorder)
    assert packed.found() == packed.expected()


@pytest.mark.parametrize("left", [0, 1, 3])
def test_what_has_no_room_while_storage_is_away_is_polled_again(packed: Bench, left: int) -> None:
    recorder = packed.recorder(**MUCH)
    recorder.partitions.follow_assignment()
    packed.storage.left = left
    for _ in range(5):
        recorder.step()
        assert 600 < sum(rows.size_bytes for rows in recorder.partitions.open.values()) < 600 + 7 * 100
        packed.now_s += 60
    packed.storage.left = float("inf")
    finish(recorder)
    assert packed.found() == packed.expected()


def test_what_was_left_when_the_broker_failed_is_polled_again(packed: Bench) -> None:
    recorder, failed = packed.recorder(**MUCH), 0
    recorder.partitions.follow_assignment()
    source: Any = recorder.source
    topic_id = source.topic_id

    def failing(topic: str) -> str:
        nonlocal failed
        failed += 1
        if failed in (1, 3, 4):
            raise TransientError("the broker is away")
        return str(topic_id(topic))

    source.topic_id = failing
    for _ in range(3):
        with pytest.raises(TransientError, match="broker"):
            recorder.step()
    finish(recorder)
    assert packed.found() == packed.expected()


def test_rows_of_all_partitions_together_are_bounded() -> None:
    bench = Bench(partitions=4)
    bench.fill(payloads(400), days=0)
    recorder = bench.recorder(max_poll_records=40, file_rows=10**6, open_bytes=3000)
    for _ in range(8):
        recorder.step()
        assert sum(rows.size_bytes for rows in recorder.partitions.open.values()) <= 3000
    finish(recorder)
    assert bench.found() == bench.expected()


def test_storage_that_is_away_is_waited_for_in_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    bench, before = Bench(), counted("snapshot_writes_failed")
    bench.fill(payloads(2000), days=0)
    recorder = bench.recorder(open_bytes=8000)
    recorder.step()
    most = 0
    bench.storage.left = 0
    for _ in range(600):
        recorder.step()
        bench.now_s += 1
        most = max(most, sum(rows.size_bytes for rows in recorder.partitions.open.values()))
    assert most < 8000 + 23 * 100
    assert "storage is away" in recorder.trouble
    assert recorder.joined
    assert 15 < counted("snapshot_writes_failed") - before < 40, "it is tried again, and ever less often"
    assert caplog.text.count("no file: storage is away") == 1
    bench.storage.left = float("inf")
    caplog.set_level(logging.INFO)
    bench.now_s += 30
    finish(recorder)
    assert recorder.trouble == ""
    assert caplog.text.count("storage takes files again") == 1
    assert bench.found() == bench.expected()


def test_a_rebalance_while_storage_is_away_leaves_memory_bounded() -> None:
    bench = Bench()
    bench.fill(payloads(2000), days=0)
    recorder = bench.recorder(open_bytes=8000)
    recorder.step()
    bench.storage.left = 0
    for turn in range(60):
        if turn % 20 == 19:
            # As if all partitions had been given away and had come back at once.
            recorder.source._told = frozenset()  # type: ignore[attr-defined]
        recorder.step()
        # One poll more at first, and with each time that they come back.
        most = 8000 + (turn // 20 + 2) * 23 * 100
        assert sum(rows.size_bytes for rows in recorder.partitions.open.values()) < most
    bench.storage.left = float("inf")
    bench.now_s += 30
    finish(recorder)
    assert bench.found() == bench.expected()


@pytest.mark.parametrize("error", [TransientError("storage is full"), ConfigError("no right to write")])
def test_storage_that_never_took_a_file(error: Exception) -> None:
    class Full:
        def __init__(self, storage: Any) -> None:
            self.storage = storage

        def create(self, name: str, content: bytes) -> bool:
            if name.endswith(".parquet"):
                raise error
            return bool(self.storage.create(name, content))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.storage, name)

    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    recorder = bench.recorder(lambda part: Full(part) if part is bench.storage else part)
    if isinstance(error, ConfigError):
        with pytest.raises(ConfigError, match="no right to write"):
            finish(recorder)
    else:
        finish(recorder)
        assert recorder.trouble == "storage is full"
    assert bench.broker.committed[PLACE] == 0
    assert bench.found() == {}
