"""The recorder on memory: every accepted row once, however polls cut, processes die, partitions move and storage
fails."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import AssignmentLost, ConfigError, TransientError
from pipeline.protocols import TopicPartition
from pipeline.snapshots import Limits
from pipeline.stages import tables
from pipeline.stopping import Stop
from tests.arrows import arrow_of
from tests.recording import PLACE, Bench, counted, files, finish, payloads, unflagged
from tests.streams import SERIES, series_payloads


def test_every_accepted_row_is_kept_and_late_ones_are_flagged() -> None:
    bench, before = Bench(), counted("snapshot_rejected", reason="not_json")
    rows, size = counted("snapshot_rows"), counted("snapshot_bytes")
    bench.fill(payloads())
    finish(bench.recorder())
    expected = bench.expected()
    assert bench.found() == expected
    assert sum(map(len, expected.values())) < 300
    assert any(row[4] for row in expected[PLACE])
    assert counted("snapshot_rows") - rows == sum(map(len, expected.values()))
    assert counted("snapshot_bytes") - size == sum(len(bench.storage.objects[name]) for name in files(bench))
    assert counted("snapshot_rejected", reason="not_json") - before == 300 - sum(map(len, expected.values()))
    assert bench.broker.committed == {TopicPartition("metrics", n): 150 for n in (0, 1)}


def test_records_of_many_rows() -> None:
    settings = SERIES.model_copy(update={"format": "arrow", "series": ["host"]})
    bench = Bench(settings=settings, partitions=1)
    bench.fill(arrow_of(series_payloads(60), cuts=range(0, 240, 7)), days=1)
    finish(bench.recorder())
    found = bench.found()[PLACE]
    assert found == bench.expected()[PLACE]
    assert len(found) > 100
    assert {row[1] for row in found} >= set(range(7))


@given(
    polls=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    file_rows=st.integers(1, 90),
    file_bytes=st.sampled_from([1, 2000, 10**6]),
    seed=st.integers(0, 3),
)
def test_cuts_of_polls_and_files_do_not_matter(
    polls: list[int], file_rows: int, file_bytes: int, seed: int
) -> None:
    bench = Bench()
    bench.fill(payloads(120, seed))
    recorder = bench.recorder(file_rows=file_rows, file_bytes=file_bytes)
    turn = 0
    while recorder.step() or turn < 3:
        recorder.source._max_poll_records = polls[turn % len(polls)]  # type: ignore[attr-defined]
        turn += 1
    recorder.close_files()
    assert bench.found() == bench.expected()


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench whose polls unpack to many parts."""
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 7)
    bench = Bench(settings=SERIES.model_copy(update={"format": "arrow", "series": ["host"]}))
    bench.fill(arrow_of(series_payloads(60), cuts=range(0, 240, 7)), days=1)
    return bench


MUCH: dict[str, Any] = {"max_poll_records": 10**6, "file_rows": 10**6, "open_bytes": 600}
"""A poll that holds all there is, of which memory has room for a few parts."""


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


class Killed(BaseException):
    """The process ends here."""


class Fate:
    """Ends the process before or after one of the calls to what is outside of it."""

    def __init__(self, at: int, after: bool) -> None:
        self.left, self.after = at, after

    def wrap(self, part: Any) -> Any:
        fate = self

        class Outside:
            def __getattr__(self, name: str) -> Any:
                found = getattr(part, name)
                if name not in ("poll", "commit", "start", "committed", "create", "list", "sizes", "get", "delete"):
                    return found

                def call(*arguments: Any) -> Any:
                    fate.left -= 1
                    if fate.left == 0 and not fate.after:
                        raise Killed
                    answer = found(*arguments)
                    if fate.left == 0:
                        raise Killed
                    return answer

                return call

        return Outside()


@pytest.mark.parametrize("after", [False, True])
def test_an_end_between_any_two_lines_loses_and_repeats_nothing(after: bool) -> None:
    """Small files are merged between the polls, and what was merged is removed."""
    at, ended = 0, True
    while ended:
        at += 1
        bench, merged = Bench(partitions=1), counted("snapshot_files_merged")
        bench.keep(Limits())
        bench.fill(payloads(60))
        options: dict[str, Any] = {"file_rows": 5, "max_poll_records": 6}
        try:
            finish(bench.recorder(Fate(at, after).wrap, **options))
            ended = False
        except Killed:
            bench.broker.members.clear()
            finish(bench.recorder(**options))
        assert unflagged(bench.found()) == unflagged(bench.expected()), at
        assert bench.broker.committed == {PLACE: 60}
    assert at > 60
    assert counted("snapshot_files_merged") > merged


@pytest.mark.parametrize("after", [False, True])
def test_an_end_in_the_middle_of_a_poll_loses_and_repeats_nothing(packed: Bench, after: bool) -> None:
    at, ended = 0, True
    while ended:
        at += 1
        bench = Bench(settings=packed.settings)
        bench.fill(arrow_of(series_payloads(12), cuts=range(0, 48, 7)), days=1)
        try:
            finish(bench.recorder(Fate(at, after).wrap, **MUCH))
            ended = False
        except Killed:
            bench.broker.members.clear()
            finish(bench.recorder(**MUCH))
        assert unflagged(bench.found()) == unflagged(bench.expected()), at
    assert at > 20


