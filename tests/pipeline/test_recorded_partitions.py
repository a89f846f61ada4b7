"""Where recording of a partition begins and goes on: a topic made anew, expired offsets, files that were lost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.connectors import parquet
from pipeline.connectors.snapshot_names import DAY_MS
from pipeline.errors import ConfigError
from pipeline.open_rows import SeenSeries
from pipeline.protocols import TopicPartition
from pipeline.snapshots import Gap
from tests.recording import HOLDING, PLACE, Bench, counted, files, finish, payloads, unflagged


def restarted(bench: Bench, **options: Any) -> None:
    """End without a word, and record all that is there with a new recorder."""
    bench.broker.members.clear()
    finish(bench.recorder(**options))


def test_a_topic_made_anew_is_recorded_from_its_beginning(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    finish(bench.recorder())
    earlier = bench.expected()[PLACE]
    bench.broker.create_topic("metrics", 1)
    bench.fill(payloads(300, seed=9))
    restarted(bench)
    assert "metrics/0: the topic was made anew; recording from the earliest one, 0" in caplog.text
    assert bench.found()[PLACE] == earlier + bench.expected()[PLACE]
    restarted(bench)
    assert caplog.text.count("made anew") == 1


def test_where_recording_begins_is_decided_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever ends before its first file is there has decided for the next one."""
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    finish(bench.recorder())
    earlier = bench.expected()[PLACE]
    bench.broker.create_topic("metrics", 1)
    bench.fill(payloads(60, seed=9))
    bench.start = "latest"
    bench.broker.members.clear()
    bench.recorder(file_rows=10**6).step()
    bench.fill(payloads(60, seed=10))
    restarted(bench)
    assert caplog.text.count("made anew; recording from the latest one, 60") == 1
    expected = earlier + [row for row in bench.expected()[PLACE] if row[0] >= 60]
    assert unflagged(bench.found()) == unflagged({PLACE: expected})


def test_a_topic_made_anew_under_our_feet() -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(100))
    recorder = bench.recorder()
    for _ in range(4):
        recorder.step()
    earlier = bench.found()[PLACE]
    bench.broker.create_topic("metrics", 1)
    bench.fill(payloads(300, seed=9))
    bench.now_s += 1000
    finish(recorder)
    assert unflagged({PLACE: bench.found()[PLACE]}) == unflagged({PLACE: earlier + bench.expected()[PLACE]})


@pytest.mark.parametrize(("start", "begins"), [("earliest", 80), ("latest", 100)])
def test_offsets_that_expired_unread_are_counted(start: str, begins: int, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1, start="earliest")
    bench.fill(payloads(50))
    finish(bench.recorder())
    before = counted("offsets_lost")
    bench.fill(payloads(50, seed=7))
    bench.broker.begin[PLACE] = 80
    bench.start = start
    restarted(bench)
    assert counted("offsets_lost") - before == begins - 50
    assert f"beginning at the {start}" in caplog.text or f"recording from the {start} one, {begins}" in caplog.text
    bench.fill(payloads(10, seed=8))
    restarted(bench)
    assert counted("offsets_lost") - before == begins - 50
    gaps: list[Gap] = []
    assert [row[0] for row in bench.found(gaps.append)[PLACE]] == [
        row[0] for row in bench.expected()[PLACE] if row[0] < 50 or row[0] >= begins
    ]
    assert [(gap.begin, gap.end) for gap in gaps] == [(50, begins)]
    assert str(gaps[0]) == f"stream machines: snapshots lack offsets 50 to {begins - 1} of metrics/0"


@pytest.mark.parametrize("away", [False, True])
def test_rows_are_kept_though_what_comes_next_expires_while_it_is_read(away: bool) -> None:
    bench, before, gaps = Bench(partitions=1), counted("offsets_lost"), []  # type: tuple[Bench, float, list[Gap]]
    bench.fill(payloads(100))
    recorder = bench.recorder(file_rows=10**6)
    recorder.step()
    recorder.step()
    bench.broker.begin[PLACE] = 80
    # What a fetch that is refused comes to.
    recorder.source.pause(PLACE)
    recorder.source._told = frozenset()  # type: ignore[attr-defined]
    if away:
        bench.storage.left = 0
        for _ in range(3):
            recorder.step()
        assert recorder.partitions.open[PLACE].position == 46
        bench.storage.left, bench.now_s = float("inf"), 100.0
    finish(recorder)
    assert [row[0] for row in bench.found(gaps.append)[PLACE]] == [
        row[0] for row in bench.expected()[PLACE] if row[0] < 46 or row[0] >= 80
    ]
    assert [(gap.begin, gap.end) for gap in gaps] == [(46, 80)]
    assert counted("offsets_lost") - before == 34


def test_a_first_start_at_the_latest_offset_stays_there() -> None:
    bench = Bench(partitions=1, start="latest")
    bench.fill(payloads(50))
    bench.recorder().step()
    bench.fill(payloads(50, seed=7))
    restarted(bench)
    assert [row[0] for row in bench.found()[PLACE]] == [row[0] for row in bench.expected()[PLACE] if row[0] >= 50]


def test_start_fail_refuses_what_it_cannot_go_on_with() -> None:
    bench = Bench(partitions=1, start="fail")
    bench.fill(payloads(50))
    with pytest.raises(ConfigError, match=r"there is neither a file nor a committed offset, and streams\.machines"):
        bench.recorder().step()


