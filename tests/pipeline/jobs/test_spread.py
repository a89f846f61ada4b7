"""Parts, and backtests, that several processes make: the bytes are those of one."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.connectors.memory import MemoryStorage
from pipeline.connectors.snapshots import StoredSnapshots
from pipeline.errors import SnapshotError
from pipeline.interrupting import Stopped
from pipeline.jobs.backtest_run import run_side
from pipeline.jobs.blocks import Block, Divisible, SnapshotInput, joined, recut
from pipeline.jobs.features import feature_rows
from pipeline.jobs.parquet_input import ParquetInput, codes_input
from pipeline.jobs.reduce import decode_rows
from pipeline.jobs.spread import Begins, as_seen
from pipeline.protocols import OffsetRange, TopicPartition
from pipeline.snapshots import SnapshotRows
from tests.engines import Copies
from tests.reducing import contents, drawn, model, options, run, write_rows
from tests.replays import left_by, two_partitions
from tests.snapshots import FEATURES as OF_SNAPSHOTS
from tests.snapshots import NAMES, TOPIC_ID, at_day
from tests.snapshots import rows as snapshot_rows
from tests.streams import CPU


def files(tmp_path: Path, rows: int = 2_700) -> Path:
    """Write rows of two series as three files, none of which ends where a part does."""
    x_NF = drawn(rows)
    for number, begin in enumerate((0, 700, 1_950)):
        part = x_NF[begin : [700, 1_950, rows][number]]
        time_ms = 1_000 * (begin + np.arange(len(part))) - 5_000 * (np.arange(len(part)) % 17 == 0)
        write_rows(tmp_path / f"{number}.parquet", part, offset=begin + np.arange(len(part)), time_ms=time_ms)
    return tmp_path


def several_rows_a_record() -> StoredSnapshots:
    """Return snapshots of two partitions, the second one's topic made anew; a record has three rows."""
    snapshots = StoredSnapshots(MemoryStorage())
    for place, topic_id, day in ((0, TOPIC_ID, 0), (1, TOPIC_ID, 0), (1, "metrics#2", 1)):
        count = np.arange(60)
        made = SnapshotRows(
            TopicPartition("metrics", place),
            topic_id,
            OF_SNAPSHOTS,
            count // 3,
            count % 3,
            at_day(day) + count // 3,
            1000 * count,
            NAMES,
            count % 3,
            np.stack([100.0 * place + count, count + 0.5 * day], axis=1),
            count % 7 == 0,
        )
        snapshots.write("machines", made, OffsetRange(0, 20), at_day(day) + 19)
    return snapshots


def numbers(block: Block, name: str) -> Any:
    return block.columns[name]


def same(one: Block, other: Block) -> bool:
    names = all(np.array_equal(numbers(one, name), numbers(other, name)) for name in ("offset", "row", "time_ms"))
    return names and np.array_equal(one.values_NF, other.values_NF)


def test_snapshots_are_read_from_any_row_on_also_amid_a_record() -> None:
    source: Divisible = SnapshotInput(
        several_rows_a_record(), "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5))
    )
    whole, number = joined(list(source.blocks())), 0
    assert len(whole) == 180
    for block in source.blocks():
        for row in range(len(block)):
            rest = joined(list(source.blocks(source.place(block, row))))
            assert same(rest, whole.cut(number, 180)), number
            number += 1
    assert number == 180


class Without:
    """An input of which one row is gone since."""

    def __init__(self, source: SnapshotInput, gone: int) -> None:
        self._source, self._gone, self.place = source, gone, source.place

    def blocks(self, at: Any = None) -> Iterator[Block]:
        for block in self._source.blocks(at):
            kept_N = (numbers(block, "offset") * 3 + numbers(block, "row") != self._gone) | (
                numbers(block, "partition") > 0
            )
            yield replace(block.take(kept_N), begin=self._source.place(block, int(np.argmax(kept_N))))