def test_a_file_is_there_before_its_end_is_committed_and_a_restart_goes_on_behind_it() -> None:
    bench, ends = Bench(partitions=1), []  # type: tuple[Bench, list[int]]
    bench.fill(payloads(100))

    class Committing:
        """Notes what is committed, and ends the process at the third file's end."""

        def __init__(self, source: Any) -> None:
            self.source = source

        def commit(self, offsets: dict[TopicPartition, int]) -> None:
            (kept,) = bench.snapshots.kept("machines", {PLACE: "metrics#1"}).values()
            assert offsets[PLACE] <= kept.ranges[-1].end
            ends.append(offsets[PLACE])
            if len(ends) == 4:
                raise Killed
            self.source.commit(offsets)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.source, name)

    recorder = bench.recorder(lambda part: part if part is bench.storage else Committing(part), file_rows=10)
    with pytest.raises(Killed):
        finish(recorder)
    assert bench.broker.committed[PLACE] == ends[2] < ends[3]
    bench.broker.members.clear()
    again = bench.recorder()
    again.partitions.follow_assignment()
    assert again.partitions.open[PLACE].begin == ends[3]


def test_a_partition_that_moves_is_read_again_from_its_last_file() -> None:
    bench = Bench()
    bench.fill(payloads())
    first = bench.recorder(file_rows=10**6)
    for _ in range(4):
        first.step()
    second = bench.recorder()
    for _ in range(30):
        first.step()
        second.step()
    assert {len(each.partitions.open) for each in (first, second)} == {1}
    finish(first)
    finish(second)
    assert unflagged(bench.found()) == unflagged(bench.expected())


def test_rows_outlive_a_rebalance_that_changes_nothing() -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    recorder = bench.recorder(file_rows=10**6)
    recorder.step()
    source: Any = recorder.source
    source._told = frozenset()
    recorder.step()
    assert recorder.partitions.open[PLACE].rows > 30
    bench.broker.committed[PLACE] = 7
    source._told = frozenset()
    recorder.partitions.follow_assignment()
    assert recorder.partitions.open[PLACE].rows == 0
    finish(recorder)
    assert bench.found() == bench.expected()


def test_one_that_lost_its_partition_without_knowing_does_no_harm() -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    late = bench.recorder(file_rows=10**6)
    late.step()
    source: Any = late.source
    bench.broker.members.remove(source)
    owner = bench.recorder()
    finish(owner)
    with pytest.raises(AssignmentLost):
        late.close_files()
    assert len(late.partitions.open) == 0
    assert bench.broker.committed[PLACE] == 100
    assert bench.found() == bench.expected()


def test_a_file_is_closed_by_rows_by_bytes_and_by_age() -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100), days=0)
    recorder = bench.recorder(max_poll_records=20, file_rows=30, file_age_s=60)
    recorder.step()
    assert files(bench) == []
    recorder.step()
    assert len(files(bench)) == 1
    for now_s, closed in ((10.0, 1), (20.0, 2), (30.0, 2), (89.0, 2), (90.0, 3)):
        bench.now_s = now_s
        recorder.step()
        assert len(files(bench)) == closed, now_s
    small = Bench(partitions=1)
    small.fill(payloads(100), days=0)
    finish(small.recorder(max_poll_records=10, file_rows=10**6, file_bytes=1))
    assert len(files(small)) == 10


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


def run(recorder: Any, steps: int) -> None:
    """Run the loop for so many steps, the last of which sets the stop."""
    stop, step, left = Stop(), recorder.step, iter(range(steps - 1))

    def counting() -> int:
        if next(left, None) is None:
            stop.set()
        return int(step())

    recorder.step = counting
    recorder.run(stop)


def test_a_stop_closes_all_files_and_commits() -> None:
    bench = Bench()
    bench.fill(payloads(100))
    run(bench.recorder(file_rows=10**6), 10)
    assert bench.broker.committed == {TopicPartition("metrics", n): 50 for n in (0, 1)}
    assert bench.found() == bench.expected()


def test_a_stop_while_storage_is_away_says_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    recorder = bench.recorder(file_rows=10**6)
    recorder.step()
    bench.storage.left = 0
    run(recorder, 2)
    assert "rows are in no file yet; nothing is lost, the next start reads them again" in caplog.text
    bench.storage.left = float("inf")
    bench.broker.members.clear()
    finish(bench.recorder())
    assert bench.found() == bench.expected()


def test_a_broker_that_stays_away_ends_it() -> None:
    bench = Bench(partitions=1)
    recorder = bench.recorder(retry_deadline_s=0)

    def away() -> int:
        bench.now_s += 1
        raise TransientError("the broker is away")

    recorder.step = away  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="the broker is away"):
        recorder.run(Stop())
    assert recorder.trouble == "the broker is away"