def test_a_partition_that_was_added_is_recorded_from_its_beginning() -> None:
    bench = Bench(partitions=1, start="latest")
    bench.fill(payloads(50))
    recorder = bench.recorder()
    finish(recorder)
    bench.broker.topics["metrics"].append([])
    for key, value in payloads(30, seed=2):
        bench.broker.append("metrics", value, key=key, partition=1, timestamp=DAY_MS * 19_700)
    bench.broker.rebalance()
    finish(recorder)
    added = TopicPartition("metrics", 1)
    assert bench.found() == {added: bench.expected()[added]}


def test_a_damaged_newest_file_is_read_again(caplog: pytest.LogCaptureFixture) -> None:
    """As a machine leaves it that lost its power: the commit is there, the file's last blocks are not."""
    bench = Bench(partitions=1)
    bench.fill(payloads(150), days=0)
    finish(bench.recorder())
    before = counted("snapshot_files_refused")
    for name in sorted(files(bench))[-2:]:
        bench.storage.objects[name] = bench.storage.objects[name][:-20]
    restarted(bench)
    assert "its records are read again, and it is removed" in caplog.text
    assert "offset 150 is committed, but files end before it" in caplog.text
    assert counted("snapshot_files_refused") - before == 2
    assert unflagged(bench.found()) == unflagged(bench.expected())
    assert bench.broker.committed[PLACE] == 150


def test_a_damaged_newest_file_stays_where_its_records_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(150), days=0)
    finish(bench.recorder())
    name = sorted(files(bench))[-1]
    bench.storage.objects[name] = b""
    bench.broker.begin[PLACE] = 150
    restarted(bench)
    assert name in files(bench)
    assert "it stays, for its records are not held any more" in caplog.text


def test_files_that_were_lost_behind_the_commit_are_read_again() -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(150), days=0)
    finish(bench.recorder())
    for name in sorted(files(bench))[-2:]:
        del bench.storage.objects[name]
    restarted(bench)
    assert unflagged(bench.found()) == unflagged(bench.expected())


@pytest.mark.parametrize(("held_from", "found_again"), [(100, range(100, 150)), (150, ())])
@pytest.mark.parametrize("start", ["earliest", "latest", "fail"])
def test_of_files_that_were_lost_what_is_still_held_is_read_again(
    start: str, held_from: int, found_again: Sequence[int], caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(partitions=1)
    bench.fill(payloads(200), days=0)
    bench.broker.topics["metrics"][0][150:] = []
    finish(bench.recorder())
    names = sorted(files(bench))
    for name in names[-2:]:
        del bench.storage.objects[name]
    left = bench.found()[PLACE]
    assert left[-1][0] < 100
    bench.broker.begin[PLACE], bench.start = held_from, start
    restarted(bench)
    again = [row for row in bench.expected()[PLACE] if row[0] in found_again]
    assert unflagged({PLACE: bench.found(lambda gap: None)[PLACE]}) == unflagged({PLACE: left + again})
    assert (f"what they lack is read again from {held_from} on" in caplog.text) == bool(again)
    assert bench.broker.committed[PLACE] == 150


def test_a_restart_knows_the_series_of_the_newest_file() -> None:
    bench = Bench(partitions=1)
    made = [(b"", b'{"host": "a", "ts": %d, "cpu": 1, "mem": 2}' % (1000 * n)) for n in (5, 6, 3, 7, 7)]
    bench.fill(made[:2], days=0)
    finish(bench.recorder())
    bench.fill(made[2:], days=0)
    restarted(bench)
    assert [row[4] for row in bench.found()[PLACE]] == [False, False, True, False, True]


def test_a_restart_reads_the_newest_file_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged file may hold many million rows; a group that is damaged has taught nothing."""
    bench, most = Bench(partitions=1), 0
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 20)
    bench.fill(payloads(300), days=0)
    finish(bench.recorder(file_rows=10**6, max_poll_records=300))
    (name,) = files(bench)
    learn = SeenSeries.learn

    def learning(seen: SeenSeries, rows: Any) -> None:
        nonlocal most
        most = max(most, len(rows))
        learn(seen, rows)

    monkeypatch.setattr(SeenSeries, "learn", learning)
    bench.broker.members.clear()
    again = bench.recorder()
    again.partitions.follow_assignment()
    assert most == 20
    assert len(again.partitions.seen[PLACE]) == 5
    damaged = bytearray(bench.storage.objects[name])
    damaged[len(damaged) // 2] ^= 1
    bench.storage.objects[name] = bytes(damaged)
    restarted(bench)
    assert bench.found() == bench.expected()


def test_names_without_end_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(partitions=1)
    bench.fill([(b"", b'{"host": "h%d", "ts": %d, "cpu": 1, "mem": 2}' % (n, n)) for n in range(200)], days=0)
    recorder = bench.recorder(file_rows=10)
    stream = replace(recorder.streams[0], max_series=50)
    recorder.partitions.stream_of = {"metrics": stream}
    while recorder.step():
        assert len(recorder.partitions.seen.get(PLACE, ())) <= 50 + 23
    assert "more than 50 series" in caplog.text
    recorder.close_files()
    assert bench.found() == bench.expected()


def test_records_of_features_have_no_series() -> None:
    settings = HOLDING.model_validate({"topic": "metrics", "kind": "features", "features": ["cpu", "mem"]})
    bench = Bench(partitions=1, settings=settings)
    bench.fill(payloads(50))
    finish(bench.recorder())
    assert bench.found() == {
        PLACE: [(*row[:4], False, "", row[6]) for row in bench.expected()[PLACE]],
    }