@pytest.mark.parametrize(("gone", "told"), [(0, "rows 0 to 24"), (7, "rows 0 to 24"), (24, "rows 0 to 24")])
def test_rows_that_are_gone_since_they_were_seen_are_told(gone: int, told: str) -> None:
    source = SnapshotInput(several_rows_a_record(), "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5)))
    begins = Begins(source, 25, Copies(), 0)
    for block in source.blocks():
        begins.see(block)
    begins.end()
    items = [pickle.loads(item) for item in begins.items]
    assert [item.rows for item in items] == [25] * 7 + [5]
    for item in items:
        assert sum(len(block) for block in as_seen(source, item)) == item.rows
    less: Any = Without(source, gone)
    with pytest.raises(SnapshotError, match=f"^{told} are not those that were there at first"):
        list(as_seen(less, items[0]))
    assert sum(len(block) for block in as_seen(less, items[4])) == 25


def test_rows_that_came_in_place_of_the_first_since_they_were_seen_are_told() -> None:
    """As many as before, and the last one is the same: only where the part begins tells it."""
    storage = MemoryStorage()

    def keep(begin: int, end: int) -> None:
        range_ = OffsetRange(begin, end)
        StoredSnapshots(storage).write("machines", snapshot_rows(begin, end), range_, at_day(0) + end)

    def source() -> SnapshotInput:
        return SnapshotInput(StoredSnapshots(storage), "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5)))

    keep(0, 2)
    (first,) = storage.objects
    keep(4, 20)
    begins = Begins(source(), 10, Copies(), 0)
    for block in source().blocks():
        begins.see(block)
    begins.end()
    item = pickle.loads(begins.items[0])
    assert sum(len(block) for block in as_seen(source(), item)) == 10
    # They were too old, and others came in late.
    storage.delete(first)
    keep(2, 4)
    with pytest.raises(SnapshotError, match=r"^rows 0 to 9 are not those that were there at first"):
        list(as_seen(source(), item))


def test_files_are_read_from_any_row_on(tmp_path: Path) -> None:
    source, number = ParquetInput([files(tmp_path)], None), 0
    whole = joined(list(source.blocks()))
    for block in source.blocks():
        for row in range(0, len(block), 333):
            rest = joined(list(source.blocks(source.place(block, row))))
            assert np.array_equal(rest.values_NF, whole.values_NF[number + row :])
            assert np.array_equal(numbers(rest, "offset"), numbers(whole, "offset")[number + row :])
        number += len(block)


def test_names_stand_in_the_order_in_which_they_come() -> None:
    source = SnapshotInput(several_rows_a_record(), "machines", OF_SNAPSHOTS, True, (at_day(0), at_day(5)))
    first, *others = source.blocks()
    for rows in (50, 100):
        for block in recut([first.cut(1, len(first)), *others], rows):
            column: Any = block.columns["series"]
            assert column.code_N[0] == 0
            assert np.diff(np.maximum.accumulate(column.code_N)).max() <= 1
            assert max(column.code_N) == len(column.names) - 1


def test_codes_and_what_they_stand_for_are_the_same_bytes(tmp_path: Path) -> None:
    rows, made = files(tmp_path / "rows"), model(tmp_path / "model")
    run(rows, tmp_path / "here", made)
    run(rows, tmp_path / "there", made, engine=Copies())
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(list((tmp_path / "here").glob("part-*"))) == 3
    for name, engine in (("back_here", None), ("back_there", Copies())):
        decode_rows(
            codes_input(tmp_path / "here"),
            options(tmp_path / name, None, engine=engine),
            tmp_path / "here",
            lambda *_: None,
        )
    assert contents(tmp_path / "back_there") == contents(tmp_path / "back_here")


@pytest.mark.parametrize("window", [5, 40])
def test_windows_reach_into_the_parts_before(tmp_path: Path, window: int) -> None:
    rows, made = files(tmp_path / "rows"), model(tmp_path / "model")
    for name, engine in (("here", None), ("there", Copies())):
        source = ParquetInput([rows], None)
        report = feature_rows(
            source, options(tmp_path / name, made, engine=engine), window, "rows", lambda *_: None
        )
        assert report["late"] > 100
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.parametrize("engines", [(None, Copies()), (Copies(), None), (Copies(), Copies())])
def test_a_run_that_was_stopped_goes_on_with_either(tmp_path: Path, engines: tuple[Any, Any]) -> None:
    rows, made = files(tmp_path / "rows"), model(tmp_path / "model")

    def features(name: str, progress: Any, **further: Any) -> None:
        feature_rows(ParquetInput([rows], None), options(tmp_path / name, made, **further), 5, "rows", progress)

    def stop(what: str, done: float, of: float | None) -> None:
        if what == "writing" and done >= 1_000:
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match=r"stopped: 1,000 rows in 1 parts are whole in .*with --resume"):
        features("cut", stop, engine=engines[0])
    features("cut", lambda *_: None, engine=engines[1], resume=True)
    features("whole", lambda *_: None)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_partitions_that_are_judged_elsewhere_come_to_the_same(tmp_path: Path) -> None:
    opening = two_partitions(tmp_path)
    counted = {}
    for name, engine in (("here", None), ("there", Copies())):
        told: list[int] = []
        elsewhere = None if engine is None else (engine, opening)
        ran = run_side(
            *(opening.replay(CPU), "live", None, None, told.append, tmp_path / name, True), elsewhere=elsewhere
        )
        counted[name] = sum(told)
        assert {alert.series for _, alert in ran.result.tally.alerts} >= {"a", "c"}
        assert "<svg" in (tmp_path / name / "report.html").read_text()
    assert counted == {"here": 1_200, "there": 1_200}
    assert left_by(tmp_path / "there") == left_by(tmp_path / "here")


def test_a_range_without_rows_is_told_as_ever(tmp_path: Path) -> None:
    opening = two_partitions(tmp_path)
    replay = opening.replay(CPU)
    with pytest.raises(SnapshotError, match="its snapshots hold no rows of that time"):
        run_side(replay, "live", 0, 1, lambda _: None, None, False, elsewhere=(Copies(), opening))
