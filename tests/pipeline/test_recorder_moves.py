"""Partitions that move between recorders: rows are read again or kept, and who lost one does no harm."""

from typing import Any

import pytest

from pipeline.errors import AssignmentLost
from tests.recording import PLACE, Bench, finish, payloads, unflagged


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
