"""The recorder on memory: every accepted row once, however polls cut; files that are closed, by a stop too."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TransientError
from pipeline.protocols import TopicPartition
from pipeline.stopping import Stop
from tests.arrows import arrow_of
from tests.recording import PLACE, Bench, counted, files, finish, payloads
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
